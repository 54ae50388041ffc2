"""The classic convolutional classifier as a discriminator: convolution, pooling, dropout, hidden dense layer."""

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from lightning_gan.networks.base import Discriminator, check_labels
from lightning_gan.networks.convolution import Conv2d
from lightning_gan.networks.layers import Dropout, coarsest_size, on_flat


class PoolingDiscriminator(Discriminator):
    """Stages of a 3x3 convolution and 2x2 average pooling, then a hidden dense layer and one logit.

    Pooling takes the average: a maximum would pass its gradient, which is all that G learns from, to one pixel in four. A label
    is embedded as one more channel of the image (Mirza and Osindero 2014).

    Args:
        image_shape: (C, H, W), square.
        num_classes: 0 = unconditional.
        channels: channels after each stage; 64 and 128 by default. Its length is the number of halvings.
        hidden: features of the hidden dense layer.
        dropout: probability of dropping a feature, after every stage.
        negative_slope: of the leaky rectifiers.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        channels: list[int] | None = None,
        hidden: int = 128,
        dropout: float = 0.3,
        negative_slope: float = 0.2,
    ) -> None:
        super().__init__(image_shape, num_classes)
        channels = [64, 128] if channels is None else channels
        size = coarsest_size(image_shape, len(channels))
        stages: list[nn.Module] = []
        for before, after in pairwise([image_shape[0] + (num_classes > 0), *channels]):
            stages += [
                Conv2d(before, after, 3, padding=1),
                nn.LeakyReLU(negative_slope),
                nn.AvgPool2d(2),
                Dropout(dropout),
            ]
        self.stages = nn.Sequential(*stages)
        self.dense = nn.Sequential(
            nn.Linear(channels[-1] * size * size, hidden), nn.LeakyReLU(negative_slope), nn.Linear(hidden, 1)
        )
        self.embed = nn.Embedding(num_classes, image_shape[1] * image_shape[2]) if num_classes else None

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        check_labels(self, y)
        if self.embed is not None:
            x = torch.cat([x, self.embed(y).view(len(x), 1, *x.shape[2:])], 1)  # (N, C + 1, H, W)
        h = self.stages(x)  # (N, channels[-1], size, size)
        h = on_flat(cast(nn.Linear, self.dense[0]), h)  # (N, hidden)
        return self.dense[1:](h).squeeze(1)  # type: ignore[no-any-return]  # (N,); torch types it as Any
