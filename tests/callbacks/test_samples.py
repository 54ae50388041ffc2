from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning import Trainer

from lightning_gan import randomness
from lightning_gan.callbacks import SampleGrid
from lightning_gan.data import DataModule
from lightning_gan.gan import GAN


def tiles(path: Path, columns: int, side: int) -> list[NDArray[np.uint8]]:
    page = np.asarray(Image.open(path).convert("L"))
    rows = (page.shape[0] - 2) // (side + 2)
    corners = [(2 + r * (side + 2), 2 + c * (side + 2)) for r in range(rows) for c in range(columns)]
    return [page[top : top + side, left : left + side] for top, left in corners]


@pytest.mark.parametrize("num_classes", [0, 10])
def test_the_grids_show_the_same_latents_and_real_images_once(
    make_gan: Callable[..., GAN], make_trainer: Callable[..., Trainer], digits: DataModule, tmp_path: Path, num_classes: int
) -> None:
    digits.conditional = num_classes > 0
    gan = make_gan(num_classes)
    make_trainer(max_steps=5, callbacks=[SampleGrid(64, columns=3, rows=2)], enable_checkpointing=False).fit(gan, digits)
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == ["000000064.png", "000000128.png", "000000160.png", "real.png"]

    rows = num_classes or 2
    shown = tiles(tmp_path / "samples" / "000000160.png", 3, 64)  # 8 pixels, enlarged to 64
    z = randomness.numbered_latents(gan.generator.latents, 0, 0, rows * 3)
    y = torch.arange(rows).repeat_interleave(3) if num_classes else None
    expected = gan.sample(z, y)
    for tile, image in zip(shown, expected, strict=True):
        assert np.array_equal(tile[::8, ::8], image[0].numpy())

    real, _ = digits.real_images(6)
    for tile, image in zip(tiles(tmp_path / "samples" / "real.png", 3, 64), real, strict=True):
        assert np.array_equal(tile[::8, ::8], image[0].numpy())


def test_pictures_do_not_change_training(
    make_gan: Callable[..., GAN], make_trainer: Callable[..., Trainer], digits: DataModule
) -> None:
    with_pictures, without = make_gan(), make_gan()
    make_trainer(max_steps=5, callbacks=[SampleGrid(32)], enable_checkpointing=False).fit(with_pictures, digits)
    make_trainer(max_steps=5).fit(without, digits)
    for name, tensor in without.state_dict().items():
        assert torch.equal(tensor, with_pictures.state_dict()[name]), name
