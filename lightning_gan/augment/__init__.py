"""Augmentations of what D sees."""

from lightning_gan.augment.ada import ADA
from lightning_gan.augment.base import Augmentation
from lightning_gan.augment.diffaugment import DiffAugment

__all__ = ["ADA", "Augmentation", "DiffAugment"]
