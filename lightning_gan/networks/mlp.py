"""Multilayer perceptrons, Goodfellow et al. 2014: no convolution, no normalization.

The hidden layers start as in He et al. 2015. From torch's own start each rectified layer shrinks its signal about 2.4 times,
and after four of them all latents give nearly the same image, from which G does not recover.
"""

from itertools import pairwise
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_gan.networks.base import Discriminator, Generator, check_labels
from lightning_gan.networks.layers import Dropout


class MLPGenerator(Generator):
    """Dense layers from the latent to all values of the image at once.

    A label is embedded and joined to z (Mirza and Osindero 2014).

    Args:
        image_shape: (C, H, W).
        num_classes: 0 = unconditional.
        latent_dim: length of z.
        latent_distribution: standard normal, or uniform in [-1, 1].
        hidden: features after each hidden layer; 256, 256, 256 and 128 by default.
        negative_slope: of the leaky rectifiers; 0 for plain ones.
        output: what bounds the image. A sigmoid s gives values in [0, 1], and images here are in [-1, 1]: the output is 2s - 1.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        latent_dim: int = 100,
        latent_distribution: Literal["normal", "uniform"] = "normal",
        hidden: list[int] | None = None,
        negative_slope: float = 0.0,
        output: Literal["tanh", "sigmoid"] = "tanh",
    ) -> None:
        super().__init__(image_shape, num_classes, latent_dim, latent_distribution)
        if output not in ("tanh", "sigmoid"):
            raise ValueError(f"output must be tanh or sigmoid, not {output}")
        self.output = output
        features = [latent_dim * (2 if num_classes else 1), *([256, 256, 256, 128] if hidden is None else hidden)]
        self.embed = nn.Embedding(num_classes, latent_dim) if num_classes else None
        self.hidden = _hidden_layers(features, negative_slope)
        self.dense = nn.Linear(features[-1], prod(image_shape))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        check_labels(self, y)
        if self.embed is not None:
            z = torch.cat([z, self.embed(y)], 1)  # (N, 2 * latent_dim)
        x = self.dense(self.hidden(z)).view(-1, *self.image_shape)  # (N, C, H, W)
        return x.tanh() if self.output == "tanh" else 2 * x.sigmoid() - 1  # type: ignore[no-any-return]  # torch types x as Any


class MLPDiscriminator(Discriminator):
    """Dense layers from all values of the image to one logit.

    A label is embedded as one more channel of the image (Mirza and Osindero 2014).

    Args:
        image_shape: (C, H, W).
        num_classes: 0 = unconditional.
        hidden: features after each hidden layer; 256 and 256 by default.
        negative_slope: of the leaky rectifiers; 0 for plain ones.
        dropout: probability of dropping a feature, after every hidden layer.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        hidden: list[int] | None = None,
        negative_slope: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(image_shape, num_classes)
        channels, height, width = image_shape
        features = [(channels + (num_classes > 0)) * height * width, *([256, 256] if hidden is None else hidden)]
        self.embed = nn.Embedding(num_classes, height * width) if num_classes else None
        self.hidden = _hidden_layers(features, negative_slope, dropout)
        self.dense = nn.Linear(features[-1], 1)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        check_labels(self, y)
        x = x.flatten(1)  # (N, C * H * W)
        if self.embed is not None:
            x = torch.cat([x, self.embed(y)], 1)  # (N, (C + 1) * H * W)
        return self.dense(self.hidden(x)).squeeze(1)  # type: ignore[no-any-return]  # (N,); torch types it as Any


def _hidden_layers(features: list[int], negative_slope: float, dropout: float = 0.0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(features):
        linear = nn.Linear(before, after)
        nn.init.kaiming_normal_(linear.weight, negative_slope)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.LeakyReLU(negative_slope)]
        if dropout:
            layers.append(Dropout(dropout))
    return nn.Sequential(*layers)
