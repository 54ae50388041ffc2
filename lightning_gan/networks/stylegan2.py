"""StyleGAN2, Karras et al. 2020a, after StyleGAN, Karras et al. 2019.

The generator is the paper's Figure 7b (skip connections), the discriminator its Figure 7c (residual connections). Labels enter
as in StyleGAN2-ADA, Karras et al. 2020b.
"""

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_gan.networks.base import Discriminator, StyleGenerator, check_labels
from lightning_gan.networks.convolution import conv2d
from lightning_gan.networks.layers import (
    Blur,
    EqualizedConv2d,
    EqualizedLinear,
    MinibatchStddev,
    Upsample,
    activate,
    count_halvings,
    full_precision,
    normalize,
)
from lightning_gan.randomness import rand, randint, randn


class StyleGAN2Generator(StyleGenerator):
    """Mapping network from latents to styles, then modulated convolutions on a learned constant.

    There are two styles for each resolution: one for each convolution, but for the coarsest resolution, which has only one
    convolution; an output layer shares the style of the convolution after it, and the last has its own.

    In training mode a forward pass draws noise and mixes styles, both by `lightning_gan.randomness`, and updates `mean_style`.

    Args:
        image_shape: (C, H, W), square.
        num_classes: 0 = unconditional.
        latent_dim: length of z.
        latent_distribution: standard normal, or uniform in [-1, 1].
        style_dim: length of a style.
        mapping_layers: dense layers from z to a style.
        channel_base: there are `channel_base // R` channels at a resolution of R px, ...
        max_channels: ... but at most this many.
        style_mixing: share of the images that take their finer styles from a second latent (Karras et al. 2019, Section 3.1).
        mean_decay: what `mean_style` keeps of itself in a forward pass.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        latent_dim: int = 512,
        latent_distribution: Literal["normal", "uniform"] = "normal",
        style_dim: int = 512,
        mapping_layers: int = 8,
        channel_base: int = 16384,
        max_channels: int = 512,
        style_mixing: float = 0.9,
        mean_decay: float = 0.998,
    ) -> None:
        super().__init__(image_shape, num_classes, latent_dim, latent_distribution)
        if mapping_layers < 1:
            raise ValueError(f"mapping_layers must be at least 1, not {mapping_layers}")
        for name, share in {"style_mixing": style_mixing, "mean_decay": mean_decay}.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must lie in [0, 1], and is {share}")
        self.style_mixing = style_mixing
        self.mean_decay = mean_decay

        self.embed = nn.Embedding(num_classes, latent_dim) if num_classes else None
        widths = [latent_dim * (2 if num_classes else 1), *[style_dim] * mapping_layers]
        self.mapping = nn.ModuleList(EqualizedLinear(*dims, multiplier=0.01) for dims in pairwise(widths))
        self.register_buffer("mean_style", torch.zeros(style_dim))

        sizes = _sizes(image_shape)
        channels = _channels(sizes, channel_base, max_channels)
        self.constant = nn.Parameter(torch.randn(1, channels[0], sizes[0], sizes[0]))
        layers = [StyledConv(channels[0], channels[0], style_dim, sizes[0])]
        for (coarse, fine), size in zip(pairwise(channels), sizes[1:], strict=True):
            layers += [StyledConv(coarse, fine, style_dim, size, upsample=True), StyledConv(fine, fine, style_dim, size)]
        self.layers = nn.ModuleList(layers)
        self.outputs = nn.ModuleList(
            ModulatedConv2d(width, image_shape[0], 1, style_dim, demodulate=False) for width in channels
        )
        self.upsample = Upsample()

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        styles = self.styles(z, y)  # (N, layers, style_dim)
        if self.training:
            moved = torch.where(self.mean_style.any(), 1 - self.mean_decay, 1.0)  # it starts where the first batch is
            self.mean_style.lerp_(styles[:, 0].detach().mean(0), moved)
            if self.style_mixing:
                styles = self._mix(styles, y)
        return self.synthesize(styles)  # (N, C, H, W)

    def styles(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        check_labels(self, y)
        with full_precision(z):
            w = normalize(z.float())
            if self.embed is not None:
                w = torch.cat([w, normalize(self.embed(y))], 1)  # (N, 2 * latent_dim)
            for layer in self.mapping:
                w = activate(layer(w))  # (N, style_dim)
            return w.unsqueeze(1).repeat(1, len(self.layers) + 1, 1)

    def synthesize(self, styles: Tensor) -> Tensor:
        w = styles.unbind(1)
        x = self.layers[0](self.constant.expand(len(styles), -1, -1, -1), w[0])
        image = self.outputs[0](x, w[1]).float()
        for i in range(1, len(self.outputs)):
            x = self.layers[2 * i - 1](x, w[2 * i - 1])
            x = self.layers[2 * i](x, w[2 * i])
            output = self.outputs[i](x, w[2 * i + 1])
            with full_precision(image):  # bfloat16 is coarser than the steps of an 8-bit image
                image = self.upsample(image) + output.float()
        return image  # type: ignore[no-any-return]  # torch types every module's output as Any

    def _mix(self, styles: Tensor, y: Tensor | None) -> Tensor:
        """Take the styles from a random layer on from a second latent, in a share of the images."""
        n, layers, _ = styles.shape
        device, shape = styles.device, (n, self.latent_dim)
        z = randn(*shape, device=device) if self.latent_distribution == "normal" else 2 * rand(*shape, device=device) - 1
        crossover = randint(1, layers, n, 1, device=device)
        mixed = rand(n, 1, device=device) < self.style_mixing
        second = mixed & (torch.arange(layers, device=device) >= crossover)  # (N, layers)
        return torch.where(second.unsqueeze(2), self.styles(z, y), styles)


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, noise, and leaky rectifier: a layer of the synthesis network.

    Args:
        size: pixels of a side of its output.
    """

    noise: Tensor

    def __init__(self, in_channels: int, out_channels: int, style_dim: int, size: int, upsample: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, out_channels, 3, style_dim, upsample=upsample)
        self.strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise", torch.randn(size, size))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        x = self.conv(x, style)
        noise = randn(len(x), 1, *x.shape[2:], device=x.device) if self.training else self.noise  # one image for all channels
        return activate(x + (noise * self.strength).to(x.dtype))


