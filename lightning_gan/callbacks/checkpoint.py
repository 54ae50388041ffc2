"""Checkpoints that are whole or not there."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from lightning_gan.callbacks.every_images import EveryImages
from lightning_gan.checkpoints import FOLDER, PREVIOUS, read_checkpoint
from lightning_gan.errors import UserError
from lightning_gan.files import sync, written_aside
from lightning_gan.gan import GAN
from lightning_gan.processes import from_first
from lightning_gan.run_folder import Claim
from lightning_gan.tracking import MetricsCSV
from lightning_gan.wandb_run import TolerantWandbLogger, wandb_loggers


class LastCheckpoint(EveryImages, Checkpoint):
    """Keeps `checkpoints/last.ckpt` in the run folder up to date: everything needed to go on training or to sample.

    The one before it is kept as `previous.ckpt`, in case the disk does not give back what was written.

    Args:
        every_images: images between two saves; 0 = only at the end.
    """

    def __init__(self, every_images: int = 50_000) -> None:
        super().__init__(every_images)

    def act(self, trainer: Trainer, gan: GAN) -> None:
        trainer.save_checkpoint(last_checkpoint(trainer))
        for logger in wandb_loggers(trainer):
            logger.saved(last_checkpoint(trainer), gan.images_seen)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        assert isinstance(pl_module, GAN)
        if trainer.ckpt_path is None or trainer.fast_dev_run:  # type: ignore[attr-defined]  # a connector sets it
            return
        if from_first(lambda: Path(str(trainer.ckpt_path)) == last_checkpoint(trainer), pl_module.device):
            self._acted_at = pl_module.images_seen  # it is there: training starts from it
        else:  # from now on the run's folder is all that it takes to go on
            self._act(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Note how long `metrics.csv` is, for a resumed run to cut it back to, and where W&B's axis is."""
        _settle(checkpoint)
        checkpoint["callbacks"].pop("Timer", None)  # `max_time` is that of one start
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                checkpoint["metrics_rows"] = logger.sync()
            elif isinstance(logger, TolerantWandbLogger):
                checkpoint["wandb_repeated"] = logger.repeated


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final name and renames it, so that a kill at any moment leaves the old or the new one.

    (The stock class goes through `$TMPDIR`, and a move from another file system is a copy that can be cut short.)

    Args:
        claim: to the run folder, without which nothing is written.
    """

    def __init__(self, claim: Claim | None = None) -> None:
        super().__init__()
        self.claim = claim

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write and rename.

        Raises:
            UserError: the disk is full, the folder cannot be written to, or the claim to it has ended.
        """
        path = Path(path)
        try:
            self._check()
            with written_aside(path) as aside:
                with aside.open("wb") as file:
                    torch.save(checkpoint, file)
                sync(aside)  # which may take long: the claim is looked at just before the file takes its place
                self._check()
                _keep(path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            reason = error.strerror if isinstance(error, OSError) else f"{_free(path):,} bytes were left on its disk"
            kept = " The previous checkpoint is intact." if path.exists() else ""
            raise UserError(f"The checkpoint {path} could not be written: {reason}.{kept}") from error

    def _check(self) -> None:
        if self.claim is not None:
            self.claim.check()

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint as `read_checkpoint` does: data alone, on the CPU, whatever Lightning asks for."""
        return read_checkpoint(Path(path))


def last_checkpoint(trainer: Trainer) -> Path:
    """Say where the last checkpoint is kept; only the first process may know the run folder, here and below."""
    return Path(trainer.default_root_dir, FOLDER, "last.ckpt")


def best_checkpoint(trainer: Trainer) -> Path:
    """Say where the best one is, which is never that of a collapsed generator; the last may be."""
    return Path(trainer.default_root_dir, FOLDER, "best.ckpt")


def checkpoint_to_keep(trainer: Trainer) -> Path | None:
    """Find the last checkpoint there is: this run's, or the one that it started from."""
    return next((path for path in (last_checkpoint(trainer), Path(trainer.ckpt_path or "")) if path.is_file()), None)


def _settle(checkpoint: dict[str, Any]) -> None:
    """Let Lightning's counts of epochs and batches follow from the number of batches alone, and not from where it saves.

    Saved after an epoch's last batch they would be others in a run that is gone on with, and when training stops amid an epoch
    Lightning counts that as a whole one.
    """
    progress = checkpoint["loops"]["fit_loop"]
    batches, epochs = progress["epoch_loop.batch_progress"], progress["epoch_progress"]
    if batches["is_last_batch"]:
        batches["current"]["ready"] = 0
        batches["is_last_batch"] = False
    unfinished = batches["current"]["ready"] > 0
    for counts in batches["total"], batches["current"]:
        counts.update(dict.fromkeys(counts, counts["ready"]))
    for counts in epochs["total"], epochs["current"]:
        counts["ready"] = counts["started"]
        counts["processed"] = counts["completed"] = counts["started"] - unfinished
    checkpoint["epoch"] = epochs["current"]["completed"]
    progress["epoch_loop.state_dict"]["_batches_that_stepped"] = batches["total"]["ready"]


def _keep(path: Path) -> None:
    """Let the file that is about to be replaced keep another name."""
    if path.name in PREVIOUS and path.exists():
        kept = path.with_name(PREVIOUS[path.name])
        aside = kept.with_name(f".{kept.name}.partial")
        aside.unlink(missing_ok=True)
        try:
            os.link(path, aside)
        except OSError:  # a file system without links: for a moment there is only the previous one
            path.replace(kept)
        else:
            aside.replace(kept)


def _free(path: Path) -> int:
    return shutil.disk_usage(path.parent).free
