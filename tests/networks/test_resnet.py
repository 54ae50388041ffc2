import copy
import io
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.testing import assert_close

from lightning_gan.networks import ResNetDiscriminator, ResNetGenerator
from lightning_gan.networks.base import call_frozen
from lightning_gan.networks.layers import normalize_spectra
from lightning_gan.networks.resnet import ConditionalBatchNorm2d, DiscriminatorBlock, GeneratorBlock


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def conv(before: int, after: int, kernel: int = 3) -> int:
    return (before * kernel**2 + 1) * after


def generator_count(image_channels: int, coarsest: int, channels: list[int], classes: int = 1) -> int:
    blocks = sum(
        classes * 2 * (before + after) + conv(before, after) + conv(after, after) + conv(before, after, 1)
        for before, after in pairwise(channels)
    )
    return 129 * channels[0] * coarsest**2 + blocks + 2 * channels[-1] + conv(channels[-1], image_channels)


def discriminator_count(image_channels: int, channels: list[int], halvings: int, classes: int = 0) -> int:
    first = conv(image_channels, channels[0]) + conv(channels[0], channels[0]) + conv(image_channels, channels[0], 1)
    blocks = sum(
        conv(before, before) + conv(before, after) + (conv(before, after, 1) if i < halvings or before != after else 0)
        for i, (before, after) in enumerate(pairwise(channels), start=1)
    )
    return first + blocks + channels[-1] + 1 + classes * channels[-1]


class TestTheNetworksOfThePaper:
    def test_cifar(self) -> None:
        # Dense 128 -> 4x4x256; blocks of two convolutions, two batch normalizations and a shortcut; the last convolution.
        block = 2 * 2 * 256 + 2 * (256 * 256 * 9 + 256) + 256 * 256 + 256
        assert count(ResNetGenerator((3, 32, 32))) == 129 * 4096 + 3 * block + 2 * 256 + 256 * 3 * 9 + 3 == 4_276_739
        # The image to 128 channels; a block with a shortcut; two without; the dense layer.
        pair = 2 * (128 * 128 * 9 + 128)
        first = 3 * 128 * 9 + 128 + 128 * 128 * 9 + 128 + 3 * 128 + 128
        assert count(ResNetDiscriminator((3, 32, 32))) == first + pair + 128 * 128 + 128 + 2 * pair + 129 == 1_053_825
        # Ten labels: ten pairs of gain and bias instead of one, and an embedding.
        assert count(ResNetGenerator((3, 32, 32), 10)) == 4_276_739 + 9 * 3 * 2 * 2 * 256
        assert count(ResNetDiscriminator((3, 32, 32), 10)) == 1_053_825 + 10 * 128

    @pytest.mark.parametrize(
        ("size", "coarsest", "channels"),
        [
            (16, 4, [256] * 3),
            (28, 7, [256] * 3),
            (32, 4, [256] * 4),
            (48, 6, [512, 256, 128, 64]),
            (64, 4, [1024, 512, 256, 128, 64]),
            (128, 4, [1024, 1024, 512, 256, 128, 64]),
            (256, 4, [1024, 1024, 1024, 512, 256, 128, 64]),
        ],
    )
    def test_generators(self, size: int, coarsest: int, channels: list[int]) -> None:
        with torch.device("meta"):
            assert count(ResNetGenerator((3, size, size))) == generator_count(3, coarsest, channels)
            assert count(ResNetGenerator((1, size, size), 5)) == generator_count(1, coarsest, channels, classes=5)

    @pytest.mark.parametrize(
        ("size", "halvings", "channels", "coarsest"),
        [
            (16, 2, [128] * 4, 4),
            (28, 2, [128] * 4, 7),
            (32, 2, [128] * 4, 8),
            (48, 4, [64, 128, 256, 512, 1024], 3),
            (64, 4, [64, 128, 256, 512, 1024], 4),
            (128, 5, [64, 128, 256, 512, 1024, 1024], 4),
            (256, 6, [64, 128, 256, 512, 1024, 1024, 1024], 4),
        ],
    )
    def test_discriminators(self, size: int, halvings: int, channels: list[int], coarsest: int) -> None:
        with torch.device("meta"):
            discriminator = ResNetDiscriminator((3, size, size), spectral_norm=False)
            assert count(discriminator) == discriminator_count(3, channels, halvings)
            assert discriminator.blocks(torch.zeros(1, 3, size, size)).shape == (1, channels[-1], coarsest, coarsest)

    def test_the_published_network_for_64_px_halves_once_more(self) -> None:
        with torch.device("meta"):
            discriminator = ResNetDiscriminator((3, 64, 64), halvings=5, spectral_norm=False)
            assert discriminator.blocks(torch.zeros(1, 3, 64, 64)).shape == (1, 1024, 2, 2)
            assert count(discriminator) == discriminator_count(3, [64, 128, 256, 512, 1024], 5)

    def test_weights_start_xavier_uniform_with_gain_in_the_residual_branch(self) -> None:
        torch.manual_seed(0)
        block = DiscriminatorBlock(64, 64, halve=True)
        # Var U(-a, a) = a^2 / 3 with a = gain sqrt(6 / (fan_in + fan_out))
        for layer, variance in [
            (block.conv1, 2 * 2 / (2 * 64 * 9)),
            (block.conv2, 2 * 2 / (2 * 64 * 9)),
            (block.shortcut, 1 / 64),
        ]:
            assert isinstance(layer, nn.Conv2d)
            assert_close(layer.weight.var(), torch.tensor(variance), rtol=0.05, atol=0)
            assert layer.bias is not None
            assert not layer.bias.any()


