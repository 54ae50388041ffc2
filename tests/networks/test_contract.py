"""What every pair of networks must do, whatever its family."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from lightning_gan.networks import (
    DCGANDiscriminator,
    DCGANGenerator,
    Discriminator,
    Generator,
    MLPDiscriminator,
    MLPGenerator,
    PixelShuffleDiscriminator,
    PixelShuffleGenerator,
    PoolingDiscriminator,
    R3GANDiscriminator,
    R3GANGenerator,
    ResNetDiscriminator,
    ResNetGenerator,
)
from lightning_gan.networks.stylegan2 import StyleGAN2Discriminator, StyleGAN2Generator

N = 4


@dataclass
class Family:
    """A row of the table: how to build small networks, and for which image sizes.

    `bounded` is whether the generator ends in a squashing function, and `sees_batch` whether the discriminator compares the
    samples of a batch (minibatch standard deviation), also in evaluation mode.
    """

    generator: Any
    discriminator: Any
    sizes: tuple[int, ...]
    bounded: bool = True
    sees_batch: bool = False


FAMILIES = {
    "dcgan": Family(partial(DCGANGenerator, width=4), partial(DCGANDiscriminator, width=4), (16, 28, 32, 64, 128)),
    "dcgan-plain-critic": Family(
        partial(DCGANGenerator, width=4, latent_distribution="uniform", negative_slope=0.2),
        partial(DCGANDiscriminator, width=4, batch_norm=False, dropout=0.3),
        (28, 32),
    ),
    "dcgan-channels": Family(partial(DCGANGenerator, channels=[6, 4]), partial(DCGANDiscriminator, channels=[4, 6]), (28, 64)),
    "dcgan-spectral": Family(
        partial(DCGANGenerator, width=4),
        partial(DCGANDiscriminator, width=4, batch_norm=False, kernel_size=5, spectral_norm=True),
        (28, 32),
    ),
    "mlp": Family(partial(MLPGenerator, hidden=[8, 6]), partial(MLPDiscriminator, hidden=[8]), (7, 28, 32, 128)),
    "mlp-pooling": Family(
        partial(MLPGenerator, negative_slope=0.2, output="sigmoid"),
        partial(PoolingDiscriminator, channels=[4, 6]),
        (28, 32, 64, 128),
    ),
    "pixel-shuffle": Family(
        partial(PixelShuffleGenerator, coarse=8, fine=4),
        partial(PixelShuffleDiscriminator, fine=4, coarse=6, hidden=8),
        (28, 32, 64),
    ),
    "resnet": Family(partial(ResNetGenerator, width=4), partial(ResNetDiscriminator, width=4), (16, 28, 32, 48, 64, 128, 256)),
    "resnet-plain-critic": Family(
        partial(ResNetGenerator, channels=[8, 6, 4]),
        partial(ResNetDiscriminator, channels=[4, 6, 6], halvings=1, spectral_norm=False),
        (16, 28),
    ),
    "stylegan2": Family(
        partial(StyleGAN2Generator, latent_dim=8, style_dim=8, mapping_layers=2, channel_base=256, max_channels=8),
        partial(StyleGAN2Discriminator, channel_base=256, max_channels=8),
        (16, 28, 32, 64, 128, 256),
        bounded=False,
        sees_batch=True,
    ),
    "stylegan2-alone": Family(
        partial(StyleGAN2Generator, latent_dim=6, latent_distribution="uniform", style_dim=4, channel_base=64, style_mixing=0),
        partial(StyleGAN2Discriminator, channel_base=64, minibatch_stddev_group=0),
        (20, 32),
        bounded=False,
    ),
    "r3gan": Family(
        partial(R3GANGenerator, width=16, group_width=4),
        partial(R3GANDiscriminator, width=16, group_width=4),
        (16, 28, 32, 64, 128, 256),
        bounded=False,
    ),
    "r3gan-channels": Family(
        partial(R3GANGenerator, latent_dim=5, channels=[6, 4], blocks=1, expansion=3, group_width=2, label_dim=3),
        partial(R3GANDiscriminator, channels=[6, 4], blocks=1, expansion=3, group_width=2),
        (16, 28),
        bounded=False,
    ),
}
CASES = [
    pytest.param(family, (channels, size, size), num_classes, id=f"{name}-{channels}x{size}-{num_classes}")
    for name, family in FAMILIES.items()
    for size in family.sizes
    for channels in ((1, 3, 4) if size == family.sizes[0] else (1, 3))
    for num_classes in (0, 3)
]


@pytest.mark.parametrize(("family", "image_shape", "num_classes"), CASES)
def test_contract(family: Family, image_shape: tuple[int, int, int], num_classes: int) -> None:
    torch.manual_seed(0)
    generator: Generator = family.generator(image_shape, num_classes)
    discriminator: Discriminator = family.discriminator(image_shape, num_classes)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():  # as if trained a little: some layers start at zero, and some labels alike
        for parameter in [*generator.parameters(), *discriminator.parameters()]:
            parameter.add_(torch.randn(parameter.shape, generator=rng), alpha=0.05)
    y = torch.tensor([0, 1, 2, 0]) if generator.num_classes else None
    other_y = torch.tensor([1, 2, 0, 1]) if generator.num_classes else None

    z = generator.latents(N, rng)
    assert z.shape == (N, generator.latent_dim)
    x = generator(z, y)
    assert x.shape == (N, *generator.image_shape)
    assert x.isfinite().all()
    assert x.abs().max() <= 1 or not family.bounded
    logits = discriminator(x, y)
    assert logits.shape == (N,)
    assert logits.isfinite().all()

    logits.sum().backward()
    for parameter in [*generator.parameters(), *discriminator.parameters()]:
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()

    # Second derivatives exist: a penalty on D's gradient trains D. (It does not train biases of a piecewise linear network, of
    # which labels that are added to the input are one.)
    discriminator.zero_grad()
    real = torch.randn(x.shape, generator=rng).requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(real, y).sum(), real, create_graph=True)
    gradient.square().sum().backward()
    for name, parameter in discriminator.named_parameters():
        if parameter.ndim > 1 and "embed" not in name:
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
            assert parameter.grad.any()

    # Labels matter, and in evaluation mode a sample does not depend on the others.
    generator.eval(), discriminator.eval()
    with torch.no_grad():
        x = generator(z, y)
        alone = None if y is None else y[1:2]
        assert_close(generator(z[1:2], alone), x[1:2], rtol=1e-3, atol=1e-4)  # kernels round by the size of the batch
        if not family.sees_batch:
            assert_close(discriminator(x[1:2], alone), discriminator(x, y)[1:2], rtol=1e-3, atol=1e-4)
        if y is not None:
            assert not torch.equal(generator(z, other_y), x)
            assert not torch.equal(discriminator(x, other_y), discriminator(x, y))


@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_labels_are_given_if_and_only_if_conditional(family: Family, num_classes: int) -> None:
    image_shape = (1, family.sizes[0], family.sizes[0])
    y = None if num_classes else torch.zeros(N, dtype=torch.long)
    generator, discriminator = family.generator(image_shape, num_classes), family.discriminator(image_shape, num_classes)
    with pytest.raises(ValueError, match="conditional"):
        generator(torch.zeros(N, generator.latent_dim), y)
    with pytest.raises(ValueError, match="conditional"):
        discriminator(torch.zeros(N, *image_shape), y)
