"""How long training takes, by the clock on the wall."""

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from lightning_gan.callbacks.evaluation import Evaluation
from lightning_gan.files import written_aside
from lightning_gan.gan import GAN
from lightning_gan.run_folder import Claim
from lightning_gan.tracking import append
from lightning_gan.wandb_run import wandb_loggers

COLUMNS = ("images_seen", "seconds", "images_per_second")
Row = tuple[int, float, float]


class Speed(Callback, Logger):
    """Writes `speed.csv`: how long training took to get where it is, since the run's first start.

    Scoring, and what comes before the first step, do not count. A run that is gone on with counts on from the rows up to there.

    It is a logger, too, and so is called for the rows of `metrics.csv` alone, for which training has just waited for a GPU;
    no other step has anything to do with it.

    Args:
        run_dir: the run folder.
        claim: to it, without which nothing is written.
    """

    EVERY = 10.0
    """Seconds between rows; there is one more for each checkpoint, for a resumed run to count on from."""

    def __init__(self, run_dir: Path, claim: Claim | None = None) -> None:
        super().__init__()
        self.path = run_dir / "speed.csv"
        self._claim = claim
        self._trainer: Trainer | None = None
        self._written = self._logged = (0, 0.0)

    @property
    def name(self) -> str:
        return "speed"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Leave these to `config.yaml`."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or self._trainer is not None:  # a rollback costs its time
            return
        images_seen = _images_seen(pl_module)
        rows = self._rows_until(images_seen)
        self._trainer = trainer
        self._began = time.monotonic() - (rows[-1][1] if rows else 0.0)
        self._scoring_before = self._scoring()
        self._written = self._logged = (images_seen, self._seconds())
        self._rewrite(rows)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self._trainer is None or "epoch" not in metrics:  # which the rows of scores do not have
            return
        now = int(metrics["images_seen"]), self._seconds()
        values = {"throughput/images_per_second": _rate(self._logged, now), "throughput/hours": now[1] / 3600}
        for logger in wandb_loggers(self._trainer):
            logger.log_metrics({**values, "images_seen": now[0]}, step)
        self._logged = now
        if now[1] - self._written[1] >= self.EVERY:
            self._write(*now)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._trainer is not None:
            self._write(_images_seen(pl_module), self._seconds())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._trainer is not None:
            self._write(_images_seen(pl_module), self._seconds())

    def _seconds(self) -> float:
        return time.monotonic() - self._began - (self._scoring() - self._scoring_before)

    def _scoring(self) -> float:
        assert self._trainer is not None
        callbacks: list[Callback] = self._trainer.callbacks  # type: ignore[attr-defined]  # a connector sets it
        return sum(callback.seconds for callback in callbacks if isinstance(callback, Evaluation))

    def _write(self, images_seen: int, seconds: float) -> None:
        if images_seen == self._written[0]:  # the best checkpoint is saved where the last one was
            return
        if self._claim is not None:
            self._claim.check()
        rate = _rate(self._written, (images_seen, seconds))
        self._written = images_seen, seconds
        try:
            append(self.path, _line(images_seen, seconds, rate))
        except OSError as error:  # a row less is no reason to stop
            rank_zero_warn(f"A row of {self.path} could not be written: {error.strerror}.")

    def _rows_until(self, images_seen: int) -> list[Row]:
        """Read the rows of what is not trained again, as far as they are whole."""
        rows: list[Row] = []
        try:
            with self.path.open(newline="") as file:
                for row in csv.DictReader(file):
                    rows.append((int(row[COLUMNS[0]]), float(row[COLUMNS[1]]), float(row[COLUMNS[2]])))
        except (OSError, ValueError, KeyError, TypeError, csv.Error):  # none, or half a row of a start that was killed
            pass
        while rows and rows[-1][0] > images_seen:
            rows.pop()
        return rows

    def _rewrite(self, rows: list[Row]) -> None:
        try:
            with written_aside(self.path) as aside:
                aside.write_text("".join([",".join(COLUMNS) + "\n", *(_line(*row) for row in rows)]))
        except OSError as error:
            rank_zero_warn(f"{self.path} could not be written: {error.strerror}.")


def _line(images_seen: int, seconds: float, rate: float) -> str:
    return f"{images_seen},{seconds:.2f},{rate:.1f}\n"


def _rate(before: tuple[int, float], now: tuple[int, float]) -> float:
    """Divide images by seconds; after a rollback there are none."""
    return max(0, now[0] - before[0]) / max(1e-9, now[1] - before[1])


def _images_seen(module: LightningModule) -> int:
    assert isinstance(module, GAN)
    return module.images_seen
