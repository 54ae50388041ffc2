"""DCGAN, Radford et al. 2016: strided convolutions, batch normalization, no pooling, no hidden dense layers."""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_gan.networks.base import Discriminator, Generator, check_labels
from lightning_gan.networks.convolution import Conv2d
from lightning_gan.networks.layers import Dropout, coarsest_size, count_halvings, normalize_spectra, on_flat


class DCGANGenerator(Generator):
    """Dense layer to the coarsest resolution, then transposed convolutions (kernel 4, stride 2), each doubling it.

    A label is embedded and joined to z (Mirza and Osindero 2014).

    Args:
        image_shape: (C, H, W), square.
        num_classes: 0 = unconditional.
        latent_dim: length of z.
        latent_distribution: standard normal, or uniform in [-1, 1].
        width: channels at the finest resolution; each coarser one has twice as many.
        channels: channels at each resolution from the coarsest, in place of `width`. Its length is the number of doublings.
        negative_slope: of the leaky rectifiers; 0 for the paper's plain ones.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        latent_dim: int = 100,
        latent_distribution: Literal["normal", "uniform"] = "normal",
        width: int = 64,
        channels: list[int] | None = None,
        negative_slope: float = 0.0,
    ) -> None:
        super().__init__(image_shape, num_classes, latent_dim, latent_distribution)
        channels = channels or _doubling(image_shape, width)[::-1]
        size = coarsest_size(image_shape, len(channels))
        self.embed = nn.Embedding(num_classes, latent_dim) if num_classes else None
        self.dense = nn.Linear(latent_dim * (2 if num_classes else 1), channels[0] * size * size)
        self.unflatten = nn.Unflatten(1, (channels[0], size, size))
        layers: list[nn.Module] = [nn.BatchNorm2d(channels[0]), nn.LeakyReLU(negative_slope)]
        for coarse, fine in pairwise(channels):
            layers += [
                nn.ConvTranspose2d(coarse, fine, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(fine),
                nn.LeakyReLU(negative_slope),
            ]
        layers += [nn.ConvTranspose2d(channels[-1], image_shape[0], 4, stride=2, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.apply(_initialize)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        check_labels(self, y)
        if self.embed is not None:
            z = torch.cat([z, self.embed(y)], 1)  # (N, 2 * latent_dim)
        x = self.unflatten(self.dense(z))  # (N, channels[0], size, size)
        return self.layers(x)  # type: ignore[no-any-return]  # (N, C, H, W); torch types every module's output as Any


class DCGANDiscriminator(Discriminator):
    """Convolutions of stride 2, each halving the resolution, then a dense layer to one logit.

    A label is embedded as one more channel of the image (Mirza and Osindero 2014).

    Args:
        image_shape: (C, H, W), square.
        num_classes: 0 = unconditional.
        width: channels after the first convolution; each further one doubles them.
        channels: channels after each convolution, in place of `width`. Its length is the number of halvings.
        batch_norm: normalize after every convolution but the first, as in the paper.
        dropout: probability of dropping a feature, after every convolution.
        negative_slope: of the leaky rectifiers.
        kernel_size: of the convolutions, at least 2.
        spectral_norm: divide the weights that the image meets by their largest singular values, Miyato et al. 2018.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        width: int = 64,
        channels: list[int] | None = None,
        batch_norm: bool = True,
        dropout: float = 0.0,
        negative_slope: float = 0.2,
        kernel_size: int = 4,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__(image_shape, num_classes)
        if kernel_size < 2:
            raise ValueError(f"kernel_size must be at least 2, so that a stride of 2 skips no pixel, not {kernel_size}")
        channels = channels or _doubling(image_shape, width)
        size = coarsest_size(image_shape, len(channels))
        layers: list[nn.Module] = []
        for i, (fine, coarse) in enumerate(pairwise([image_shape[0] + (num_classes > 0), *channels])):
            normalized = batch_norm and i > 0
            padding = (kernel_size - 1) // 2  # halves any even size
            layers.append(Conv2d(fine, coarse, kernel_size, stride=2, padding=padding, bias=not normalized))
            if normalized:
                layers.append(nn.BatchNorm2d(coarse))
            layers.append(nn.LeakyReLU(negative_slope))
            if dropout:
                layers.append(Dropout(dropout))
        self.layers = nn.Sequential(*layers)
        self.dense = nn.Linear(channels[-1] * size * size, 1)
        self.embed = nn.Embedding(num_classes, image_shape[1] * image_shape[2]) if num_classes else None
        self.apply(_initialize)
        if spectral_norm:
            normalize_spectra(self.layers)
            normalize_spectra(self.dense)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        check_labels(self, y)
        if self.embed is not None:
            x = torch.cat([x, self.embed(y).view(len(x), 1, *x.shape[2:])], 1)  # (N, C + 1, H, W)
        h = self.layers(x)  # (N, channels[-1], size, size)
        return on_flat(self.dense, h).squeeze(1)  # (N,)


def _doubling(image_shape: tuple[int, int, int], width: int) -> list[int]:
    """Channels from the finest resolution to the coarsest, which is 4 pixels wide or the last that can be halved no further."""
    return [width * 2**i for i in range(count_halvings(image_shape[-1]))]


def _initialize(module: nn.Module) -> None:
    """Weights from N(0, 0.02), Radford et al. 2016, Section 4; scales of batch normalization about 1 likewise."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