class TestSizes:
    @pytest.mark.parametrize("image_shape", [(1, 27, 27), (1, 32, 64), (1, 6, 6)])
    def test_sizes_that_cannot_be_doubled_to_are_refused(self, image_shape: tuple[int, int, int]) -> None:
        with pytest.raises(ValueError, match=rf"not {image_shape[1]}x{image_shape[2]}"):
            ResNetGenerator(image_shape, width=2)

    @pytest.mark.parametrize("image_shape", [(1, 30, 30), (1, 32, 64), (1, 99, 99)])
    def test_sizes_that_cannot_be_halved_are_refused(self, image_shape: tuple[int, int, int]) -> None:
        with pytest.raises(ValueError, match=rf"not {image_shape[1]}x{image_shape[2]}"):
            ResNetDiscriminator(image_shape, width=2)

    def test_more_halvings_than_blocks_are_refused(self) -> None:
        with pytest.raises(ValueError, match="at most the number of blocks, 2, not 3"):
            ResNetDiscriminator((1, 32, 32), channels=[4, 4], halvings=3)

    def test_channels_decide_how_often_the_size_is_doubled(self) -> None:
        assert ResNetGenerator((1, 28, 28), channels=[6, 4]).unflatten.unflattened_size == (6, 14, 14)
        with pytest.raises(ValueError, match="at least once"):
            ResNetGenerator((1, 28, 28), channels=[6])


