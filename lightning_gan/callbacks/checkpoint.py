"""Checkpoints that are whole or not there."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from lightning_gan.callbacks.every_images import EveryImages
from lightning_gan.errors import UserError
from lightning_gan.gan import GAN


class LastCheckpoint(EveryImages, Checkpoint):
    """Keeps `checkpoints/last.ckpt` in the run folder up to date: everything needed to go on training or to sample.

    Args:
        every_images: images between two saves; 0 = only at the end.
    """

    def __init__(self, every_images: int = 50_000) -> None:
        super().__init__(every_images)

    def act(self, trainer: Trainer, gan: GAN) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir, "checkpoints", "last.ckpt"))


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final name and renames it, so that a kill at any moment leaves the old or the new one.

    (The stock class goes through `$TMPDIR`, and a move from another file system is a copy that can be cut short.)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write and rename.

        Raises:
            UserError: the disk is full, or the folder cannot be written to.
        """
        path = Path(path)
        aside = path.with_name(f".{path.name}.partial")  # one fixed name, so that killed writes do not pile up
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            reason = error.strerror if isinstance(error, OSError) else f"{_free(path):,} bytes were left on its disk"
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            kept = " The previous checkpoint is intact." if path.exists() else ""
            raise UserError(f"The checkpoint {path} could not be written: {reason}.{kept}") from error


def _free(path: Path) -> int:
    return shutil.disk_usage(path.parent).free
