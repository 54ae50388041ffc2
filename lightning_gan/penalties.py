"""Penalties: further terms of a network's loss, one value per sample."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from lightning_gan.networks.base import StyleGenerator
from lightning_gan.networks.convolution import differentiable_twice, gradient_of_inputs
from lightning_gan.networks.layers import full_precision
from lightning_gan.processes import mean_over_processes
from lightning_gan.randomness import rand, randn
from lightning_gan.schedules import Schedule, extremes


class CriticPass(NamedTuple):
    """One look of D at a batch of real and of fake images: all that a penalty may need."""

    real: Tensor  # (N, C, H, W); carries gradient where a penalty is due
    fake: Tensor  # (N, C, H, W); carries gradient where a penalty is due
    real_logits: Tensor  # (N,) = critic(real)
    fake_logits: Tensor  # (N,) = critic(fake)
    critic: Callable[[Tensor], Tensor]  # (N, C, H, W) -> (N,); labels and augmentation are already inside


def critique(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> CriticPass:
    """Let D look at real and at generated images, both (N, C, H, W).

    Where images carry gradient a penalty will differentiate D by them, and then its own result. That pass is in float32, as the
    gradient of a gradient is several per cent off in bfloat16, and not compiled, as compiled code has no second derivative. The
    other pass is not compiled then, either: it would change running statistics in a way that spoils the first one's graph.
    """

    def careful(x: Tensor) -> Tensor:
        if not x.requires_grad:
            return critic(x)
        with full_precision(x), eager(), differentiable_twice():
            return critic(x)

    with eager() if real.requires_grad or fake.requires_grad else nullcontext():
        return CriticPass(real, fake, careful(real), careful(fake), careful)


eager = partial(torch.compiler.set_stance, "force_eager")


class Term(nn.Module):
    """A weighted term of a loss. A module, so that what it keeps from step to step is a buffer and in the checkpoint.

    Args:
        weight: its factor, as in the paper; a number or a schedule.
        every: compute it at every n-th training step only, n times as strong (lazy regularisation, Karras et al. 2020, Section
            3.1, which loses little and saves most of its cost).
    """

    def __init__(self, weight: float | Schedule, every: int = 1) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"a penalty's `every` must be at least 1, not {every}")
        if (lowest := extremes(weight)[0]) < 0:
            raise ValueError(f"a penalty's weight must not be negative, and is {lowest}")
        self.weight = weight
        self.every = every


class Penalty(Term):
    """A term of D's loss.

    Attributes:
        at_real: whether it may differentiate `real_logits` by `real`; a pass that it does not is free to be a fast one.
        at_fake: the same of `fake_logits` by `fake`.
    """

    at_real: ClassVar[bool] = True
    at_fake: ClassVar[bool] = True

    @abstractmethod
    def forward(self, p: CriticPass) -> Tensor: ...  # (N,), before the weight


class R1(Penalty):
    """R1 penalty, Mescheder et al. 2018, Eq. 9: 1/2 * ||grad_x D(x)||^2 at real images; the weight is its gamma."""

    at_fake = False

    def __init__(self, weight: float | Schedule = 10.0, every: int = 1) -> None:
        super().__init__(weight, every)

    def forward(self, p: CriticPass) -> Tensor:
        return _gradient(p.real_logits, p.real).square().sum(1) / 2


class R2(Penalty):
    """R2 penalty, Mescheder et al. 2018, Eq. 10: 1/2 * ||grad_x D(x)||^2 at generated images; the weight is its gamma."""

    at_real = False

    def __init__(self, weight: float | Schedule = 10.0, every: int = 1) -> None:
        super().__init__(weight, every)

    def forward(self, p: CriticPass) -> Tensor:
        return _gradient(p.fake_logits, p.fake).square().sum(1) / 2


class GradientPenalty(Penalty):
    """WGAN-GP's, Gulrajani et al. 2017, Eq. 3: (||grad_x D(x)|| - 1)^2 at random points between real and generated images."""

    at_real = False
    at_fake = False

    def __init__(self, weight: float | Schedule = 10.0, every: int = 1) -> None:
        super().__init__(weight, every)

    def forward(self, p: CriticPass) -> Tensor:
        return (_slope(p, _between(p.real, p.fake)) - 1).square()


class ZeroCentredGradientPenalty(Penalty):
    """Zero-centred, Thanh-Tung et al. 2019, Eq. 11: ||grad_x D(x)||^2 at random points between real and generated images."""

    at_real = False
    at_fake = False

    def __init__(self, weight: float | Schedule = 10.0, every: int = 1) -> None:
        super().__init__(weight, every)

    def forward(self, p: CriticPass) -> Tensor:
        return _slope(p, _between(p.real, p.fake)).square()


class DRAGAN(Penalty):
    """Kodali et al. 2017, Section 2.4: (||grad_x D(x + delta)|| - 1)^2 with delta normal, around real images.

    Args:
        weight: lambda.
        every: lazy regularisation.
        noise: standard deviation of delta, in units of that of the batch's pixels.
    """

    at_real = False
    at_fake = False

    def __init__(self, weight: float | Schedule = 10.0, every: int = 1, noise: float = 0.5) -> None:
        super().__init__(weight, every)
        self.noise = noise

    def forward(self, p: CriticPass) -> Tensor:
        real = p.real.detach()
        mean, mean_square = mean_over_processes(torch.stack([real.mean(), real.square().mean()]))
        delta = self.noise * (mean_square - mean**2).sqrt() * randn(*real.shape, device=real.device)  # (N, C, H, W)
        return (_slope(p, real + delta) - 1).square()