class TestBlocks:
    def test_a_generator_block_without_residual_branch_repeats_the_pixels_of_the_shortcut(self) -> None:
        block, x = GeneratorBlock(3, 2), torch.randn(4, 3, 5, 5)
        for parameter in block.conv2.parameters():
            nn.init.zeros_(parameter)
        # Upsampling first, as the paper draws it.
        assert_close(block(x), block.shortcut(x.repeat_interleave(2, 2).repeat_interleave(2, 3)))

    def test_a_halving_block_without_residual_branch_averages_the_shortcut(self) -> None:
        block, x = DiscriminatorBlock(3, 2, halve=True), torch.randn(4, 3, 6, 6)
        for parameter in block.conv2.parameters():
            nn.init.zeros_(parameter)
        convolved = block.shortcut(x)
        assert_close(block(x), sum(convolved[:, :, i::2, j::2] for i in range(2) for j in range(2)) / 4)

    def test_a_plain_block_without_residual_branch_is_the_identity(self) -> None:
        block, x = DiscriminatorBlock(3, 3, halve=False), torch.randn(4, 3, 6, 6)
        for parameter in block.conv2.parameters():
            nn.init.zeros_(parameter)
        assert torch.equal(block(x), x)

    def test_the_first_block_alone_sees_the_negative_part_of_its_input(self) -> None:
        x = -torch.rand(2, 3, 4, 4)
        for first in (True, False):
            block = DiscriminatorBlock(3, 3, halve=True, first=first)
            nn.init.zeros_(block.shortcut.get_parameter("weight"))
            blind = torch.equal(block(x), block(2 * x))
            assert blind is not first

    def test_conditional_batch_norm_is_batch_norm_with_the_gain_and_bias_of_the_class(self) -> None:
        torch.manual_seed(0)
        conditional, plain = ConditionalBatchNorm2d(3, 2), nn.BatchNorm2d(3)
        x = torch.randn(5, 3, 4, 4)
        y = torch.tensor([1, 1, 1, 1, 1])
        assert_close(conditional(x, y), plain(x))  # gains start at 1, biases at 0
        with torch.no_grad():
            conditional.get_parameter("embed.weight").copy_(torch.tensor([[0.0] * 6, [2.0, 3, 4, 5, 6, 7]]))
            plain.weight.copy_(torch.tensor([2.0, 3, 4]))
            plain.bias.copy_(torch.tensor([5.0, 6, 7]))
        assert_close(conditional(x, y), plain(x))
        conditional.eval(), plain.eval()  # the running statistics are those of all classes together
        assert_close(conditional(x, y), plain(x))
        assert_close(conditional(x, 1 - y), torch.zeros_like(x))

    def test_conditional_batch_norm_keeps_the_precision_of_its_input(self) -> None:
        torch.manual_seed(0)
        conditional, x, y = ConditionalBatchNorm2d(3, 2), torch.randn(5, 3, 4, 4), torch.tensor([0, 1, 1, 0, 1])
        nn.init.normal_(conditional.get_parameter("embed.weight"))
        with torch.autocast("cpu", torch.bfloat16):
            h = conditional(x.bfloat16(), y)
        assert h.dtype == torch.bfloat16  # or all that follows would be in float32
        assert_close(h.float(), conditional(x, y), rtol=0.02, atol=0.02)


class TestProjection:
    def test_two_labels_differ_by_the_product_of_their_embeddings_with_the_features(self) -> None:
        discriminator = ResNetDiscriminator((1, 16, 16), 3, width=2, spectral_norm=False)
        x, y, other = torch.randn(4, 1, 16, 16), torch.tensor([0, 1, 2, 0]), torch.tensor([1, 1, 0, 2])
        embedding = discriminator.get_parameter("embed.weight")
        expected = ((embedding[y] - embedding[other]) * discriminator.features(x)).sum(1)
        assert_close(discriminator(x, y) - discriminator(x, other), expected)
        assert expected.abs().max() > 1e-3

    def test_features_are_summed_over_all_pixels(self) -> None:
        discriminator, x = ResNetDiscriminator((1, 16, 16), width=2, spectral_norm=False), torch.randn(2, 1, 16, 16)
        by_hand = torch.zeros(2, 4)
        for i in range(4):
            for j in range(4):
                by_hand = by_hand + F.relu(discriminator.blocks(x)[:, :, i, j])
        assert_close(discriminator.features(x), by_hand)


def weights(discriminator: nn.Module) -> list[Tensor]:
    """Those under spectral normalization, as matrices."""
    layers = (layer for layer in discriminator.modules() if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding))
    return [layer.weight.flatten(1) for layer in layers if is_parametrized(layer, "weight")]