class ModulatedConv2d(nn.Module):
    """Convolution whose weights depend on a style, StyleGAN2, Section 2.2; equalized learning rate.

    Its weights are never made: the same is had by scaling the input's channels (Eq. 1) and the output's (Eq. 3), in one
    convolution for all samples.

    Args:
        demodulate: scale to the expected variance of the input (Eq. 3).
        upsample: double the size first, with the filter of `Upsample`. It comes second here, which costs a quarter and differs
            at the border only.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        style_dim: int,
        demodulate: bool = True,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        self.affine = EqualizedLinear(style_dim, in_channels, bias=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.demodulate = demodulate
        self.blur = Blur(padding=1, gain=4) if upsample else None

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        s = self.affine(style)  # (N, in_channels)
        weight = self.weight * self.gain
        x = x * s[..., None, None]
        if self.blur is None:
            x = conv2d(x, weight, None, padding=weight.shape[-1] // 2)
        else:
            x = self.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
        if self.demodulate:
            with full_precision(x):
                variance = s.float().square() @ weight.square().sum((2, 3)).T  # (N, out_channels)
                scale = (variance + 1e-8).rsqrt()
            x = x * scale[..., None, None].to(x.dtype)
        return x + self.bias.view(-1, 1, 1).to(x.dtype)


class StyleGAN2Discriminator(Discriminator):
    """Residual blocks that each halve the size, minibatch standard deviation, and two dense layers.

    A label is embedded and projected on the features (StyleGAN2-ADA, after Miyato and Koyama 2018, without their second term).

    Args:
        image_shape: (C, H, W), square.
        num_classes: 0 = unconditional.
        channel_base: there are `channel_base // R` channels at a resolution of R px, ...
        max_channels: ... but at most this many.
        minibatch_stddev_group: neighbours in the batch that are compared with each other; 0 for no such layer.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        channel_base: int = 16384,
        max_channels: int = 512,
        minibatch_stddev_group: int = 4,
    ) -> None:
        super().__init__(image_shape, num_classes)
        if minibatch_stddev_group < 0:
            raise ValueError(f"minibatch_stddev_group must be 0 for none, or positive, not {minibatch_stddev_group}")
        sizes = _sizes(image_shape)
        channels = _channels(sizes, channel_base, max_channels)
        coarsest = channels[0]
        self.input = EqualizedConv2d(image_shape[0], channels[-1], 1)
        self.blocks = nn.Sequential(*[ResidualBlock(fine, coarse) for fine, coarse in pairwise(reversed(channels))])
        self.stddev = MinibatchStddev(minibatch_stddev_group) if minibatch_stddev_group else nn.Identity()
        self.conv = EqualizedConv2d(coarsest + (minibatch_stddev_group > 0), coarsest, 3)
        self.dense = EqualizedLinear(coarsest * sizes[0] ** 2, coarsest)
        self.output = EqualizedLinear(coarsest, coarsest if num_classes else 1)
        self.embed = nn.Embedding(num_classes, coarsest) if num_classes else None

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        check_labels(self, y)
        h = self.blocks(activate(self.input(x)))  # (N, coarsest, size, size)
        h = activate(self.conv(self.stddev(h)))
        h = self.output(activate(self.dense(h.flatten(1))))
        if self.embed is None:
            return h.squeeze(1)  # type: ignore[no-any-return]  # (N,); torch types every module's output as Any
        return (h * self.embed(y)).sum(1) / math.sqrt(h.shape[1])  # type: ignore[no-any-return]  # the same


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, the second of which halves the size, beside a 1x1 convolution (StyleGAN2, Figure 7c)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = EqualizedConv2d(in_channels, in_channels, 3)
        self.down = nn.Sequential(Blur(padding=2), EqualizedConv2d(in_channels, out_channels, 3, stride=2))
        self.skip = nn.Sequential(Blur(padding=1, stride=2), EqualizedConv2d(in_channels, out_channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        h = activate(self.down(activate(self.conv(x))))
        return (h + self.skip(x)) / math.sqrt(2)  # type: ignore[no-any-return]  # torch types every module's output as Any


def _sizes(image_shape: tuple[int, int, int]) -> list[int]:
    """Sizes from the coarsest, which is 4 or the last that can be halved no further, to the finest."""
    height, width = image_shape[1:]
    sizes = [width // 2**i for i in reversed(range(count_halvings(width) + 1))]
    if height != width or len(sizes) == 1:
        raise ValueError(f"a StyleGAN2 needs square images of an even size above 4 px, not {height}x{width}")
    return sizes


def _channels(sizes: list[int], channel_base: int, max_channels: int) -> list[int]:
    if max_channels < 1:
        raise ValueError(f"max_channels must be at least 1, not {max_channels}")
    if channel_base < sizes[-1]:
        raise ValueError(f"channel_base must be at least the images' {sizes[-1]} px, not {channel_base}")
    return [min(channel_base // size, max_channels) for size in sizes]
