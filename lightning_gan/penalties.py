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
        return self.weight / 2 * _gradient(p.real_logits, p.real).square().sum(1)


class R2(Penalty):
    """R2 penalty, Mescheder et al. 2018, Eq. 10: gamma / 2 * ||grad_x D(x)||^2 at generated images."""

    def __init__(self, weight: float = 10.0, every: int = 1) -> None:
        super().__init__(weight, every)

    def __call__(self, p: CriticPass) -> Tensor:
        return self.weight / 2 * _gradient(p.fake_logits, p.fake).square().sum(1)


class GradientPenalty(Penalty):
    """Gradient penalty, Gulrajani et al. 2017, Eq. 3: lambda * (||grad_x D(x)|| - 1)^2 at random points between the images.

    Each point lies on the line between a real and a generated image, uniformly.
    """

    def __init__(self, weight: float = 10.0, every: int = 1) -> None:
        super().__init__(weight, every)

    def __call__(self, p: CriticPass) -> Tensor:
        share = torch.rand(len(p.real), 1, 1, 1, device=p.real.device)  # (N, 1, 1, 1)
        between = torch.lerp(p.fake, p.real, share).detach().requires_grad_()  # (N, C, H, W)
        norm: Tensor = torch.linalg.vector_norm(_gradient(p.critic(between), between), dim=1)  # (N,); its gradient at 0 is 0
        return self.weight * (norm - 1).square()


def _gradient(logits: Tensor, images: Tensor) -> Tensor:
    """Gradient of each logit by its own image: (N,), (N, C, H, W) -> (N, C * H * W)."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.flatten(1)
