"""The images: where they come from, how they are prepared, in what order they are seen."""

from lightning_gan.data.base import Batch, DataModule
from lightning_gan.data.celeba import CelebA
from lightning_gan.data.digits import Digits
from lightning_gan.data.folder import ImageFolder
from lightning_gan.data.mnist import MNIST

__all__ = ["MNIST", "Batch", "CelebA", "DataModule", "Digits", "ImageFolder"]
