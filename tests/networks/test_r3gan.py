import math
from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_gan.networks import R3GANDiscriminator, R3GANGenerator

Network = type[R3GANGenerator] | type[R3GANDiscriminator]
NETWORKS = [R3GANGenerator, R3GANDiscriminator]
PUBLISHED = [  # Table 9: its channels and groups as our arguments, and millions of parameters
    ((3, 32, 32), 0, {}, 20.73, 20.68),  # Stacked MNIST
    ((3, 32, 32), 10, {}, 20.78, 21.28),  # CIFAR-10
    ((3, 256, 256), 0, {}, 23.06, 23.01),  # FFHQ
    ((3, 64, 64), 0, {}, 22.43, 22.38),
    ((3, 32, 32), 1000, {"width": 1536, "group_width": 32}, 82.91, 86.55),  # ImageNet
    ((3, 64, 64), 1000, {"channels": [1536] * 5, "group_width": 32}, 103.57, 107.21),
]


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def convolutions(network: nn.Module) -> list[list[Any]]:
    """The three convolutions of each block."""
    blocks = [list(layer.modules()) for layer in network.get_submodule("layers").children() if hasattr(layer, "layers")]
    return [[layer for layer in block if isinstance(layer, nn.Conv2d)] for block in blocks]


def randomized(network: nn.Module) -> Any:
    """The network somewhere in training: no convolution is zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


@pytest.mark.parametrize(("image_shape", "num_classes", "arguments", "generator", "discriminator"), PUBLISHED)
def test_as_many_parameters_as_published(
    image_shape: tuple[int, int, int], num_classes: int, arguments: dict[str, Any], generator: float, discriminator: float
) -> None:
    with torch.device("meta"):
        assert round(count(R3GANGenerator(image_shape, num_classes, **arguments)) / 1e6, 2) == generator
        assert round(count(R3GANDiscriminator(image_shape, num_classes, **arguments)) / 1e6, 2) == discriminator


def test_config_e_has_as_many_parameters_as_published() -> None:
    with torch.device("meta"):  # Table 2, one more digit
        assert round(count(R3GANGenerator((3, 256, 256))) / 1e6, 3) == 23.058
        assert round(count(R3GANDiscriminator((3, 256, 256))) / 1e6, 3) == 23.010


@pytest.mark.parametrize("num_classes", [0, 5])
@pytest.mark.parametrize(
    ("size", "channels", "blocks", "expansion", "group_width"),
    [(16, [8, 8, 8], 1, 2, 4), (28, [12, 8, 4], 2, 3, 2), (24, [6, 6], 3, 1, 6)],
)
def test_parameter_counts(
    size: int, channels: list[int], blocks: int, expansion: int, group_width: int, num_classes: int
) -> None:
    coarsest = size // 2 ** (len(channels) - 1)
    # Per block: 1x1 there and back, 3x3 from group_width channels to each of the inner ones, two biases.
    inside = [expansion * width for width in channels]
    body = blocks * sum(inner * (2 * width + 9 * group_width + 2) for width, inner in zip(channels, inside, strict=True))
    body += sum(a * b for a, b in pairwise(channels) if a != b)  # transitions
    body += 3 * channels[-1]  # from or to RGB
    options: dict[str, Any] = {"channels": channels, "blocks": blocks, "expansion": expansion, "group_width": group_width}
    latent = 7 + (num_classes > 0) * 3
    generator = R3GANGenerator((3, size, size), num_classes, latent_dim=7, label_dim=3, **options)
    assert count(generator) == body + channels[0] * (coarsest**2 + latent) + num_classes * 3
    discriminator = R3GANDiscriminator((3, size, size), num_classes, **options)
    head = channels[0] * (channels[0] + num_classes) if num_classes else channels[0]
    assert count(discriminator) == body + channels[0] * coarsest**2 + head


@pytest.mark.parametrize(("size", "channels"), [(16, [8] * 3), (28, [8] * 3), (32, [8] * 4), (128, [8, 8, 8, 8, 4, 2])])
def test_width_halves_above_32_px(size: int, channels: list[int]) -> None:
    for network in NETWORKS:
        by_width = network((1, size, size), width=8, group_width=2)
        assert count(by_width) == count(network((1, size, size), channels=channels, group_width=2))
    assert R3GANGenerator((1, size, size), width=8, group_width=2).basis.maps.shape[1:] == ((7, 7) if size == 28 else (4, 4))


def test_a_block_is_an_inverted_bottleneck_with_groups() -> None:
    for network in NETWORKS:
        blocks = convolutions(network((3, 64, 64), width=32))
        assert len(blocks) == 10
        # 4..32 px are 32 wide and 64 inside, in 4 groups of 16; 64 px is 16 wide and 32 inside, in 2 groups.
        shapes = [[tuple(layer.weight.shape) for layer in block] for block in blocks]
        wide, narrow = [(64, 32, 1, 1), (64, 16, 3, 3), (32, 64, 1, 1)], [(32, 16, 1, 1), (32, 16, 3, 3), (16, 32, 1, 1)]
        finest_last = [wide] * 8 + [narrow] * 2
        assert shapes == (finest_last if network is R3GANGenerator else finest_last[::-1])
        assert [block[1].groups for block in blocks] == [shape[1][0] // 16 for shape in shapes]
        assert all((block[0].bias is not None, block[1].bias is not None, block[2].bias is None) for block in blocks)


def test_a_block_by_hand() -> None:
    network = randomized(R3GANGenerator((1, 8, 8), width=4, blocks=1, group_width=2))
    expand, grouped, project = convolutions(network)[0]
    x = torch.randn(2, 4, 4, 4)
    h = F.leaky_relu(torch.einsum("oi,nihw->nohw", expand.weight[..., 0, 0], x) + expand.bias.view(8, 1, 1), 0.2)
    halves = [F.conv2d(h[:, i : i + 2], grouped.weight[i : i + 2], grouped.bias[i : i + 2], padding=1) for i in (0, 2, 4, 6)]
    h = F.leaky_relu(torch.cat(halves, 1), 0.2)
    assert_close(network.layers[0](x), x + torch.einsum("oi,nihw->nohw", project.weight[..., 0, 0], h))


@pytest.mark.parametrize("network", NETWORKS)
def test_weights_start_as_in_the_paper(network: Network) -> None:
    torch.manual_seed(0)
    blocks = convolutions(network((3, 32, 32), width=256))
    scale = math.sqrt(2 / 1.04) * 8**-0.25  # of He et al. for a slope of 0.2; 4 resolutions of 2 blocks
    for expand, grouped, project in blocks:
        assert_close(expand.weight.std(), torch.tensor(scale / math.sqrt(256)), rtol=0.01, atol=0)
        assert_close(grouped.weight.std(), torch.tensor(scale / math.sqrt(16 * 9)), rtol=0.01, atol=0)
        assert not any(parameter.any() for parameter in (expand.bias, grouped.bias, project.weight))


def test_blocks_start_as_the_identity() -> None:
    torch.manual_seed(0)
    for network, x in [(R3GANGenerator, torch.randn(2, 8)), (R3GANDiscriminator, torch.randn(2, 3, 16, 16))]:
        options: dict[str, Any] = {"latent_dim": 8} if network is R3GANGenerator else {}
        deep = network((3, 16, 16), width=8, blocks=2, group_width=4, **options)
        with_blocks = deep(x)
        layers = deep.get_submodule("layers")
        deep.layers = nn.Sequential(*[layer for layer in layers.children() if not hasattr(layer, "layers")])
        assert torch.equal(deep(x), with_blocks)


def test_the_variance_is_kept_at_the_start() -> None:
    torch.manual_seed(0)
    generator = R3GANGenerator((64, 16, 16), channels=[256, 128, 64])
    z = torch.randn(128, 64)
    assert_close(generator.basis(z).var(), torch.tensor(1.0), rtol=0.1, atol=0)
    # Constant maps, which smoothing leaves as they are but for the two pixels next to the border.
    nn.init.ones_(generator.basis.maps)
    assert_close(generator(z)[..., 4:-4, 4:-4].var(), torch.tensor(1.0), rtol=0.15, atol=0)
    discriminator = R3GANDiscriminator((64, 16, 16), channels=[256, 128, 64])
    x = torch.randn(128, 64, 1, 1).expand(128, 64, 16, 16)
    assert_close(discriminator.layers(x)[..., 1:-1, 1:-1].var(), torch.tensor(1.0), rtol=0.15, atol=0)
    assert_close(discriminator(x).var(), torch.tensor(0.75), rtol=0.4, atol=0)  # the border has less


def upsampled(x: Tensor) -> Tensor:
    return R3GANGenerator((1, 8, 8), width=1, blocks=0).layers[0](x)  # type: ignore[no-any-return]  # torch types every module's output as Any


def downsampled(x: Tensor) -> Tensor:
    return R3GANDiscriminator((1, 8, 8), width=1, blocks=0).layers[1](x)  # type: ignore[no-any-return]  # torch types every module's output as Any


def test_resampling_is_bilinear() -> None:
    x = torch.randn(2, 3, 8, 8)
    low_pass = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = torch.outer(low_pass, low_pass).expand(3, 1, 3, 3)
    # As Appendix E puts it: [1, 2, 1] after repeating, or before averaging 2x2.
    assert_close(upsampled(x), F.conv2d(x.repeat_interleave(2, 2).repeat_interleave(2, 3), kernel, padding=1, groups=3))
    assert_close(downsampled(x), F.avg_pool2d(F.conv2d(x, kernel, padding=1, groups=3), 2))
    # As torch has it, but for its repeated border.
    assert_close(upsampled(x)[..., 1:-1, 1:-1], F.interpolate(x, scale_factor=2, mode="bilinear")[..., 1:-1, 1:-1])
    halved = F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)
    assert_close(downsampled(x)[..., 1:-1, 1:-1], halved[..., 1:-1, 1:-1])


def test_resampling_a_constant_and_an_impulse() -> None:
    edges = torch.tensor([0.75, 1, 1, 1, 1, 0.75])
    assert_close(upsampled(torch.ones(1, 1, 3, 3))[0, 0], torch.outer(edges, edges))
    edges = torch.tensor([0.875, 1, 0.875])
    assert_close(downsampled(torch.ones(1, 1, 6, 6))[0, 0], torch.outer(edges, edges))
    impulse = torch.zeros(1, 1, 4, 4)
    impulse[0, 0, 1, 1] = 16
    taps = torch.tensor([0.0, 1, 3, 3, 1, 0, 0, 0])
    assert_close(upsampled(impulse)[0, 0], torch.outer(taps, taps))
    assert_close(downsampled(impulse)[0, 0], torch.tensor([[2.25, 0.75], [0.75, 0.25]]))  # 16 * (3/8, 1/8) squared


def test_transitions_commute() -> None:
    # So the order inside a transition is only a matter of cost.
    for network, (first, second) in [(R3GANGenerator, (0, 1)), (R3GANDiscriminator, (1, 2))]:
        layers = network((1, 8, 8), channels=[4, 2], expansion=1, group_width=1, blocks=0).layers
        x = torch.randn(2, 4 if network is R3GANGenerator else 2, 8, 8)
        assert_close(layers[second](layers[first](x)), layers[first](layers[second](x)))


def test_the_basis_by_hand() -> None:
    basis = R3GANGenerator((1, 8, 8), latent_dim=2, channels=[2, 2], group_width=1).basis
    with torch.no_grad():
        basis.dense.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
        basis.maps.copy_(torch.arange(32.0).view(2, 4, 4))
    maps = torch.arange(16.0).view(4, 4)
    assert_close(basis(torch.tensor([[3.0, 0.5]]))[0], torch.stack([4 * maps, -0.5 * (maps + 16)]))


def test_a_latent_of_zeros_is_the_mean_image() -> None:
    # What comes out of it is the same for all latents: nothing at the start, what the biases have learned later.
    generator = R3GANGenerator((1, 16, 16), width=8, group_width=4)
    assert not generator(torch.zeros(2, 64)).any()
    trained = randomized(generator)(torch.zeros(2, 64))
    assert trained.std() > 0
    assert_close(trained[0], trained[1])


def test_a_label_is_joined_to_the_latent() -> None:
    generator = R3GANGenerator((1, 16, 16), 3, latent_dim=4, width=8, group_width=4, label_dim=2)
    z, y = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    by_hand = generator.layers(generator.basis(torch.cat([z, generator.get_parameter("embed.weight")[y]], 1)))
    assert_close(generator(z, y), by_hand)


def test_features_are_projected_on_the_label() -> None:
    discriminator = randomized(R3GANDiscriminator((1, 16, 16), 3, width=4, blocks=1, group_width=4))
    x, y = torch.randn(2, 1, 16, 16), torch.tensor([2, 0])
    h = discriminator.layers(x)  # (2, 4, 4, 4)
    sums = F.conv2d(h, discriminator.maps[:, None], groups=4)[..., 0, 0]  # the paper's global depthwise convolution
    features = sums @ discriminator.dense.weight.T
    embedding = discriminator.embed.weight
    by_hand = torch.stack([features[0] @ embedding[2], features[1] @ embedding[0]]) / 2  # the root of the width, 4
    assert_close(discriminator(x, y), by_hand)
    assert not torch.isclose(discriminator(x, torch.tensor([1, 1])), by_hand).any()


@pytest.mark.parametrize("network", NETWORKS)
def test_what_cannot_be_built_is_refused(network: Network) -> None:
    with pytest.raises(ValueError, match="not 32x64"):
        network((1, 32, 64), width=32)
    with pytest.raises(ValueError, match="16 px, not 28x28"):
        network((1, 28, 28), channels=[32] * 5)
    with pytest.raises(ValueError, match="group_width=16 does not divide a width of 4 times an expansion of 2"):
        network((1, 16, 16), width=4)
    with pytest.raises(ValueError, match="leaves no channel for 128 px"):
        network((1, 128, 128), width=2, group_width=1)


def test_bf16_autocast() -> None:
    generator = randomized(R3GANGenerator((1, 16, 16), 3, width=8, group_width=4))
    discriminator = randomized(R3GANDiscriminator((1, 16, 16), 3, width=8, group_width=4))
    z, y = torch.randn(4, 64), torch.tensor([0, 1, 2, 0])
    with torch.autocast("cpu", torch.bfloat16):
        assert generator.basis(torch.cat([z, generator.embed(y)], 1)).dtype == torch.bfloat16  # and so the sums
        x = generator(z, y)
        logits = discriminator(x, y)
    exact = discriminator(generator(z, y), y)
    assert logits.isfinite().all()
    assert_close(logits.float(), exact, rtol=0.05, atol=0.05 * exact.abs().max().item())


@pytest.mark.parametrize("network", NETWORKS)
def test_copies_and_checkpoints(network: Network) -> None:
    first = randomized(network((1, 16, 16), width=8, group_width=4))
    second = network((1, 16, 16), width=8, group_width=4)
    second.load_state_dict(first.state_dict())
    x = torch.randn(2, 64) if network is R3GANGenerator else torch.randn(2, 1, 16, 16)
    assert torch.equal(second(x), first(x))
    assert torch.equal(deepcopy(first)(x), first(x))
