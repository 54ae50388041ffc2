"""ResNets of SNGAN (Miyato et al. 2018, Tables 3 to 5) with the projection discriminator (Miyato and Koyama 2018).

What the papers leave open is as in the authors' published code: weights start Xavier uniform, with gain sqrt(2) in the residual
branches, biases at zero, and a discriminator's block widens in its second convolution.
"""

from itertools import pairwise
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gan.networks.base import Discriminator, Generator, check_labels
from lightning_gan.networks.convolution import Conv2d
from lightning_gan.networks.layers import coarsest_size, count_halvings, normalize_spectra

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear, nn.Embedding)


class ResNetGenerator(Generator):
    """Dense layer to the coarsest resolution, then residual blocks, each doubling it.

    A label chooses the gain and bias of the batch normalization in the blocks (Dumoulin et al. 2017); it is not joined to z.

    Args:
        image_shape: (C, H, W), square.
        num_classes: 0 = unconditional.
        latent_dim: length of z.
        latent_distribution: standard normal, or uniform in [-1, 1].
        width: 64 gives the paper's networks. Up to 32 px there are 4 * width channels throughout; above, `width` at the finest
            resolution and twice as many at each coarser one, up to 16 * width.
        channels: channels at each resolution from the coarsest, in place of `width`: one more than there are doublings.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        latent_dim: int = 128,
        latent_distribution: Literal["normal", "uniform"] = "normal",
        width: int = 64,
        channels: list[int] | None = None,
    ) -> None:
        super().__init__(image_shape, num_classes, latent_dim, latent_distribution)
        if channels is None:
            doublings = count_halvings(image_shape[-1], above=7)  # the paper starts from 6 px for images of 48
            channels = [4 * width] * (doublings + 1) if image_shape[-1] <= 32 else _capped(width, doublings + 1)[::-1]
        size = coarsest_size(image_shape, len(channels) - 1)
        self.dense = _xavier(nn.Linear(latent_dim, channels[0] * size * size))
        self.unflatten = nn.Unflatten(1, (channels[0], size, size))
        self.blocks = nn.ModuleList(GeneratorBlock(coarse, fine, num_classes) for coarse, fine in pairwise(channels))
        self.norm = nn.BatchNorm2d(channels[-1])  # the same for every label, also in a conditional network
        self.conv = _xavier(Conv2d(channels[-1], image_shape[0], 3, padding=1))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        check_labels(self, y)
        h = self.unflatten(self.dense(z))  # (N, channels[0], size, size)
        for block in self.blocks:
            h = block(h, y)
        return self.conv(F.relu(self.norm(h))).tanh()  # type: ignore[no-any-return]  # (N, C, H, W); torch types it as Any


class ResNetDiscriminator(Discriminator):
    """Residual blocks, of which the first ones halve the resolution, sum over all pixels, dense layer to one logit.

    A label adds the inner product of its embedding and the features, Miyato and Koyama 2018, Eq. 3.

    Args:
        image_shape: (C, H, W), square.
        num_classes: 0 = unconditional.
        width: 64 gives the paper's networks. Up to 32 px there are 4 blocks of 2 * width channels; above, `width` after the
            first block and twice as many after each further one, up to 16 * width.
        channels: channels after each block, in place of `width`.
        halvings: how many blocks halve the resolution. By default 2 up to 32 px; above, as many as lead to 4 px or an odd size,
            after which one block follows. (At 64 px the authors' published code halves once more: 5.)
        spectral_norm: divide every weight by its largest singular value. Without, this is the critic of Gulrajani et al. 2017,
            Appendix F: there is no batch normalization, so the gradient penalty may be used.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        width: int = 64,
        channels: list[int] | None = None,
        halvings: int | None = None,
        spectral_norm: bool = True,
    ) -> None:
        super().__init__(image_shape, num_classes)
        small = image_shape[-1] <= 32
        planned = 2 if small else count_halvings(image_shape[-1])
        channels = channels or ([2 * width] * 4 if small else _capped(width, planned + 1))
        halvings = planned if halvings is None else halvings
        coarsest_size(image_shape, halvings)  # refuses other sizes
        if halvings > len(channels):
            raise ValueError(f"halvings must be at most the number of blocks, {len(channels)}, not {halvings}")
        self.blocks = nn.Sequential(
            *(
                DiscriminatorBlock(before, after, halve=i < halvings, first=i == 0)
                for i, (before, after) in enumerate(pairwise([image_shape[0], *channels]))
            )
        )
        self.dense = _xavier(nn.Linear(channels[-1], 1))
        self.embed = _xavier(nn.Embedding(num_classes, channels[-1])) if num_classes else None
        if spectral_norm:
            normalize_spectra(self)

    def features(self, x: Tensor) -> Tensor:
        """What the logit is linear in: (N, C, H, W) -> (N, channels[-1])."""
        return F.relu(self.blocks(x)).sum((2, 3))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        check_labels(self, y)
        h = self.features(x)  # (N, channels[-1])
        logits = self.dense(h).squeeze(1)  # (N,)
        if self.embed is not None:
            logits = logits + (self.embed(y) * h).sum(1)
        return logits  # type: ignore[no-any-return]  # torch types every module's output as Any


