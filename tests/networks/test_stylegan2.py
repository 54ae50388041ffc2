import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_gan.networks.base import call_frozen
from lightning_gan.networks.layers import Blur, Upsample, activate
from lightning_gan.networks.stylegan2 import (
    ModulatedConv2d,
    ResidualBlock,
    StyledConv,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
)


def small(size: int = 16, **arguments: Any) -> StyleGAN2Generator:
    torch.manual_seed(0)
    arguments = {"latent_dim": 8, "style_dim": 6, "mapping_layers": 2, "channel_base": 64, "max_channels": 8} | arguments
    return StyleGAN2Generator((3, size, size), **arguments)


def styled(generator: StyleGAN2Generator) -> list[StyledConv]:
    return [layer for layer in generator.modules() if isinstance(layer, StyledConv)]


def strengthen(generator: StyleGAN2Generator) -> None:
    for layer in styled(generator):
        nn.init.constant_(layer.strength, 0.5)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("kernel_size", "demodulate"), [(3, True), (1, False), (1, True), (3, False)])
def test_modulated_convolution_is_equations_1_to_3(kernel_size: int, demodulate: bool) -> None:
    torch.manual_seed(0)
    conv = ModulatedConv2d(5, 4, kernel_size, 6, demodulate=demodulate)
    nn.init.normal_(conv.bias)
    x, style = torch.randn(3, 5, 7, 7), torch.randn(3, 6)
    by_hand = []
    for sample, w in zip(x, style, strict=True):
        s = conv.affine.weight @ w / math.sqrt(6) + 1
        weight = conv.weight / math.sqrt(5 * kernel_size**2) * s.view(1, 5, 1, 1)  # Eq. 1
        if demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()  # Eq. 2 and 3
        by_hand.append(F.conv2d(sample[None], weight, conv.bias, padding=kernel_size // 2))
    assert_close(conv(x, style), torch.cat(by_hand))


def test_upsampling_before_a_modulated_convolution_or_after_it_is_the_same_but_at_the_border() -> None:
    torch.manual_seed(0)
    conv = ModulatedConv2d(5, 4, 3, 6, upsample=True)
    plain = ModulatedConv2d(5, 4, 3, 6)
    plain.load_state_dict(conv.state_dict())
    plain.weight = nn.Parameter(conv.weight.flip(2, 3))  # a transposed convolution turns its kernel round
    x, style = torch.randn(2, 5, 8, 8), torch.randn(2, 6)
    y = conv(x, style)
    assert y.shape == (2, 4, 16, 16)
    assert_close(y[..., 1:-1, 1:-1], plain(Upsample()(x), style)[..., 1:-1, 1:-1])


def test_demodulation_gives_unit_variance_whatever_the_style_and_the_weights() -> None:
    torch.manual_seed(0)
    conv = ModulatedConv2d(32, 64, 3, 16)
    nn.init.normal_(conv.weight, 0.0, 5.0)
    x, style = torch.randn(8, 32, 34, 34), 10 * torch.randn(8, 16)
    variance = conv(x, style)[..., 1:-1, 1:-1].var((0, 2, 3))  # (64,)
    assert_close(variance, torch.ones(64), rtol=0, atol=0.1)
    assert_close(variance.mean(), torch.tensor(1.0), rtol=0, atol=0.02)


# The generator


def test_synthesis_by_hand() -> None:
    generator = small(8).eval()
    strengthen(generator)
    styles = torch.randn(2, 4, 6)  # 4 px: convolution; 8 px: two convolutions; last output
    first, second, third = styled(generator)
    x = activate(first.conv(generator.constant.repeat(2, 1, 1, 1), styles[:, 0]) + 0.5 * first.noise)
    image = generator.outputs[0](x, styles[:, 1])
    x = activate(second.conv(x, styles[:, 1]) + 0.5 * second.noise)
    x = activate(third.conv(x, styles[:, 2]) + 0.5 * third.noise)
    assert_close(generator.synthesize(styles), Upsample()(image) + generator.outputs[1](x, styles[:, 3]))


@pytest.mark.parametrize(("size", "sizes"), [(16, [4, 8, 16]), (28, [7, 14, 28]), (32, [4, 8, 16, 32]), (12, [3, 6, 12])])
def test_sizes_and_styles(size: int, sizes: list[int]) -> None:
    generator = small(size)
    assert generator.constant.shape[2:] == (sizes[0], sizes[0])
    assert [len(layer.noise) for layer in styled(generator)] == [sizes[0], *(s for s in sizes[1:] for _ in range(2))]
    assert generator.styles(torch.randn(2, 8)).shape == (2, 2 * len(sizes), 6)
    weight = generator.get_parameter("mapping.1.weight")  # learns 100 times slower, so it is stored 100 times larger
    assert weight.std().item() == pytest.approx(100, rel=0.4)


def test_styles_ignore_the_length_of_a_latent_and_change_nothing() -> None:
    generator = small(num_classes=3)
    z, y = torch.randn(2, 8), torch.tensor([0, 2])
    before, state = copy.deepcopy(generator.state_dict()), torch.get_rng_state()
    styles = generator.styles(z, y)
    assert_close(styles, styles[:, :1].expand_as(styles), rtol=0, atol=0)
    assert_close(generator.styles(5 * z, y), styles)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in generator.state_dict().items())
    generator.get_parameter("embed.weight").data *= 5  # of a label's embedding as well
    assert_close(generator.styles(z, y), styles)


def test_evaluation_draws_nothing_and_truncation_by_1_is_the_identity() -> None:
    generator = small()
    strengthen(generator)
    generator(torch.randn(4, 8))
    generator.eval()
    z, state = torch.randn(4, 8), torch.get_rng_state()
    images = generator(z)
    assert_close(generator(z), images, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert_close(generator(z.flip(0)).flip(0), images)
    styles = generator.styles(z)
    assert_close(generator.synthesize(generator.mean_style.lerp(styles, 1.0)), images)
    assert not torch.allclose(generator.synthesize(generator.mean_style.lerp(styles, 0.5)), images)
    average = generator.synthesize(generator.mean_style.lerp(styles, 0.0))
    assert_close(average, average[:1].expand_as(average))


def test_the_noise_of_evaluation_is_saved() -> None:
    generator, twin = small().eval(), small().eval()
    strengthen(generator)
    for layer in styled(twin):
        nn.init.zeros_(layer.noise)
    twin.load_state_dict(generator.state_dict())
    z = torch.randn(2, 8)
    assert_close(twin(z), generator(z), rtol=0, atol=0)


def test_training_draws_noise_once_it_has_a_strength() -> None:
    generator = small(style_mixing=0)
    z = torch.randn(2, 8)
    assert_close(generator(z), generator(z), rtol=0, atol=0)
    strengthen(generator)
    assert not torch.allclose(generator(z), generator(z))
    first, second = generator(z[:1].repeat(2, 1))
    assert (first - second).abs().max() > 0.01


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_styles_are_mixed_always_never_or_in_the_share_asked_for(distribution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    synthesize = StyleGAN2Generator.synthesize

    def spy(self: StyleGAN2Generator, styles: Tensor) -> Tensor:
        seen.append(styles)
        return synthesize(self, styles)

    monkeypatch.setattr(StyleGAN2Generator, "synthesize", spy)
    z = torch.randn(400, 8)
    for share in (0.0, 0.3, 1.0):
        generator = small(8, style_mixing=share, latent_distribution=distribution)
        generator(z)
        own = (seen.pop() == generator.styles(z)).all(2)  # (N, 4)
        assert own[:, 0].all()
        assert (own.diff(dim=1).sum(1) <= 1).all()  # one's own styles, then the other's to the end
        mixed = ~own[:, -1]
        assert mixed.float().mean().item() == pytest.approx(share, abs=0.07 if share == 0.3 else 0)
        # The first of the other's styles is 1, 2 or 3, equally often.
        frequencies = own[mixed].sum(1).bincount(minlength=4)[1:] / max(mixed.sum().item(), 1)
        assert not share or frequencies.tolist() == pytest.approx([1 / 3] * 3, abs=0.15)
        generator.eval()(z)
        assert_close(seen.pop(), generator.styles(z), rtol=0, atol=0)


def test_the_second_latent_has_the_same_label() -> None:
    generator = small(8, style_mixing=1.0, num_classes=2)
    with torch.no_grad():
        generator.get_parameter("mapping.0.weight")[:, :8] = 0  # only the label counts
    z, y = torch.randn(3, 8), torch.tensor([0, 1, 1])
    assert_close(generator(z, y), generator.synthesize(generator.styles(z, y)))


def test_mean_style_is_the_mean_of_the_styles_of_training() -> None:
    generator = small(mean_decay=0.9, style_mixing=1.0)
    z = torch.randn(5, 8)
    mean = generator.styles(z)[:, 0].mean(0)
    generator(z)
    assert_close(generator.mean_style, mean)  # the first batch's, and from then on a moving average
    other_z = torch.randn(5, 8)
    moved = 0.9 * mean + 0.1 * generator.styles(other_z)[:, 0].mean(0)
    generator(other_z)
    assert_close(generator.mean_style, moved)
    call_frozen(generator, z)
    generator.eval()(z)
    assert_close(generator.mean_style, moved)

    generator.train()
    with torch.no_grad():
        for _ in range(100):
            generator(torch.randn(64, 8))
        styles = generator.styles(torch.randn(4096, 8))[:, 0]
    assert_close(generator.mean_style, styles.mean(0), rtol=0, atol=0.1 * styles.std().item())


def test_the_length_of_a_path_can_be_differentiated() -> None:
    generator = small()
    strengthen(generator)
    styles = generator.styles(torch.randn(2, 8))
    images = generator.synthesize(styles)
    (gradient,) = torch.autograd.grad((images * torch.randn_like(images)).sum(), styles, create_graph=True)
    gradient.square().sum((1, 2)).sqrt().mean().backward()
    for name in ("mapping.0.weight", "layers.1.conv.weight", "layers.1.conv.affine.weight", "constant", "outputs.0.weight"):
        assert generator.get_parameter(name).grad.abs().max() > 0  # type: ignore[union-attr]  # backward has just set it


def test_bfloat16_stays_close() -> None:
    generator = small(32).eval()
    discriminator = StyleGAN2Discriminator((3, 32, 32), channel_base=64)
    strengthen(generator)
    z = torch.randn(4, 8)
    images, logits = generator(z), discriminator(generator(z))
    with torch.autocast("cpu", torch.bfloat16):
        rough = generator(z)
        assert rough.dtype == torch.float32
        assert_close(generator.styles(z), generator.styles(z).float(), rtol=0, atol=0)
        assert_close(discriminator(images).float(), logits, rtol=0.05, atol=0.05)
    assert_close(rough, images, rtol=0, atol=0.05 * images.std().item())


# The discriminator


def test_a_residual_block_by_hand() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(4, 6)
    x = torch.randn(2, 4, 8, 8)
    h = F.conv2d(Blur(padding=2)(activate(block.conv(x))), block.get_parameter("down.1.weight") / 6, stride=2)
    by_hand = activate(h) + F.conv2d(Blur(padding=1, stride=2)(x), block.get_parameter("skip.1.weight") / 2)
    assert by_hand.shape == (2, 6, 4, 4)
    assert_close(block(x), by_hand / math.sqrt(2))
    # Nothing is shifted: turned by half a turn, with turned kernels, an image gives the turned result.
    turned = copy.deepcopy(block)
    with torch.no_grad():
        for parameter in turned.parameters():
            if parameter.ndim == 4:
                parameter.copy_(parameter.flip(2, 3))
    assert_close(turned(x.flip(2, 3)), block(x).flip(2, 3))


def test_a_label_is_projected() -> None:
    torch.manual_seed(0)
    discriminator = StyleGAN2Discriminator((1, 16, 16), 3, channel_base=64, minibatch_stddev_group=0)
    x, y = torch.randn(3, 1, 16, 16), torch.tensor([2, 0, 2])
    embed = discriminator.get_parameter("embed.weight")  # (3, 16)
    features: list[Tensor] = []
    discriminator.output.register_forward_hook(lambda module, inputs, output: features.append(output))
    logits = discriminator(x, y)
    assert_close(logits, torch.stack([features[0][i] @ embed[y[i]] / 4 for i in range(3)]))


def test_the_discriminator_compares_neighbours_only() -> None:
    torch.manual_seed(0)
    discriminator = StyleGAN2Discriminator((1, 16, 16), channel_base=64, minibatch_stddev_group=2)
    x = torch.randn(4, 1, 16, 16)
    logits = discriminator(x)
    x[3] = torch.randn(1, 16, 16)
    changed = (discriminator(x) - logits).abs() > 1e-6
    assert changed.tolist() == [False, False, True, True]


def by_formula(size: int, channel_base: int) -> tuple[int, int]:
    """Parameters of both networks for RGB images of a power of two, with latents, styles and at most 512 channels."""
    width = {2**k: min(channel_base // 2**k, 512) for k in range(2, size.bit_length())}
    affine = {r: (512 + 1) * c for r, c in width.items()}
    generator = 8 * (512 + 1) * 512 + width[4] * 4 * 4
    discriminator = (3 + 1) * width[size]
    for r, c in width.items():
        generator += affine[r] + 9 * c * c + c + 1  # the convolution at this size: affine, weights, biases, strength of noise
        generator += affine[r] + 3 * c + 3  # the output
        if r > 4:
            coarse = width[r // 2]
            generator += affine[r // 2] + 9 * coarse * c + c + 1  # the convolution that doubles the size
            discriminator += (9 * c + 1) * c + (9 * c + 1) * coarse + c * coarse
    c = width[4]
    discriminator += (9 * (c + 1) + 1) * c + (16 * c + 1) * c + c + 1
    return generator, discriminator


# The paper's 1024 px networks have about 30 M and 29 M parameters. At 256 px with half the channels, which is StyleGAN2-ADA's
# own choice below 512 px, its authors' program is known to print totals of 24,767,458 and 24,001,089.
@pytest.mark.parametrize(
    ("size", "channel_base", "counts"),
    [
        (1024, 32768, (30_370_060, 29_012_513)),
        (512, 32768, (30_276_583, 28_982_849)),
        (256, 32768, (30_034_338, 28_864_129)),
        (256, 16384, (24_767_458, 24_001_089)),
        (32, 16384, (21_523_475, 21_507_073)),
        (64, 4096, by_formula(64, 4096)),
        (16, 1024, by_formula(16, 1024)),
    ],
)
def test_parameter_counts(size: int, channel_base: int, counts: tuple[int, int]) -> None:
    with torch.device("meta"):
        generator = StyleGAN2Generator((3, size, size), channel_base=channel_base)
        discriminator = StyleGAN2Discriminator((3, size, size), channel_base=channel_base)
    assert (count(generator), count(discriminator)) == counts == by_formula(size, channel_base)


def test_parameter_counts_of_single_layers() -> None:
    # What the same program prints for layers of 512 and 256 channels.
    with torch.device("meta"):
        generator = StyleGAN2Generator((3, 128, 128), channel_base=32768)
        block = ResidualBlock(256, 512)
    assert [count(layer) for layer in generator.layers[-3:]] == [2_622_465, 1_442_561, 721_409]
    assert [count(output) for output in generator.outputs[-2:]] == [264_195, 132_099]
    assert [count(part) for part in (block.skip, block.conv, block.down)] == [131_072, 590_080, 1_180_160]


@pytest.mark.parametrize("image_shape", [(1, 27, 27), (1, 4, 4), (1, 16, 32)])
def test_sizes_that_cannot_be_halved_are_refused(image_shape: tuple[int, int, int]) -> None:
    for network in (StyleGAN2Generator, StyleGAN2Discriminator):
        with pytest.raises(ValueError, match=rf"not {image_shape[1]}x{image_shape[2]}"):
            network(image_shape)


G, D = StyleGAN2Generator, StyleGAN2Discriminator


@pytest.mark.parametrize(
    ("name", "value", "networks"),
    [
        ("channel_base", 15, (G, D)),
        ("max_channels", 0, (G, D)),
        ("mapping_layers", 0, (G,)),
        ("style_mixing", 1.1, (G,)),
        ("mean_decay", -0.1, (G,)),
        ("minibatch_stddev_group", -1, (D,)),
    ],
)
def test_arguments_that_cannot_be_are_refused(name: str, value: Any, networks: tuple[Any, ...]) -> None:
    for network in networks:
        with pytest.raises(ValueError, match=name):
            network((1, 16, 16), **{name: value})