class LeCam(Penalty):
    """Tseng et al. 2021, Eq. 5: (D(x) - a_F)^2 + (D(G(z)) - a_R)^2, with moving averages a of D's logits on real and fake.

    Args:
        weight: lambda.
        every: lazy regularisation; the averages move when it is computed.
        decay: of the averages.
    """

    at_real = False
    at_fake = False

    real_mean: Tensor
    fake_mean: Tensor
    started: Tensor

    def __init__(self, weight: float | Schedule = 0.3, every: int = 1, decay: float = 0.99) -> None:
        super().__init__(weight, every)
        self.decay = decay
        self.register_buffer("real_mean", torch.zeros(()))
        self.register_buffer("fake_mean", torch.zeros(()))
        self.register_buffer("started", torch.zeros(()))

    def forward(self, p: CriticPass) -> Tensor:
        step = 1 - self.decay * self.started  # the first batch's mean is where the averages start
        real_mean, fake_mean = mean_over_processes(torch.stack([p.real_logits.mean(), p.fake_logits.mean()]))
        self.real_mean.lerp_(real_mean, step)
        self.fake_mean.lerp_(fake_mean, step)
        self.started.fill_(1)
        return (p.real_logits - self.fake_mean.clone()).square() + (p.fake_logits - self.real_mean.clone()).square()


class Consistency(Penalty):
    """Consistency regularisation, Zhang et al. 2020, Eq. 3: (D(x) - D(T(x)))^2, for a random transformation T of real images.

    Args:
        transform: T, (N, C, H, W) -> (N, C, H, W), such as one of `lightning_gan.augment`.
        weight: lambda.
        every: lazy regularisation.
        balanced: at generated images as well, bCR of Zhao et al. 2021, Algorithm 1.
    """

    def __init__(self, transform: nn.Module, weight: float | Schedule = 10.0, every: int = 1, balanced: bool = False) -> None:
        super().__init__(weight, every)
        self.transform = transform
        self.balanced = balanced

    def forward(self, p: CriticPass) -> Tensor:
        penalty = (p.real_logits - p.critic(self.transform(p.real.detach()))).square()
        if self.balanced:
            penalty = penalty + (p.fake_logits - p.critic(self.transform(p.fake.detach()))).square()
        return penalty


class GeneratorPenalty(Term):
    """A term of the loss of a generator that has styles."""

    @abstractmethod
    def forward(self, generator: StyleGenerator, z: Tensor, y: Tensor | None) -> Tensor: ...  # (n,), before the weight


class PathLength(GeneratorPenalty):
    """Path length regularisation, Karras et al. 2020, Eq. 4: (||J_w^T y|| - a)^2, with y a random image and a its running mean.

    The length is over the square root of the number of layers, to which the paper's weight (Appendix B) is inverse.

    Args:
        weight: its factor.
        every: lazy regularisation.
        decay: share of the old a that each new value takes the place of.
        batch_share: share of the batch that it is computed for.
    """

    mean: Tensor

    def __init__(self, weight: float | Schedule = 2.0, every: int = 4, decay: float = 0.01, batch_share: float = 0.5) -> None:
        super().__init__(weight, every)
        if not 0 < batch_share <= 1:
            raise ValueError(f"batch_share must be above 0 and at most 1, not {batch_share}")
        self.decay = decay
        self.batch_share = batch_share
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, generator: StyleGenerator, z: Tensor, y: Tensor | None) -> Tensor:
        n = math.ceil(len(z) * self.batch_share)
        rows = torch.arange(n, device=z.device) * len(z) // n  # spread, so that processes' shares are the batch's
        w = generator.styles(z[rows], None if y is None else y[rows])  # (n, layers, style_dim)
        with differentiable_twice():
            images = generator.synthesize(w)  # (n, C, H, W)
        noise = randn(*images.shape, device=images.device) / math.sqrt(images.shape[2] * images.shape[3])
        with gradient_of_inputs():
            (gradient,) = torch.autograd.grad((images * noise).sum(), w, create_graph=True)
        length: Tensor = torch.linalg.vector_norm(gradient.sum(1), dim=1) / math.sqrt(w.shape[1])  # (n,); all layers share w
        self.mean.lerp_(mean_over_processes(length.mean()), self.decay)
        return (length - self.mean.clone()).square()


def named(terms: Mapping[str, Term] | None) -> nn.ModuleDict:
    """Collect terms by the names they are logged under.

    Raises:
        ValueError: a name cannot be a module's.
    """
    try:
        return nn.ModuleDict(terms or {})
    except KeyError as error:  # such as `keys`, which is a method of the dictionary
        raise ValueError(f"a penalty needs another name: {error.args[0]}") from None


def due_at(terms: nn.ModuleDict, step: int) -> dict[str, Term]:
    """Pick the terms whose turn it is."""
    return {name: term for name, term in terms.items() if isinstance(term, Term) and step % term.every == 0}


def _gradient(logits: Tensor, images: Tensor) -> Tensor:
    """Gradient of each logit by its own image: (N,), (N, C, H, W) -> (N, C * H * W)."""
    with gradient_of_inputs():
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.flatten(1)


def _slope(p: CriticPass, images: Tensor) -> Tensor:
    """Norm of the critic's gradient at other images: (N, C, H, W) -> (N,); its own gradient where it is 0 is 0."""
    images = images.detach().requires_grad_()
    return torch.linalg.vector_norm(_gradient(p.critic(images), images), dim=1)  # type: ignore[no-any-return]  # untyped in torch


def _between(real: Tensor, fake: Tensor) -> Tensor:
    """Draw one point on the line between each real and its generated image, uniformly: (N, C, H, W)."""
    share = rand(len(real), 1, 1, 1, device=real.device)  # (N, 1, 1, 1)
    return torch.lerp(fake, real, share)
