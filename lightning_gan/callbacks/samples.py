"""Pictures of the same latents as training goes on."""

from pathlib import Path

import torch
from PIL import Image
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_gan import randomness
from lightning_gan.callbacks.every_images import EveryImages
from lightning_gan.gan import GAN
from lightning_gan.images import grid
from lightning_gan.wandb_run import wandb_loggers

MAX_CLASS_ROWS = 16


class SampleGrid(EveryImages):
    """Writes `samples/<images seen>.png`, always of the same latents, and once `samples/real.png` for comparison.

    Each row of a conditional generator is one class.

    Args:
        every_images: images between two pictures; 0 = only at the end.
        columns: images in a row.
        rows: rows of an unconditional generator.
    """

    def __init__(self, every_images: int = 10_000, columns: int = 8, rows: int = 8) -> None:
        super().__init__(every_images)
        if columns < 1 or rows < 1:
            raise ValueError(f"a grid needs columns and rows, not {columns} and {rows}")
        self.columns = columns
        self.rows = rows

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        assert isinstance(pl_module, GAN)
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # a connector sets it
            data = trainer.datamodule  # type: ignore[attr-defined]  # a connector sets it
            real, _ = data.real_images(self.columns * self.rows)
            self._write(trainer, "real", real, pl_module.images_seen)

    def act(self, trainer: Trainer, gan: GAN) -> None:
        if trainer.is_global_zero:
            rows = min(gan.generator.num_classes, MAX_CLASS_ROWS) or self.rows
            z = randomness.numbered_latents(gan.generator.latents, gan.seed, 0, rows * self.columns).to(gan.device)
            y = torch.arange(rows, device=gan.device).repeat_interleave(self.columns) if gan.generator.num_classes else None
            self._write(trainer, f"{gan.images_seen:09d}", gan.sample(z, y), gan.images_seen)

    def _write(self, trainer: Trainer, name: str, images: Tensor, images_seen: int) -> None:
        path = Path(trainer.default_root_dir, "samples", f"{name}.png")
        aside = path.with_name(f".{path.name}")
        known = name == "real" and path.exists()  # to W&B, too, of a run that is gone on with
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(grid(images, self.columns)).save(aside)
            aside.replace(path)
        except OSError as error:  # a picture less is no reason to stop
            rank_zero_warn(f"The picture {path} could not be written: {error.strerror}.")
            return
        for logger in wandb_loggers(trainer) * (not known):
            logger.log_picture("real" if name == "real" else "samples", path, images_seen, max(0, trainer.global_step - 1))
