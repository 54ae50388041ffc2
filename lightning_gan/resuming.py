"""Going on with a run, from its folder alone."""

import math
import sys
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Timer

from lightning_gan.checkpoints import newest
from lightning_gan.data import DataModule
from lightning_gan.errors import UserError
from lightning_gan.run_folder import DONE


class Resumed:
    """A run that is gone on with.

    Args:
        folder: the run folder.
        max_images: the length of training.

    Attributes:
        checkpoint: the newest whole one, or None if the run was killed before it had saved any.
        ckpt_path: its file.
        done: whether the run had come to its end.

    Raises:
        UserError: none of its checkpoints is whole, or it is complete.
    """

    def __init__(self, folder: Path, max_images: int) -> None:
        self.folder = folder
        self.done = (folder / DONE).exists()
        self.look()
        if self.done and max_images <= self.images_seen:
            raise UserError(
                f"{folder} is complete, after {self.images_seen:,} images. Raise --max_images={max_images} to go on."
            )

    def look(self) -> None:
        """Find the newest checkpoint. An earlier start may save until the folder is claimed."""
        found = newest(self.folder)
        self.ckpt_path = found[0] if found else None
        self.checkpoint = found[1] if found else None
        self._passed_over = found[2] if found else []

    @property
    def images_seen(self) -> int:
        return int(self.checkpoint["lightning_gan"]["images_seen"]) if self.checkpoint else 0

    def take_over(self) -> tuple[dict[str, Any] | None, int, int]:
        """Look again, now that the folder is claimed, and put damaged checkpoints out of the way, with a word about them.

        Returns:
            The checkpoint; how many rows of `metrics.csv` stand, as what came after it is trained again; and how many steps
            W&B's axis is ahead.
        """
        self.look()
        for path, reason in self._passed_over:
            aside = path.with_stem(f"{path.stem}-damaged")
            path.replace(aside)
            print(f"{reason} It is {aside} now, and the run goes on from {self.ckpt_path}.", flush=True)
        facts = self.checkpoint or {}
        rows = int(facts.get("metrics_rows", 0))
        if self.done and not self._passed_over:  # the last evaluation came after the last checkpoint, and stands
            rows = sys.maxsize
        return self.checkpoint, rows, int(facts.get("wandb_repeated", 0))

    def check_data(self, data: DataModule) -> None:
        """Refuse data that would make it another run.

        Raises:
            UserError: other images, another order of them or another batch size.
        """
        if self.checkpoint is None:
            return
        now, before = data.identity, self.checkpoint["lightning_gan"].get("data", {})
        for name, value in before.items():
            if now.get(name, value) != value:
                what = f"The data {data.name} have" if name == "fingerprint" else f"--data.{name} is {now[name]}, and has"
                raise UserError(
                    f"{what} changed since {self.folder} was started{'' if name == 'fingerprint' else f' with {value}'}, which "
                    f"would make it another run. To start one from its weights, use -c and --ckpt_path {self.ckpt_path}."
                )

    def describe(self, processes: int) -> str:
        """One line for people.

        Args:
            processes: that train it now.
        """
        if self.checkpoint is None:
            return "from the start: no checkpoint had been saved"
        record = self.checkpoint["lightning_gan"]
        line = f"after {record['images_seen']:,} images"
        if (before := record.get("processes", processes)) != processes:
            line += f"; {before} processes then, {processes} now: the same images and latents, other roundings and dropout"
        return line


class NothingLeft(Callback):
    """Ends a training that has no more steps to take where it starts, so that what is due at its end is done."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True


def out_of_time(trainer: Trainer) -> bool:
    """Whether training has ended for `max_time`, and can be gone on with."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # a connector sets it
    return any(isinstance(timer, Timer) and (timer.time_remaining() or 0) <= 0 for timer in callbacks)


def last_step(
    limits: tuple[int, int, int], batch_size: int, checkpoint: dict[str, Any] | None, resumed: Resumed | None
) -> tuple[int, bool]:
    """Say at which step training ends, counted from a checkpoint on if there is one.

    Args:
        limits: `max_images`, `max_steps` and `max_epochs`; -1 = none.

    Returns:
        The step; and whether a run that is gone on with has taken all of its steps, but was killed before its end. The step is
        one that it does not take then, as Lightning would not start training for none.

    Raises:
        UserError: there would be nothing to train.
    """
    images = steps = 0
    max_images, max_steps, max_epochs = limits
    if checkpoint is not None:
        images, steps = checkpoint["lightning_gan"]["images_seen"], checkpoint["global_step"]
        over = {
            f"seen {images:,} images already. Raise --max_images={max_images}.": max_images <= images,
            f"taken {steps:,} steps already. Raise --trainer.max_steps={max_steps}.": -1 < max_steps <= steps,
            f"trained for {checkpoint['epoch']:,} epochs already. Raise --trainer.max_epochs={max_epochs}.": (
                -1 < max_epochs <= checkpoint["epoch"]
            ),
        }
        for words, is_over in over.items():
            if is_over and resumed is not None and not resumed.done:
                return steps + 1, True
            if is_over:
                raise UserError(f"The checkpoint has {words}")
    end = steps + math.ceil((max_images - images) / batch_size)
    return (end if max_steps == -1 else min(end, max_steps)), False
