"""Penalties on the discriminator: terms of its loss, one value per sample."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class CriticPass(NamedTuple):
    """One look of D at a batch of real and of fake images: all that a penalty may need."""

    real: Tensor  # (N, C, H, W); carries gradient where a penalty is due
    fake: Tensor  # (N, C, H, W); carries gradient where a penalty is due
    real_logits: Tensor  # (N,) = critic(real)
    fake_logits: Tensor  # (N,) = critic(fake)
    critic: Callable[[Tensor], Tensor]  # (N, C, H, W) -> (N,); labels and augmentation are already inside


class Penalty(ABC):
    """A term of D's loss.

    Args:
        weight: its factor, as in the paper.
        every: compute it at every n-th training step only, n times as strong (lazy regularisation, Karras et al. 2020, Section
            3.1, which loses little and saves most of its cost).
    """

    def __init__(self, weight: float, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"a penalty's `every` must be at least 1, not {every}")
        if weight < 0:
            raise ValueError(f"a penalty's weight must not be negative, and is {weight}")
        self.weight = weight
        self.every = every

    @abstractmethod
    def __call__(self, p: CriticPass) -> Tensor: ...  # (N,), weighted


class R1(Penalty):
    """R1 penalty, Mescheder et al. 2018, Eq. 9: gamma / 2 * ||grad_x D(x)||^2 at real images."""

    def __init__(self, weight: float = 10.0, every: int = 1) -> None:
        super().__init__(weight, every)

    def __call__(self, p: CriticPass) -> Tensor:
        return self.weight / 2 * _squared_gradient(p.real_logits, p.real)


def _squared_gradient(logits: Tensor, images: Tensor) -> Tensor:
    """Squared norm of each logit's gradient by its own image: (N,), (N, C, H, W) -> (N,)."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)  # (N, C, H, W)
    return gradient.square().flatten(1).sum(1)
