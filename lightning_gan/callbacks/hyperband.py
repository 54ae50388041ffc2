"""Early ends of a sweep's runs."""

from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_gan.callbacks.evaluation import Evaluation
from lightning_gan.processes import from_first
from lightning_gan.sweep_file import Sweep
from lightning_gan.sweep_folder import FILE, STOPPED, read_run, run_folders


class Hyperband(Callback):
    """Ends a run of a sweep that is behind the others, after Li et al. 2018, where the sweep's file has `early_terminate`.

    It asks W&B's engine after each evaluation. Those numbered `min_iter * eta ** k` count: a run goes on if its best score so
    far is as good as the best 1 / `eta` of all runs' at the last of these. This is a part of the run itself, and so works the
    same on one machine, in an array of jobs and in several processes.

    Args:
        sweep: the sweep's folder.
    """

    def __init__(self, sweep: str) -> None:
        self._folder = Path(sweep)
        self._sweep: Sweep | None = None
        self._asked_at = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._sweep = Sweep(self._folder / FILE)
            Path(trainer.default_root_dir, STOPPED).unlink(missing_ok=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # An evaluation is a checkpoint's, and so comes after all other callbacks: this sees that of the step before.
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # a connector sets it
        (evaluation,) = (callback for callback in callbacks if isinstance(callback, Evaluation))
        if evaluation.evaluated_at == self._asked_at:
            return
        self._asked_at = evaluation.evaluated_at
        if from_first(lambda: self._is_behind(Path(trainer.default_root_dir)), pl_module.device):
            evaluation.num_samples = 0  # it has been scored where it ends
            trainer.should_stop = True

    def _is_behind(self, run: Path) -> bool:
        assert self._sweep is not None
        others = [folder for folder in run_folders(self._folder) if folder.resolve() != run.resolve()]
        own, *rest = ([score for _, score in read_run(folder, self._sweep.metric).scores] for folder in (run, *others))
        if behind := self._sweep.behind(own, rest):
            (run / STOPPED).touch()
        return behind
