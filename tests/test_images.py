import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torchvision.utils import make_grid

from lightning_gan.images import grid, to_float, to_uint8


def test_every_level_survives_the_round_trip() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(levels)), levels)


def test_black_is_minus_one_and_white_is_one() -> None:
    assert_close(to_float(torch.tensor([0, 255], dtype=torch.uint8)), torch.tensor([-1.0, 1.0]))


def test_to_uint8_rounds_and_clamps() -> None:
    # torchmetrics' (x * 255).byte() truncates 1.9 to 1 and wraps 1.004 around to black.
    half_step = 1 / 255
    images = torch.tensor([-1.1, -1 + 2.6 * half_step, -1 + 3.4 * half_step, 1.004, 7.0])
    assert to_uint8(images).tolist() == [0, 1, 2, 255, 255]


def test_to_uint8_leaves_its_argument_alone() -> None:
    images = torch.tensor([0.5])
    to_uint8(images)
    assert images.item() == 0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_goes_row_by_row_between_white_lines(channels: int) -> None:
    levels = torch.tensor([10, 20, 30], dtype=torch.uint8)
    page = grid(levels.view(3, 1, 1, 1).expand(3, channels, 40, 40), 2)
    assert page.shape == (86, 86) if channels == 1 else (86, 86, 3)
    page = page.reshape(86, 86, channels)
    assert (page[2:42, 2:42] == 10).all()
    assert (page[2:42, 44:84] == 20).all()
    assert (page[44:84, 2:42] == 30).all()
    assert (page[44:84, 44:84] == 255).all()
    assert (page[[0, 1, 42, 43, 84, 85]] == 255).all()
    assert (page[:, [0, 1, 42, 43, 84, 85]] == 255).all()


def test_a_grid_enlarges_small_images_without_blurring_them() -> None:
    image = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    assert np.array_equal(grid(image, 1), image[0, 0].numpy().repeat(8, 0).repeat(8, 1))


@pytest.mark.parametrize(
    ("channels", "shape"), [(1, (64, 64)), (2, (64, 64)), (3, (64, 64, 3)), (4, (64, 64, 3)), (5, (64, 64, 3))]
)
def test_what_is_neither_grey_nor_rgb_is_shown_in_part(channels: int, shape: tuple[int, ...]) -> None:
    assert grid(torch.zeros(1, channels, 64, 64, dtype=torch.uint8), 1).shape == shape


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (5, 1, 8, 8), (6, 3, 40, 24), (2, 3, 64, 64), (7, 5, 8, 8)])
def test_a_grid_is_torchvisions(shape: tuple[int, ...]) -> None:
    images = torch.arange(math.prod(shape)).remainder(251).to(torch.uint8).reshape(shape)
    shown = images[:, : 1 if shape[1] == 1 else 3]
    enlarge = max(1, 64 // shape[3])
    shown = shown.repeat_interleave(enlarge, 2).repeat_interleave(enlarge, 3)
    page = make_grid(shown, 3, pad_value=255)
    assert np.array_equal(grid(images, 3), page[0].numpy() if shape[1] == 1 else page.permute(1, 2, 0).numpy())
