"""The adversarial losses: D's beside G's, one value per sample.

Every method takes `(real_logits, fake_logits)`, each of shape (N,), in that order; a high logit says "real".
"""

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor


class AdversarialLoss(ABC):
    """What D minimises and what G minimises.

    Attributes:
        generator_sees_real: whether `generator` looks at `real_logits`; where it does not, G's step spares D that pass and
            gives the fake logits in both places.
    """

    generator_sees_real = False

    @abstractmethod
    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor: ...  # (N,), (N,) -> (N,)

    @abstractmethod
    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor: ...  # (N,), (N,) -> (N,)


class NonSaturating(AdversarialLoss):
    """Cross-entropy with G's loss turned around so that its gradient does not vanish, Goodfellow et al. 2014, Section 3.

    D minimises -log s(D(x)) - log(1 - s(D(G(z)))) and G minimises -log s(D(G(z))), where s is the logistic function.
    """

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _check_shapes(real_logits, fake_logits)
        return F.softplus(-real_logits) + F.softplus(fake_logits)

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _check_shapes(real_logits, fake_logits)
        return F.softplus(-fake_logits)


def _check_shapes(real_logits: Tensor, fake_logits: Tensor) -> None:
    """Refuse shapes such as (N,) beside (N, 1), which would broadcast to (N, N) and train something else."""
    if real_logits.ndim != 1 or real_logits.shape != fake_logits.shape:
        raise ValueError(f"logits must both have shape (N,), not {tuple(real_logits.shape)} and {tuple(fake_logits.shape)}")
