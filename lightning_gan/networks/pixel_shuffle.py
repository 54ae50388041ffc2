"""A DCGAN for small images, quick on a CPU: no convolution at full size, where the channels are few and the pixels many.

Blocks of 2x2 pixels are channels of an image of half the size (sub-pixel convolution, Shi et al. 2016). Hidden layers are
channels last in memory from the dense layer on, or up to it: where gradients are ordered otherwise than the activations that
they meet, a rectifier takes twenty times as long.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from lightning_gan.networks.base import Discriminator, Generator, check_labels
from lightning_gan.networks.convolution import Conv2d
from lightning_gan.networks.layers import coarsest_size


class PixelShuffleGenerator(Generator):
    """Dense layer to a quarter of the size, transposed convolution to half of it, 3x3 convolutions, the last to blocks.

    A label is embedded and joined to z (Mirza and Osindero 2014).

    Args:
        image_shape: (C, H, W), square, a multiple of 4.
        num_classes: 0 = unconditional.
        latent_dim: length of z.
        latent_distribution: standard normal, or uniform in [-1, 1].
        coarse: channels at a quarter of the size.
        fine: channels at half of it.
        convolutions: at half of the size, before the last.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        latent_dim: int = 64,
        latent_distribution: Literal["normal", "uniform"] = "normal",
        coarse: int = 64,
        fine: int = 32,
        convolutions: int = 1,
    ) -> None:
        super().__init__(image_shape, num_classes, latent_dim, latent_distribution)
        size = coarsest_size(image_shape, 2)
        self.embed = nn.Embedding(num_classes, latent_dim) if num_classes else None
        self.dense = nn.Linear(latent_dim * (2 if num_classes else 1), size * size * coarse)
        self.unflatten = nn.Unflatten(1, (size, size, coarse))
        layers: list[nn.Module] = [nn.BatchNorm2d(coarse), nn.ReLU()]
        layers += [nn.ConvTranspose2d(coarse, fine, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(fine), nn.ReLU()]
        for _ in range(convolutions):
            layers += [nn.Conv2d(fine, fine, 3, padding=1, bias=False), nn.BatchNorm2d(fine), nn.ReLU()]
        layers += [nn.Conv2d(fine, 4 * image_shape[0], 3, padding=1), nn.PixelShuffle(2), nn.Tanh()]  # to (N, C, H, W)
        self.layers = nn.Sequential(*layers)
        self.apply(_initialize)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        check_labels(self, y)
        if self.embed is not None:
            z = torch.cat([z, self.embed(y)], 1)  # (N, 2 * latent_dim)
        x = self.unflatten(self.dense(z)).permute(0, 3, 1, 2)  # (N, coarse, H / 4, W / 4)
        return self.layers(x)  # type: ignore[no-any-return]  # (N, C, H, W); torch types every module's output as Any


class PixelShuffleDiscriminator(Discriminator):
    """3x3 convolution of blocks of pixels, convolution of stride 2, hidden dense layer, which sees the whole, and one logit.

    A label is embedded as one more channel of the image (Mirza and Osindero 2014).

    Args:
        image_shape: (C, H, W), square, a multiple of 4.
        num_classes: 0 = unconditional.
        fine: channels at half of the size.
        coarse: channels at a quarter of it.
        hidden: features of the hidden dense layer.
        negative_slope: of the leaky rectifiers.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        fine: int = 16,
        coarse: int = 64,
        hidden: int = 256,
        negative_slope: float = 0.2,
    ) -> None:
        super().__init__(image_shape, num_classes)
        size = coarsest_size(image_shape, 2)
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(2),
            Conv2d(4 * (image_shape[0] + (num_classes > 0)), fine, 3, padding=1),
            nn.LeakyReLU(negative_slope),
            Conv2d(fine, coarse, 4, stride=2, padding=1),
            nn.LeakyReLU(negative_slope),
        )
        self.dense = nn.Sequential(nn.Linear(size * size * coarse, hidden), nn.LeakyReLU(negative_slope), nn.Linear(hidden, 1))
        self.embed = nn.Embedding(num_classes, image_shape[1] * image_shape[2]) if num_classes else None
        self.apply(_initialize)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        check_labels(self, y)
        if self.embed is not None:
            x = torch.cat([x, self.embed(y).view(len(x), 1, *x.shape[2:])], 1)  # (N, C + 1, H, W)
        h = self.layers(x).permute(0, 2, 3, 1)  # (N, H / 4, W / 4, coarse)
        return self.dense(h.flatten(1)).squeeze(1)  # type: ignore[no-any-return]  # (N,); torch types it as Any


def _initialize(module: nn.Module) -> None:
    """Weights from N(0, 0.02), Radford et al. 2016, Section 4, and no biases."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
