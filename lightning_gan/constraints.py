"""Constraints on the discriminator: what acts on its weights after each of its steps."""

from abc import ABC, abstractmethod

import torch
from torch import nn


class Constraint(ABC):
    """A change of a network's weights in place."""

    @abstractmethod
    def __call__(self, network: nn.Module) -> None: ...


class WeightClipping(Constraint):
    """Clip every weight to [-limit, limit], Arjovsky et al. 2017, Algorithm 1."""

    def __init__(self, limit: float = 0.01) -> None:
        if limit <= 0:
            raise ValueError(f"the limit of weight clipping must be positive, not {limit}")
        self.limit = limit

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> None:
        for parameter in network.parameters():
            parameter.clamp_(-self.limit, self.limit)
