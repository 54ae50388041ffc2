from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_gan.penalties import R1, CriticPass


def look(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> CriticPass:
    real, fake = real.clone().requires_grad_(), fake.clone().requires_grad_()
    return CriticPass(real, fake, critic(real), critic(fake), critic)


class TestR1:
    def test_a_linear_critic_pays_half_gamma_times_its_squared_norm(self) -> None:
        w = torch.tensor([[[1.0, 2.0], [-3.0, 0.5]]])  # squared norm 14.25
        p = look(lambda x: (x * w).sum((1, 2, 3)), torch.randn(3, 1, 2, 2), torch.zeros(3, 1, 2, 2))
        assert_close(R1(weight=10.0)(p), torch.full((3,), 71.25))

    def test_a_quadratic_critic_pays_at_its_own_real_image(self) -> None:
        # D(x) = a ||x||^2 / 2 has gradient a x, so R1 = gamma / 2 * a^2 ||x||^2 and its derivative by a is gamma * a * ||x||^2.
        a = torch.tensor(3.0, requires_grad=True)
        real = torch.tensor([[[[1.0, 2.0]]], [[[0.0, 1.0]]]])
        p = look(lambda x: a * x.square().sum((1, 2, 3)) / 2, real, torch.ones_like(real))
        penalty = R1(weight=2.0)(p)
        assert_close(penalty, torch.tensor([45.0, 9.0]))
        penalty.sum().backward()
        assert_close(a.grad, torch.tensor(2.0 * 3.0 * 6.0))


def test_every_must_be_positive() -> None:
    with pytest.raises(ValueError, match="every"):
        R1(every=0)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        R1(weight=-1)
