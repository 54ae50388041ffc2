"""The averaged generator, which is the one that is sampled and scored."""

import copy
from typing import Self, cast

import torch
from torch import Tensor, nn

from lightning_gan.networks.base import Generator
from lightning_gan.schedules import Schedule, at, extremes


class AveragedGenerator(nn.Module):
    """Exponential moving average of a generator, with its half-life in images.

    A half-life that is a number starts short and grows with training, so that the average soon forgets the random start (as
    in StyleGAN2-ADA, Karras et al. 2020). Floating-point buffers, such as the running statistics of batch normalization, are
    averaged along with the weights that they belong to; other buffers are copied.

    Args:
        generator: copied, and from then on followed by `update`.
        half_life: images after which a past generator counts half; a number or a schedule.
        ramp: a half-life that is no schedule is at most this share of the images seen so far.
    """

    def __init__(self, generator: Generator, half_life: float | Schedule = 10_000, ramp: float = 0.05) -> None:
        super().__init__()
        if (lowest := extremes(half_life)[0]) < 0:
            raise ValueError(f"the average's half-life must not be negative, and is {lowest}")
        self.generator = copy.deepcopy(generator).eval().requires_grad_(False)
        self.half_life = half_life
        self.ramp = ramp

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return cast(Tensor, self.generator(z, y))

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode whatever the module around it does: the average is never trained."""
        return super().train(False)

    @torch.no_grad()
    def update(self, generator: Generator, images: int, images_seen: int) -> None:
        """Move towards `generator` as far as `images` more images do.

        Args:
            images: images seen since the last update.
            images_seen: images seen in all, these included.
        """
        half_life = at(self.half_life, images_seen)
        if not isinstance(self.half_life, Schedule):
            half_life = min(half_life, self.ramp * images_seen)
        beta = 0.5 ** (images / half_life) if half_life > 0 else 0.0
        averaged, current = _tensors(self.generator), _tensors(generator)
        floats = [i for i, tensor in enumerate(averaged) if tensor.is_floating_point()]
        torch._foreach_lerp_([averaged[i] for i in floats], [current[i] for i in floats], 1 - beta)
        for i in set(range(len(averaged))) - set(floats):
            averaged[i].copy_(current[i])


def in_words(half_life: float) -> str:
    """Name an average by its half-life in images: "500", "2_5"; a module's name may not hold a point."""
    return f"{half_life:.15g}".replace(".", "_")


def _tensors(network: nn.Module) -> list[Tensor]:
    """List parameters and buffers; the network's own iterators take as long as some of a small one's layers."""
    tensors: dict[Tensor, None] = {}
    modules: list[nn.Module | None] = [network]
    while modules:
        if (module := modules.pop()) is not None:
            for kind in (module._parameters, module._buffers):
                tensors |= dict.fromkeys(tensor for tensor in kind.values() if tensor is not None)
            modules += module._modules.values()
    return list(tensors)
