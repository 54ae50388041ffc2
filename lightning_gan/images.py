"""Images between their two forms: uint8 in [0, 255] on disk and on screen, float in [-1, 1] in the networks."""

import torch
from torch import Tensor


def to_float(images: Tensor) -> Tensor:
    """Scale uint8 images (any shape) to float32 in [-1, 1]."""
    return images.to(torch.float32).mul_(2 / 255).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Bring float images (any shape) in [-1, 1] to uint8: rounded and clamped, so that nothing truncates or wraps around."""
    return images.detach().float().add(1).mul_(255 / 2).round_().clamp_(0, 255).to(torch.uint8)
