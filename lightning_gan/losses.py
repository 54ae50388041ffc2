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
        centred: whether D learns to say more than 0 of real images and less than 0 of generated ones.
    """

    generator_sees_real = False
    centred = False

    @abstractmethod
    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor: ...  # (N,), (N,) -> (N,)

    @abstractmethod
    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor: ...  # (N,), (N,) -> (N,)


class Minimax(AdversarialLoss):
    """The original game, Goodfellow et al. 2014, Eq. 1: G's loss is the negative of its part in D's, and saturates.

    D minimises -log s(D(x)) - log(1 - s(D(G(z)))) and G minimises log(1 - s(D(G(z)))), where s is the logistic function.

    Args:
        real_label: what D is to say of real images. One-sided label smoothing, Salimans et al. 2016, Section 3.4, takes 0.9.
    """

    centred = True

    def __init__(self, real_label: float = 1.0) -> None:
        self.real_label = _checked_label(real_label)

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return _cross_entropy(real_logits, fake_logits, self.real_label)

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _check_shapes(real_logits, fake_logits)
        return -F.softplus(fake_logits)


class NonSaturating(AdversarialLoss):
    """Cross-entropy with G's loss turned around so that its gradient does not vanish, Goodfellow et al. 2014, Section 3.

    D minimises -log s(D(x)) - log(1 - s(D(G(z)))) and G minimises -log s(D(G(z))), where s is the logistic function.

    Args:
        real_label: what D is to say of real images. One-sided label smoothing, Salimans et al. 2016, Section 3.4, takes 0.9.
    """

    centred = True

    def __init__(self, real_label: float = 1.0) -> None:
        self.real_label = _checked_label(real_label)

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return _cross_entropy(real_logits, fake_logits, self.real_label)

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _check_shapes(real_logits, fake_logits)
        return F.softplus(-fake_logits)


class Wasserstein(AdversarialLoss):
    """Wasserstein loss, Arjovsky et al. 2017, Eq. 2 and 3: D minimises D(G(z)) - D(x) and G minimises -D(G(z)).

    D must be kept Lipschitz, by clipping its weights or by a gradient penalty.
    """

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _check_shapes(real_logits, fake_logits)
        return fake_logits - real_logits

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _check_shapes(real_logits, fake_logits)
        return -fake_logits


class Hinge(AdversarialLoss):
    """Hinge loss, Miyato et al. 2018, Eq. 16 and 17.

    D minimises max(0, 1 - D(x)) + max(0, 1 + D(G(z))) and G minimises -D(G(z)).
    """

    centred = True

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _check_shapes(real_logits, fake_logits)
        return F.relu(1 - real_logits) + F.relu(1 + fake_logits)

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _check_shapes(real_logits, fake_logits)
        return -fake_logits


class LeastSquares(AdversarialLoss):
    """Least squares, Mao et al. 2017, Eq. 2.

    D minimises ((D(x) - b)^2 + (D(G(z)) - a)^2) / 2 and G minimises (D(G(z)) - c)^2 / 2.

    Args:
        a: what D is to say of generated images.
        b: what D is to say of real images.
        c: what G wants D to say of generated images.
    """

    def __init__(self, a: float = 0.0, b: float = 1.0, c: float = 1.0) -> None:
        self.centred = a < 0 < b
        self.a = a
        self.b = b
        self.c = c

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _check_shapes(real_logits, fake_logits)
        return ((real_logits - self.b).square() + (fake_logits - self.a).square()) / 2

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _check_shapes(real_logits, fake_logits)
        return (fake_logits - self.c).square() / 2


class Relativistic(AdversarialLoss):
    """Relativistic pairing, Jolicoeur-Martineau 2019 and, as the loss of R3GAN, Huang et al. 2024, Eq. 2.

    D minimises softplus(D(G(z)) - D(x)), and G minimises softplus(D(x) - D(G(z))).
    """

    generator_sees_real = True

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _check_shapes(real_logits, fake_logits)
        return F.softplus(fake_logits - real_logits)

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        _check_shapes(real_logits, fake_logits)
        return F.softplus(real_logits - fake_logits)


def _cross_entropy(real_logits: Tensor, fake_logits: Tensor, real_label: float) -> Tensor:
    """D's loss as a classifier: -t log s(r) - (1 - t) log(1 - s(r)) - log(1 - s(f)), with t the label of real images."""
    _check_shapes(real_logits, fake_logits)
    loss = F.softplus(-real_logits) + F.softplus(fake_logits)
    return loss if real_label == 1 else loss + (1 - real_label) * real_logits


def _checked_label(real_label: float) -> float:
    if not 0.5 < real_label <= 1:
        raise ValueError(f"real_label must be above 0.5 and at most 1, not {real_label}")
    return real_label


def _check_shapes(real_logits: Tensor, fake_logits: Tensor) -> None:
    """Refuse shapes such as (N,) beside (N, 1), which would broadcast to (N, N) and train something else."""
    if real_logits.ndim != 1 or real_logits.shape != fake_logits.shape:
        raise ValueError(f"logits must both have shape (N,), not {tuple(real_logits.shape)} and {tuple(fake_logits.shape)}")
