"""Batches that are computed in parts."""

from collections.abc import Callable

import pytest
import torch
from pytorch_lightning import Trainer
from torch.testing import assert_close

from lightning_gan.augment import ADA
from lightning_gan.data import DataModule
from lightning_gan.errors import UserError
from lightning_gan.gan import GAN
from lightning_gan.networks import MLPDiscriminator, MLPGenerator
from lightning_gan.penalties import R1

MakeGAN = Callable[..., GAN]
MakeTrainer = Callable[..., Trainer]


@pytest.mark.parametrize("accumulate", [2, 8])
def test_parts_make_up_a_batch(make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, accumulate: int) -> None:
    # Nothing here draws while a part is computed, or looks at a batch as a whole.
    gans = []
    for parts in (1, accumulate):
        torch.manual_seed(0)
        networks = {"generator": MLPGenerator((1, 8, 8), latent_dim=4), "discriminator": MLPDiscriminator((1, 8, 8))}
        augment = ADA(flip=0, rotate90=0, translate=0, geometric=0, color=0, target=0.0, speed=1000, every=2)
        gan = make_gan(**networks, accumulate=parts, augment=augment, penalties={"r1": R1(every=2)}, critic_steps=2)
        make_trainer(max_steps=4).fit(gan, digits)
        gans.append(gan)
    whole, in_parts = gans
    assert 0 < whole.get_buffer("augment.p") < 1
    assert in_parts.images_seen == whole.images_seen == 128
    assert_close(in_parts.state_dict(), whole.state_dict(), rtol=1e-4, atol=2e-6)
    assert_close(in_parts.scalars, whole.scalars, rtol=1e-4, atol=1e-6)


def test_they_must_be_of_one_size(make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule) -> None:
    with pytest.raises(UserError, match=r"--model.accumulate=5 does not divide the 32 images.*--data.batch_size"):
        make_trainer(max_steps=1).fit(make_gan(accumulate=5), digits)


def test_there_must_be_one(make_gan: MakeGAN) -> None:
    with pytest.raises(ValueError, match="accumulate must be at least 1, not 0"):
        make_gan(accumulate=0)
