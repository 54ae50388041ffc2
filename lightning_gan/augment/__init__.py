"""Augmentations of what D sees."""

from lightning_gan.augment.base import Augmentation

__all__ = ["Augmentation"]
