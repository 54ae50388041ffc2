"""Films of walks between the same latents as training goes on."""

from collections.abc import Iterator
from pathlib import Path

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.nn import functional as F

from lightning_gan import interpolation, randomness
from lightning_gan.callbacks.every_images import EveryImages
from lightning_gan.callbacks.interrupt import stopped_by
from lightning_gan.files import written_aside
from lightning_gan.gan import GAN
from lightning_gan.sampling import cycle_labels
from lightning_gan.wandb_run import wandb_loggers

BATCH_SIZE = 64
MAX_SIZE = 128
"""Pixels of an image's side in a film: of 1024 a film would be 160 MB, and take minutes to write."""


class Walks(EveryImages):
    """Writes `walks/<images seen>.gif`: walks through the averaged generator, side by side, as `interpolate` draws them.

    Large images are reduced, by a whole factor, to between `MAX_SIZE` / 2 and `MAX_SIZE` pixels.

    They visit the same latents all along, and go back to their starts; each walk of a conditional generator is of one class.

    Args:
        every_images: images between two films; 0 = only at the end.
        rows: how many walks; 0 = no films.
        num: latents that each visits.
        steps: from one of them to the next.
        fps: frames in a second.
    """

    def __init__(self, every_images: int = 50_000, rows: int = 8, num: int = 4, steps: int = 8, fps: int = 10) -> None:
        super().__init__(every_images)
        if rows < 0 or num < 2 or steps < 1 or not 1 <= fps <= 50:
            raise ValueError(
                "a film needs rows of at least 0, num of at least 2, steps of at least 1 and fps of 1 to 50, and they are "
                f"{rows}, {num}, {steps} and {fps}"
            )
        self.rows = rows
        self.num = num
        self.steps = steps
        self.fps = fps

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if stopped_by(trainer) is None:  # a film may take longer than is left, and the last checkpoint comes after it
            super().on_train_end(trainer, pl_module)

    def act(self, trainer: Trainer, gan: GAN) -> None:
        if self.rows == 0 or not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir, "walks", f"{gan.images_seen:09d}.gif")
        frames = self.num * self.steps
        film = interpolation.drawn(self._images(gan, frames * self.rows), ".gif", self.rows, frames, self.fps)
        try:
            with written_aside(path) as aside:
                aside.write_bytes(film)
        except OSError as error:  # a film less is no reason to stop
            rank_zero_warn(f"The film {path} could not be written: {error.strerror}.")
            return
        for logger in wandb_loggers(trainer):
            logger.log_picture("walks", path, gan.images_seen, max(0, trainer.global_step - 1))

    def _images(self, gan: GAN, total: int) -> Iterator[Tensor]:
        """Generate the images of all frames, frame by frame: uint8 (n, C, H, W), with n up to `BATCH_SIZE`."""
        generator, num = gan.generator, self.num * self.rows
        visited = randomness.numbered_latents(generator.latents, gan.seed, 0, num).unflatten(0, (self.num, self.rows))
        latents = interpolation.walks(visited, self.steps, spherical=generator.latent_distribution == "normal")
        y = cycle_labels(None, self.rows, generator.num_classes)
        for start in range(0, total, BATCH_SIZE):
            numbers = torch.arange(start, min(start + BATCH_SIZE, total))
            labels = None if y is None else y[numbers % self.rows].to(gan.device)
            images = gan.sample(latents(start, start + len(numbers)).to(gan.device), labels)
            factor = -(-max(images.shape[2:]) // MAX_SIZE)
            yield (images if factor == 1 else F.avg_pool2d(images.float(), factor).round().byte()).cpu()
