"""DiffAugment, Zhao et al. 2020 "Differentiable Augmentation for Data-Efficient GAN Training"."""

import torch
from torch import Tensor

from lightning_gan.augment.base import Augmentation
from lightning_gan.augment.pixels import cutout_mask, take
from lightning_gan.randomness import rand, randint
from lightning_gan.schedules import Schedule


class DiffAugment(Augmentation):
    """Color, then translation, then cutout, of every image, Zhao et al. 2020, Section 4.

    Color is brightness moved by U(-0.5, 0.5), then saturation times U(0, 2), then contrast times U(0.5, 1.5). A single channel
    has no saturation to change.

    Args:
        color: whether colors change.
        translation: largest move, a share of height and of width. Moves are whole pixels; what moves in is zero, mid grey.
        cutout: side of what is set to zero, a share of height and of width. Its centre is anywhere in the image; 0 for none.
        probability: that an image is augmented at all.
    """

    def __init__(
        self, color: bool = True, translation: float = 0.125, cutout: float = 0.5, probability: float | Schedule = 1.0
    ) -> None:
        super().__init__(probability)
        for name, share in {"translation": translation, "cutout": cutout}.items():
            if not 0 <= share <= 1:
                raise ValueError(f"DiffAugment's {name} must lie between 0 and 1, not at {share}")
        self.color = color
        self.translation = translation
        self.cutout = cutout

    def forward(self, x: Tensor) -> Tensor:
        happens = rand(len(x), 1, 1, 1, device=x.device) < self.p
        augmented = _recolor(x) if self.color else x
        augmented = _translate(augmented, self.translation)
        augmented = augmented.masked_fill(cutout_mask(x, self.cutout), 0)
        return torch.where(happens, augmented, x).to(x.dtype)  # (N, C, H, W)


def _recolor(x: Tensor) -> Tensor:
    brightness, saturation, contrast = rand(len(x), 3, 1, 1, 1, device=x.device).unbind(1)  # (N, 1, 1, 1) each
    x = x + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)  # (N, 1, H, W)
    x = grey + 2 * saturation * (x - grey)
    mean = x.mean((1, 2, 3), keepdim=True)  # (N, 1, 1, 1)
    return mean + (contrast + 0.5) * (x - mean)


def _translate(x: Tensor, share: float) -> Tensor:
    """Move each image by whole pixels: `int(share * size)` at most to each side, all moves alike likely."""
    rows, columns = (_moved(len(x), size, int(share * size), x.device) for size in x.shape[2:])  # (N, H), (N, W)
    height, width = x.shape[2:]
    moved = take(x, rows.clamp(0, height - 1).unsqueeze(2), columns.clamp(0, width - 1).unsqueeze(1))
    outside = ((rows < 0) | (rows >= height)).unsqueeze(2) | ((columns < 0) | (columns >= width)).unsqueeze(1)  # (N, H, W)
    return moved.masked_fill(outside.unsqueeze(1), 0)


def _moved(n: int, size: int, most: int, device: torch.device) -> Tensor:
    """Say where each row, or column, comes from: (N, size)."""
    return torch.arange(size, device=device) - randint(-most, most + 1, n, 1, device=device)
