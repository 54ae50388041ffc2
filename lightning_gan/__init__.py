"""Train GANs, and believe the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from lightning_gan.artefacts.portable import PortableGenerator

__version__ = "0.1.0"


def load_generator(path: str | Path, half_life: float | None = None) -> PortableGenerator:
    """Read a trained generator from a checkpoint or an export, which can hold nothing but data.

    Args:
        path: a checkpoint, the folder of an export, or the `generator.safetensors` in it. A network class of your own must have
            been imported.
        half_life: that of one of the run's further averages, in images; None = the first one, or the one that was exported.

    Raises:
        lightning_gan.errors.UserError: it cannot be read.
    """
    from lightning_gan.artefacts.portable import PortableGenerator  # torch, for which `--help` does not wait
    from lightning_gan.artefacts.trained import read_trained

    return PortableGenerator(read_trained(path, half_life))
