"""The Dirac-GAN of Mescheder et al. 2018, Section 2: what trains the smallest of all GANs, and what does not.

Every real image is 0, G's is theta and D(x) = psi * x, so that the game has one equilibrium: theta = psi = 0.
"""

from collections import UserList
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn

from lightning_gan.gan import GAN
from lightning_gan.losses import AdversarialLoss, Minimax, Relativistic, Wasserstein
from lightning_gan.networks import Discriminator, Generator
from lightning_gan.penalties import R1, R2, GradientPenalty, Penalty


class Point(Generator):
    def __init__(self) -> None:
        super().__init__((1, 1, 1), latent_dim=1)
        self.theta = nn.Parameter(torch.tensor(1.0))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.theta.expand(len(z), 1, 1, 1)


class Line(Discriminator):
    def __init__(self) -> None:
        super().__init__((1, 1, 1))
        self.psi = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.psi * x.flatten()


class Orbit(Callback):
    """Notes how far from the equilibrium each step ends."""

    def __init__(self) -> None:
        self.radii: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        self.radii.append(torch.hypot(pl_module.generator.theta, pl_module.discriminator.psi).item())


@pytest.fixture
def orbit(make_trainer: Callable[..., Trainer]) -> Callable[..., list[float]]:
    def run(loss: AdversarialLoss, **penalties: Penalty) -> list[float]:
        sgd, probe = partial(torch.optim.SGD, lr=0.1), Orbit()
        gan = GAN(Point(), Line(), loss, sgd, sgd, penalties)
        batches = [(torch.zeros(2, 1, 1, 1), None)] * 600
        make_trainer(max_epochs=1, callbacks=[probe], enable_checkpointing=False).fit(gan, UserList(batches), UserList(batches))
        return probe.radii

    return run


def test_without_a_penalty_it_circles(orbit: Callable[..., list[float]]) -> None:
    # Lemma 2.4: alternating gradient descent has eigenvalues of modulus 1. (The non-saturating game, whose two gradients have
    # different factors, drifts inwards, ever more slowly.)
    radii = orbit(Minimax())
    assert min(radii[-200:]) > 0.8
    assert max(radii[-200:]) < 2


def test_with_r1_it_converges(orbit: Callable[..., list[float]]) -> None:
    assert max(orbit(Minimax(), r1=R1(weight=1.0))[-100:]) < 1e-4  # Theorem 4.1


def test_with_wgan_gp_it_does_not_converge(orbit: Callable[..., list[float]]) -> None:
    # Section 3.1 of the paper: the slope is pulled towards 1, which it does not have at the equilibrium.
    assert max(orbit(Wasserstein(), gp=GradientPenalty(weight=1.0))[-100:]) > 0.5


def test_with_r1_and_r2_the_relativistic_game_converges(orbit: Callable[..., list[float]]) -> None:
    assert max(orbit(Relativistic(), r1=R1(weight=0.5), r2=R2(weight=0.5))[-100:]) < 1e-4
