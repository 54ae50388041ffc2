"""Images between their two forms: uint8 in [0, 255] on disk and on screen, float in [-1, 1] in the networks."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


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
    from torchvision.utils import make_grid

    images = images[:, : 3 if images.shape[1] > 2 else 1]
    enlarge = max(1, 64 // images.shape[-1])  # small images are hard to judge
    page = make_grid(images.cpu().repeat_interleave(enlarge, 2).repeat_interleave(enlarge, 3), columns, pad_value=255)
    picture: NDArray[np.uint8] = (page[0] if images.shape[1] == 1 else page.permute(1, 2, 0)).numpy()
    return picture
