"""R3GAN, Huang et al. 2024: a ResNeXt without normalization, and its mirror image (Section 3, Config E).

Each resolution has a transition, which resamples and changes the width where needed, and residual blocks. Only the blocks are
nonlinear, and only their first two convolutions have biases. The resampling is bilinear: a filter of [1, 2, 1] on pixels that
are repeated or then averaged 2x2 (Appendix E), which together is the [1, 3, 3, 1] of `Upsample` and `Blur`.
"""

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_gan.networks.base import Discriminator, Generator, check_labels
from lightning_gan.networks.convolution import Conv2d
from lightning_gan.networks.layers import Blur, Upsample, coarsest_size, count_halvings

SLOPE = 0.2


class R3GANGenerator(Generator):
    """Learned maps, scaled by z, then residual blocks at each resolution from the coarsest; no tanh.

    A label is embedded and joined to z. The defaults are the paper's: with 3x256x256 images, 23.058M parameters (Table 2).

    Args:
        image_shape: (C, H, W), square.
        num_classes: 0 = unconditional.
        latent_dim: length of z.
        latent_distribution: standard normal, or uniform in [-1, 1].
        width: channels up to 32 px; each finer resolution has half as many.
        channels: channels at each resolution from the coarsest, in place of `width`. Its length is the number of resolutions.
        blocks: residual blocks at each resolution.
        expansion: how many times wider a block is inside.
        group_width: channels in each group of a block's grouped convolution.
        label_dim: length of a label's embedding.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        latent_dim: int = 64,
        latent_distribution: Literal["normal", "uniform"] = "normal",
        width: int = 768,
        channels: list[int] | None = None,
        blocks: int = 2,
        expansion: int = 2,
        group_width: int = 16,
        label_dim: int = 64,
    ) -> None:
        super().__init__(image_shape, num_classes, latent_dim, latent_distribution)
        channels = channels or _channels(image_shape, width)
        self.embed = nn.Embedding(num_classes, label_dim) if num_classes else None
        self.basis = _Basis(
            latent_dim + (label_dim if num_classes else 0), channels[0], coarsest_size(image_shape, len(channels) - 1)
        )
        total = blocks * len(channels)
        layers: list[nn.Module] = [_Block(channels[0], expansion, group_width, total) for _ in range(blocks)]
        for coarse, fine in pairwise(channels):
            # The two commute: both are linear, one within channels, the other within pixels. At the coarse end it is cheaper.
            layers += [*_rewidth(coarse, fine), Upsample()]
            layers += [_Block(fine, expansion, group_width, total) for _ in range(blocks)]
        layers.append(_linear(Conv2d(channels[-1], image_shape[0], 1, bias=False)))
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        check_labels(self, y)
        if self.embed is not None:
            z = torch.cat([z, self.embed(y)], 1)  # (N, latent_dim + label_dim)
        x = self.basis(z)  # (N, channels[0], size, size)
        return self.layers(x)  # type: ignore[no-any-return]  # (N, C, H, W); torch types every module's output as Any


class R3GANDiscriminator(Discriminator):
    """The generator upside down: residual blocks at each resolution from the finest, weighted sums of the maps, a linear layer.

    Conditional, the linear layer keeps the width and its output is projected on the label's embedding (Miyato and Koyama 2018),
    over the square root of the width. The defaults are the paper's: with 3x256x256 images, 23.010M parameters (Table 2).

    Args:
        image_shape: (C, H, W), square.
        num_classes: 0 = unconditional.
        width: channels up to 32 px; each finer resolution has half as many.
        channels: channels at each resolution from the coarsest, as in the generator, in place of `width`.
        blocks: residual blocks at each resolution.
        expansion: how many times wider a block is inside.
        group_width: channels in each group of a block's grouped convolution.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        width: int = 768,
        channels: list[int] | None = None,
        blocks: int = 2,
        expansion: int = 2,
        group_width: int = 16,
    ) -> None:
        super().__init__(image_shape, num_classes)
        channels = (channels or _channels(image_shape, width))[::-1]
        size = coarsest_size(image_shape, len(channels) - 1)
        total = blocks * len(channels)
        layers: list[nn.Module] = [_linear(Conv2d(image_shape[0], channels[0], 1, bias=False))]
        layers += [_Block(channels[0], expansion, group_width, total) for _ in range(blocks)]
        for fine, coarse in pairwise(channels):
            layers += [Blur(padding=1, stride=2), *_rewidth(fine, coarse)]
            layers += [_Block(coarse, expansion, group_width, total) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers)
        self.maps = nn.Parameter(torch.randn(channels[-1], size, size) / size)
        self.dense = _linear(nn.Linear(channels[-1], channels[-1] if num_classes else 1, bias=False))
        self.embed = nn.Embedding(num_classes, channels[-1]) if num_classes else None

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        check_labels(self, y)
        h = (self.layers(x) * self.maps).sum((2, 3))  # (N, channels[-1]), what a depthwise convolution as large as the map does
        h = self.dense(h)  # (N, channels[-1]), or (N, 1) if unconditional
        if self.embed is not None:
            h = h * self.embed(y) / math.sqrt(self.embed.embedding_dim)
        return h.sum(1)  # type: ignore[no-any-return]  # (N,)