class TestSpectralNorm:
    def discriminator(self) -> ResNetDiscriminator:
        torch.manual_seed(0)
        return ResNetDiscriminator((1, 16, 16), 3, width=4)

    x = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2])

    def test_every_layer_has_a_largest_singular_value_of_one(self) -> None:
        discriminator = self.discriminator()
        with torch.no_grad():
            for parameter in discriminator.parameters():  # far from where the power iteration began
                parameter.add_(torch.randn(parameter.shape)).mul_(3)
            for _ in range(200):
                discriminator(self.x, self.y)
        # 4 blocks of 2 convolutions, 2 shortcuts, the dense layer, the embedding
        assert len(weights(discriminator)) == 4 * 2 + 2 + 1 + 1
        for weight in weights(discriminator):
            assert_close(torch.linalg.matrix_norm(weight, 2), torch.tensor(1.0), rtol=1e-3, atol=0)

    def test_without_it_the_weights_are_plain(self) -> None:
        assert not weights(ResNetDiscriminator((1, 16, 16), 3, width=4, spectral_norm=False))

    def test_it_equals_division_by_the_largest_singular_value(self) -> None:
        layer = nn.Conv2d(3, 4, 3)
        original = layer.weight.detach().clone()
        normalize_spectra(layer)
        for _ in range(200):
            layer(torch.zeros(1, 3, 3, 3))
        assert_close(layer.weight, original / torch.linalg.matrix_norm(original.flatten(1), 2), rtol=1e-4, atol=1e-6)

    def test_a_frozen_call_leaves_the_power_iteration_where_it_was(self) -> None:
        discriminator = self.discriminator()
        before = copy.deepcopy(discriminator.state_dict())
        x = self.x.clone().requires_grad_()
        logits = call_frozen(discriminator, x, self.y)
        logits.sum().backward()
        assert_close(discriminator.state_dict(), before, rtol=0, atol=0)
        assert all(parameter.grad is None for parameter in discriminator.parameters())
        assert x.grad is not None
        assert x.grad.any()
        assert torch.equal(logits, discriminator(self.x, self.y))  # the frozen call took the same step, on its own copy
        name = "blocks.0.conv1.parametrizations.weight.0._v"
        assert not torch.equal(discriminator.get_buffer(name), before[name])

    def test_evaluation_takes_no_step(self) -> None:
        discriminator = self.discriminator().eval()
        before = copy.deepcopy(discriminator.state_dict())
        discriminator(self.x, self.y)
        assert_close(discriminator.state_dict(), before, rtol=0, atol=0)

    def test_a_copy_and_a_round_trip_through_a_file_give_the_same_logits(self) -> None:
        discriminator = self.discriminator()
        discriminator(self.x, self.y)
        clone = copy.deepcopy(discriminator)
        file = io.BytesIO()
        torch.save(discriminator.state_dict(), file)
        file.seek(0)
        torch.manual_seed(1)
        loaded = ResNetDiscriminator((1, 16, 16), 3, width=4)
        loaded.load_state_dict(torch.load(file, weights_only=True))
        expected = discriminator(self.x, self.y)  # all three take the same step of the power iteration
        assert torch.equal(clone(self.x, self.y), expected)
        assert torch.equal(loaded(self.x, self.y), expected)

    def test_the_gradient_of_a_gradient_penalty(self) -> None:
        discriminator = self.discriminator().double().eval()
        dense = discriminator.get_parameter("dense.parametrizations.weight.original")
        x = self.x.double().requires_grad_()

        def penalty() -> Tensor:
            (gradient,) = torch.autograd.grad(discriminator(x, self.y).sum(), x, create_graph=True)
            return gradient.square().sum()

        penalty().backward()
        with torch.no_grad():
            direction = torch.randn(dense.shape, dtype=torch.float64)
            dense.add_(direction, alpha=1e-5)
        above = penalty().detach()
        with torch.no_grad():
            dense.sub_(direction, alpha=2e-5)
        assert dense.grad is not None
        assert_close((dense.grad * direction).sum(), (above - penalty().detach()) / 2e-5, rtol=1e-5, atol=1e-8)

    def test_bfloat16_autocast_keeps_the_weights_in_full_precision(self) -> None:
        discriminator = self.discriminator()
        with torch.autocast("cpu", torch.bfloat16):
            for _ in range(100):
                logits = discriminator(self.x, self.y)
        logits.float().sum().backward()
        for weight in weights(discriminator.eval()):
            assert weight.dtype == torch.float32
            assert_close(torch.linalg.matrix_norm(weight, 2), torch.tensor(1.0), rtol=1e-2, atol=0)
        assert_close(logits.float(), discriminator(self.x, self.y), rtol=0.05, atol=0.05)
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in discriminator.parameters())
