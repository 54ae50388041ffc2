import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lightning_gan.networks import DCGANDiscriminator, DCGANGenerator


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameter_counts() -> None:
    # The two networks of the PyTorch DCGAN example (z 100, ngf = ndf = 64, 3x64x64) have 3,576,704 and 2,765,568 parameters,
    # with dense ends that are convolutions without bias: ours add those biases.
    assert count(DCGANGenerator((3, 64, 64))) == 3_576_704 + 512 * 4 * 4 + 3
    assert count(DCGANDiscriminator((3, 64, 64))) == 2_765_568 + 64 + 1
    # MNIST: dense to 7x7x256, transposed convolutions to 128 and to the image.
    generator = DCGANGenerator((1, 28, 28), channels=[256, 128])
    assert count(generator) == 101 * 7 * 7 * 256 + 2 * 256 + 256 * 128 * 16 + 2 * 128 + 128 * 16 + 1
    discriminator = DCGANDiscriminator((1, 28, 28), channels=[64, 128], batch_norm=False, dropout=0.3)
    assert count(discriminator) == (16 + 1) * 64 + (64 * 16 + 1) * 128 + 7 * 7 * 128 + 1
    # 64 px: dense to 8x8x128, transposed convolutions to 128, 64 and the image; convolutions to 64 and 128.
    generator = DCGANGenerator((3, 64, 64), channels=[128, 128, 64], negative_slope=0.2)
    convolutions = 128 * 128 * 16 + 2 * 128 + 128 * 64 * 16 + 2 * 64 + 64 * 3 * 16 + 3
    assert count(generator) == 101 * 8 * 8 * 128 + 2 * 128 + convolutions
    discriminator = DCGANDiscriminator((3, 64, 64), channels=[64, 128], batch_norm=False, dropout=0.3)
    assert count(discriminator) == (3 * 16 + 1) * 64 + (64 * 16 + 1) * 128 + 16 * 16 * 128 + 1
    # Kernels of 5, to 32 and 64 channels.
    discriminator = DCGANDiscriminator((1, 28, 28), channels=[32, 64], batch_norm=False, kernel_size=5)
    assert count(discriminator) == (25 + 1) * 32 + (32 * 25 + 1) * 64 + 7 * 7 * 64 + 1


@pytest.mark.parametrize(("size", "coarsest"), [(16, 4), (28, 7), (32, 4), (64, 4), (128, 4)])
def test_the_coarsest_resolution(size: int, coarsest: int) -> None:
    assert DCGANGenerator((1, size, size), width=2).unflatten.unflattened_size[1:] == (coarsest, coarsest)


@pytest.mark.parametrize("image_shape", [(1, 27, 27), (1, 32, 64)])
def test_sizes_that_cannot_be_halved_are_refused(image_shape: tuple[int, int, int]) -> None:
    for network in (DCGANGenerator, DCGANDiscriminator):
        with pytest.raises(ValueError, match=rf"not {image_shape[1]}x{image_shape[2]}"):
            network(image_shape)


def test_channels_decide_how_often_the_size_is_halved() -> None:
    with pytest.raises(ValueError, match="multiple of 8 px, not 28x28"):
        DCGANGenerator((1, 28, 28), channels=[8, 8, 8])


def test_a_label_is_one_more_channel_of_the_image() -> None:
    discriminator = DCGANDiscriminator((1, 8, 8), 2, width=2).eval()
    x, y = torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 1])
    channel = discriminator.get_parameter("embed.weight")[y].view(3, 1, 8, 8)
    by_hand = discriminator.dense(discriminator.layers(torch.cat([x, channel], 1)).flatten(1)).squeeze(1)
    assert_close(discriminator(x, y), by_hand)


def test_weights_start_as_in_the_paper() -> None:
    torch.manual_seed(0)
    weight = DCGANGenerator((3, 64, 64)).get_parameter("layers.2.weight")  # 512 * 256 * 16 of them
    assert_close(weight.std(), torch.tensor(0.02), rtol=0.01, atol=0)
    assert_close(weight.mean(), torch.tensor(0.0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kernel_size", [2, 3, 4, 5, 6, 7])
def test_kernels_of_any_size_halve(kernel_size: int) -> None:
    discriminator = DCGANDiscriminator((1, 24, 24), width=2, kernel_size=kernel_size)
    assert discriminator.layers(torch.zeros(2, 1, 24, 24)).shape == (2, 8, 3, 3)


def test_a_kernel_that_skips_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size must be at least 2"):
        DCGANDiscriminator((1, 28, 28), kernel_size=1)


def test_spectral_norm_leaves_the_label_channel_alone() -> None:
    torch.manual_seed(0)
    plain = DCGANDiscriminator((1, 8, 8), 2, width=2, batch_norm=False)
    torch.manual_seed(0)
    discriminator = DCGANDiscriminator((1, 8, 8), 2, width=2, batch_norm=False, spectral_norm=True)
    normalized = {name.removesuffix(".parametrizations.weight.original") for name, _ in discriminator.named_parameters()}
    assert {name for name in normalized if not name.endswith(("weight", "bias"))} == {"layers.0", "dense"}
    assert_close(discriminator.get_parameter("embed.weight"), plain.get_parameter("embed.weight"))
    # It starts from the paper's weights, each scaled by one number.
    original = discriminator.get_parameter("layers.0.parametrizations.weight.original")
    assert_close(original, plain.get_parameter("layers.0.weight"))
