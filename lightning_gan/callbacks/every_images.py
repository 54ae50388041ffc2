"""A callback whose interval is counted in images."""

from abc import ABC, abstractmethod
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_gan.gan import GAN


class EveryImages(Callback, ABC):
    """Acts when training has seen another `every_images` images, and once more at its end.

    Args:
        every_images: images between two acts; 0 = only at the end.
    """

    def __init__(self, every_images: int) -> None:
        if every_images < 0:
            raise ValueError(f"{type(self).__name__} cannot act every {every_images} images")
        self.every_images = every_images
        self._seen_before = 0
        self._acted_at = -1

    @abstractmethod
    def act(self, trainer: Trainer, gan: GAN) -> None: ...

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._acted_at = -1
        self._seen_before = _gan(pl_module).images_seen

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        gan, every = _gan(pl_module), self.every_images
        before, self._seen_before = self._seen_before, gan.images_seen
        if every and gan.images_seen // every > before // every:
            self._act(trainer, gan)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if _gan(pl_module).images_seen != self._acted_at:
            self._act(trainer, _gan(pl_module))

    def _act(self, trainer: Trainer, gan: GAN) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # a connector sets it
            self._acted_at = gan.images_seen
            self.act(trainer, gan)


def _gan(module: LightningModule) -> GAN:
    assert isinstance(module, GAN)
    return module
