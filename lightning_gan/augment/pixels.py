"""What augmentations do to pixels: look them up, between them too, and blank them out."""

import torch
from torch import Tensor

from lightning_gan.randomness import randint


def take(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Look up pixels: (N, C, H, W) at int64 rows and columns that broadcast to (N, H', W') -> (N, C, H', W')."""
    n, c, _, width = x.shape
    index = rows * width + columns  # (N, H', W')
    flat = x.flatten(2).gather(2, index.flatten(1).unsqueeze(1).expand(-1, c, -1))  # (N, C, H' * W')
    return flat.view(n, c, *index.shape[1:])


def bilinear(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Look up images between their pixels; beyond their borders they are mirrored, border pixels and all.

    The values are those of `torch.nn.functional.grid_sample` (`padding_mode="reflection"`, `align_corners=False`), which cannot
    be differentiated twice. This can.

    Args:
        x: (N, C, H, W).
        rows: (N, H', W'), in pixels: 0 is the middle of the first row, and H - 1 of the last.
        columns: likewise.

    Returns:
        (N, C, H', W'), in the wider of the types of `x` and of the coordinates.
    """
    height, width = x.shape[2:]
    rows, columns = _mirror(rows, height), _mirror(columns, width)
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top).unsqueeze(1), (columns - left).unsqueeze(1)  # (N, 1, H', W'), in [0, 1)
    top, left = top.long(), left.long()
    bottom, far = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    upper = (1 - right) * take(x, top, left) + right * take(x, top, far)
    lower = (1 - right) * take(x, bottom, left) + right * take(x, bottom, far)
    return (1 - down) * upper + down * lower


def cutout_mask(x: Tensor, share: float) -> Tensor:
    """Draw for each image a rectangle, `share` of its height and of its width, true inside: (N, 1, H, W).

    Its centre is uniform over the image, so that a part of it may lie outside.
    """
    rows, columns = (_span(len(x), size, share, x.device) for size in x.shape[2:])  # (N, H), (N, W)
    return (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)


def _mirror(position: Tensor, size: int) -> Tensor:
    """Fold the line into [0, size - 1] at the outer edges of the border pixels."""
    position = (position + 0.5).remainder(2 * size)
    return (torch.minimum(position, 2 * size - position) - 0.5).clamp(0, size - 1)


def _span(n: int, size: int, share: float, device: torch.device) -> Tensor:
    length = int(size * share + 0.5)
    # An even length is centred on an edge between pixels, of which there is one more than there are pixels.
    centre = randint(0, size + 1 - length % 2, n, 1, device=device)
    position = torch.arange(size, device=device) - (centre - length // 2)  # (N, size)
    return (position >= 0) & (position < length)
