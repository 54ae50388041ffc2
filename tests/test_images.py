import torch
from torch.testing import assert_close

from lightning_gan.images import to_float, to_uint8


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