class _Basis(nn.Module):
    """Learned maps, each scaled by a linear function of z: (N, inputs) -> (N, width, size, size)."""

    def __init__(self, inputs: int, width: int, size: int) -> None:
        super().__init__()
        self.maps = nn.Parameter(torch.randn(width, size, size))
        self.dense = _linear(nn.Linear(inputs, width, bias=False))

    def forward(self, z: Tensor) -> Tensor:
        scale: Tensor = self.dense(z)  # (N, width)
        return scale[:, :, None, None] * self.maps.to(scale.dtype)


class _Block(nn.Module):
    """Inverted bottleneck with a grouped convolution, and the identity at the start.

    Without normalization the variance must not grow with depth. As in Fixup (Zhang et al. 2019) the last convolution starts
    at zero and the others are scaled down by L^(-1 / (2m - 2)), for m = 3 convolutions in each of the network's L blocks.
    """

    def __init__(self, width: int, expansion: int, group_width: int, total: int) -> None:
        super().__init__()
        inside = width * expansion
        if min(expansion, group_width) < 1 or inside % group_width:
            raise ValueError(f"group_width={group_width} does not divide a width of {width} times an expansion of {expansion}")
        expand = Conv2d(width, inside, 1)
        grouped = Conv2d(inside, inside, 3, padding=1, groups=inside // group_width)
        project = Conv2d(inside, width, 1, bias=False)
        with torch.no_grad():
            for layer in (expand, grouped):
                nn.init.kaiming_normal_(layer.weight, SLOPE).mul_(total**-0.25)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # torch types the bias of any convolution as optional
            nn.init.zeros_(project.weight)
        self.layers = nn.Sequential(expand, nn.LeakyReLU(SLOPE), grouped, nn.LeakyReLU(SLOPE), project)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)  # type: ignore[no-any-return]  # torch types every module's output as Any


def _rewidth(before: int, after: int) -> list[nn.Module]:
    return [] if before == after else [_linear(Conv2d(before, after, 1, bias=False))]


def _linear(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """Start a layer that no rectifier follows so that it keeps the variance."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    return layer


def _channels(image_shape: tuple[int, int, int], width: int) -> list[int]:
    """Channels from the coarsest resolution to the finest. The coarsest is 4 pixels wide or can be halved no further."""
    size = image_shape[-1]
    sizes = [size // 2**i for i in reversed(range(count_halvings(size) + 1))]
    channels = [width // 2 ** max(0, math.ceil(math.log2(size / 32))) for size in sizes]
    if channels[-1] < 1:
        raise ValueError(f"width={width}, halved above 32 px, leaves no channel for {size} px")
    return channels
