"""The images: where they come from, how they are prepared, in what order they are seen."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_gan.data.base import Batch, DataModule
    from lightning_gan.data.celeba import CelebA
    from lightning_gan.data.digits import Digits
    from lightning_gan.data.folder import ImageFolder
    from lightning_gan.data.mnist import MNIST

__all__ = ["MNIST", "Batch", "CelebA", "DataModule", "Digits", "ImageFolder"]


def __getattr__(name: str) -> object:
    """Import what is asked for, and only then: the processes that decode images need none of it, and it takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # All at once, because the command line knows a data set by its bare name only once it has been imported.
    for home in ("base", "celeba", "digits", "folder", "mnist"):
        found = vars(import_module(f"{__name__}.{home}"))
        globals().update({public: found[public] for public in __all__ if public in found})
    return globals()[name]