class ConditionalBatchNorm2d(nn.Module):
    """Batch normalization with a gain and a bias for each class, Dumoulin et al. 2017; plain if there are no classes."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=num_classes == 0)
        self.embed = nn.Embedding(num_classes, 2 * channels) if num_classes else None
        if self.embed is not None:
            nn.init.ones_(self.embed.weight[:, :channels])
            nn.init.zeros_(self.embed.weight[:, channels:])

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        h: Tensor = self.norm(x)
        if self.embed is None:
            return h
        gain, bias = self.embed(y).to(h.dtype)[..., None, None].chunk(2, 1)  # (N, channels, 1, 1) each
        return torch.addcmul(bias, gain, h)


class GeneratorBlock(nn.Module):
    """Residual block that doubles the resolution."""

    def __init__(self, before: int, after: int, num_classes: int = 0) -> None:
        super().__init__()
        self.norm1 = ConditionalBatchNorm2d(before, num_classes)
        self.conv1 = _xavier(Conv2d(before, after, 3, padding=1), gain=2**0.5)
        self.norm2 = ConditionalBatchNorm2d(after, num_classes)
        self.conv2 = _xavier(Conv2d(after, after, 3, padding=1), gain=2**0.5)
        self.shortcut = _xavier(Conv2d(before, after, 1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.conv1(F.interpolate(F.relu(self.norm1(x, y)), scale_factor=2))
        h = self.conv2(F.relu(self.norm2(h, y)))
        # A 1x1 convolution and the repetition of pixels commute: this order costs a quarter.
        return h + F.interpolate(self.shortcut(x), scale_factor=2)  # type: ignore[no-any-return]  # torch types h as Any


class DiscriminatorBlock(nn.Module):
    """Residual block without normalization.

    Args:
        before: channels of the input.
        after: channels of the output.
        halve: average 2x2 pixels at the end.
        first: the input is the image, which must not be rectified.
    """

    def __init__(self, before: int, after: int, halve: bool, first: bool = False) -> None:
        super().__init__()
        self.halve = halve
        self.first = first
        between = after if first else before
        self.conv1 = _xavier(Conv2d(before, between, 3, padding=1), gain=2**0.5)
        self.conv2 = _xavier(Conv2d(between, after, 3, padding=1), gain=2**0.5)
        self.shortcut = _xavier(Conv2d(before, after, 1)) if halve or before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        if not self.halve:
            return h + self.shortcut(x)  # type: ignore[no-any-return]  # torch types every module's output as Any
        # A 1x1 convolution and the average of pixels commute: this order costs a quarter.
        return F.avg_pool2d(h, 2) + self.shortcut(F.avg_pool2d(x, 2))  # type: ignore[no-any-return]  # as above


def _capped(width: int, n: int) -> list[int]:
    return [width * min(2**i, 16) for i in range(n)]


def _xavier(layer: Layer, gain: float = 1.0) -> Layer:
    nn.init.xavier_uniform_(layer.weight, gain)
    if not isinstance(layer, nn.Embedding) and layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
