"""Images between their two forms: uint8 in [0, 255] on disk and on screen, float in [-1, 1] in the networks."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

LINE = 2
"""Pixels between the images of a grid."""


def to_float(images: Tensor) -> Tensor:
    """Scale uint8 images (any shape) to float32 in [-1, 1]."""
    return images.to(torch.float32).mul_(2 / 255).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Bring float images (any shape) in [-1, 1] to uint8: rounded and clamped, so that nothing truncates or wraps around."""
    return images.detach().float().add(1).mul_(255 / 2).round_().clamp_(0, 255).to(torch.uint8)


def grid(images: Tensor, columns: int) -> NDArray[np.uint8]:
    """Lay images out for the eye, row by row with white lines between, and small ones enlarged.

    Args:
        images: uint8 (N, C, H, W). Of channels that are neither grey nor RGB, only the first one or three are shown.
        columns: images in a row.

    Returns:
        One picture, (height, width) if C is 1 or 2 and (height, width, 3) otherwise.
    """
    images = images[:, : 3 if images.shape[1] > 2 else 1]
    enlarge = max(1, 64 // images.shape[-1])  # small images are hard to judge
    page = images.cpu().repeat_interleave(enlarge, 2).repeat_interleave(enlarge, 3)
    columns = min(columns, len(page))
    if len(page) > 1:  # torchvision's make_grid, whose import takes longer than all else that a picture of samples does
        page = F.pad(page, (LINE, 0, LINE, 0), value=255)
        page = F.pad(page, (0, 0) * 3 + (0, -len(page) % columns), value=255)  # empty places at the end of the last row
        page = page.unflatten(0, (-1, columns)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)  # (C, height, width)
        page = F.pad(page, (0, LINE, 0, LINE), value=255)
    else:
        page = page.squeeze(0)
    picture: NDArray[np.uint8] = (page[0] if images.shape[1] == 1 else page.permute(1, 2, 0)).numpy()
    return picture
