"""What happened to a run, for whoever reads about it later."""

import json
from datetime import UTC, datetime
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from lightning_gan.callbacks.interrupt import stopped_by
from lightning_gan.gan import GAN
from lightning_gan.resuming import Resumed
from lightning_gan.run_folder import Claim
from lightning_gan.tracking import append


class EventLog(Callback):
    """Writes `events.jsonl`: what health has warned of, rollbacks, and when the run was stopped and gone on with.

    Each line is an object with `time` (UTC), `images_seen`, `kind` and `text`.

    Args:
        run_dir: the run folder.
        claim: to it, without which nothing is written.
        resumed: the run that is gone on with, if it is.
    """

    def __init__(self, run_dir: Path, claim: Claim | None = None, resumed: Resumed | None = None) -> None:
        self.path = run_dir / "events.jsonl"
        self._claim = claim
        self._resumed = resumed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, GAN)
        if self._resumed is not None and trainer.is_global_zero:
            self.add("resumed", f"Gone on {self._resumed.describe(trainer.world_size)}.", pl_module.images_seen)
        self._resumed = None  # a rollback is something else

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, GAN)
        if (received := stopped_by(trainer)) and trainer.is_global_zero:
            self.add("stopped", f"Stopped by {received.name}.", pl_module.images_seen)

    def add(self, kind: str, text: str, images_seen: int) -> None:
        """Write a line. To be called in the first process."""
        if self._claim is not None:
            self._claim.check()
        time = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"time": time, "images_seen": images_seen, "kind": kind, "text": text}, ensure_ascii=False)
        try:
            append(self.path, f"{line}\n")
        except OSError as error:  # a line less is no reason to stop
            rank_zero_warn(f"A line of {self.path} could not be written: {error.strerror}.")
