from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_gan.penalties import R1, R2, CriticPass, GradientPenalty


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


class TestR2:
    def test_a_quadratic_critic_pays_at_its_own_generated_image(self) -> None:
        fake = torch.tensor([[[[1.0, 2.0]]], [[[0.0, 1.0]]]])
        p = look(lambda x: 3.0 * x.square().sum((1, 2, 3)) / 2, torch.ones_like(fake), fake)
        assert_close(R2(weight=2.0)(p), torch.tensor([45.0, 9.0]))


class TestGradientPenalty:
    def test_a_linear_critic_pays_for_its_norms_distance_from_one(self) -> None:
        w = torch.tensor([[[3.0, 4.0]]])  # norm 5
        p = look(lambda x: (x * w).sum((1, 2, 3)), torch.randn(3, 1, 1, 2), torch.randn(3, 1, 1, 2))
        assert_close(GradientPenalty(weight=10.0)(p), torch.full((3,), 160.0))

    def test_it_trains_the_critic(self) -> None:
        # The penalty lambda (|a| - 1)^2 of D(x) = a x has the derivative 2 lambda (a - 1) by a.
        a = torch.tensor(3.0, requires_grad=True)
        p = look(lambda x: a * x.sum((1, 2, 3)), torch.randn(2, 1, 1, 1), torch.randn(2, 1, 1, 1))
        GradientPenalty(weight=10.0)(p).mean().backward()
        assert_close(a.grad, torch.tensor(40.0))

    def test_a_flat_critic_pays_and_gets_no_nan(self) -> None:
        # The square root of the squared norm has an infinite slope at 0.
        a = torch.tensor(0.0, requires_grad=True)
        p = look(lambda x: a * x.sum((1, 2, 3)), torch.randn(2, 1, 1, 1), torch.randn(2, 1, 1, 1))
        penalty = GradientPenalty(weight=10.0)(p)
        penalty.mean().backward()
        assert_close(penalty, torch.full((2,), 10.0))
        assert_close(a.grad, torch.tensor(0.0))

    def test_it_looks_between_the_images_uniformly(self) -> None:
        # D(x) = x^2 / 2 has the gradient x, so that between 2 and 4 the penalty (x - 1)^2 lies in [1, 9] with mean 13 / 3.
        torch.manual_seed(0)
        n = 20_000
        p = look(lambda x: x.square().sum((1, 2, 3)) / 2, torch.full((n, 1, 1, 1), 4.0), torch.full((n, 1, 1, 1), 2.0))
        penalty = GradientPenalty(weight=1.0)(p)
        assert 1 <= penalty.min() < 1.01
        assert 8.99 < penalty.max() <= 9
        assert_close(penalty.mean(), torch.tensor(13 / 3), rtol=0.01, atol=0)


def test_every_must_be_positive() -> None:
    with pytest.raises(ValueError, match="every"):
        R1(every=0)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        R1(weight=-1)
