"""The real images that generated ones are compared with."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True)
class RealImages:
    """A data set, as evaluation sees it.

    Attributes:
        train: (N, C, H, W) uint8, what the generator learned from.
        train_labels: (N,) int64, where there are classes.
        held_out: (M, C, H, W) uint8, what no network has seen; M may be 0.
        held_out_labels: (M,) int64, where there are classes.
        num_classes: 0 where there are none.
        fingerprint: digest of all of this.
        cache: folder for what is computed from it.
    """

    train: Tensor
    train_labels: Tensor | None
    held_out: Tensor
    held_out_labels: Tensor | None
    num_classes: int
    fingerprint: str
    cache: Path
