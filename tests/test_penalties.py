from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_gan import penalties
from lightning_gan.networks import StyleGenerator
from lightning_gan.penalties import (
    DRAGAN,
    R1,
    R2,
    Consistency,
    CriticPass,
    GradientPenalty,
    LeCam,
    PathLength,
    ZeroCentredGradientPenalty,
)
from lightning_gan.schedules import Linear


def look(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> CriticPass:
    real, fake = real.clone().requires_grad_(), fake.clone().requires_grad_()
    return CriticPass(real, fake, critic(real), critic(fake), critic)


class TestR1:
    def test_a_linear_critic_pays_half_its_squared_norm(self) -> None:
        w = torch.tensor([[[1.0, 2.0], [-3.0, 0.5]]])  # squared norm 14.25
        p = look(lambda x: (x * w).sum((1, 2, 3)), torch.randn(3, 1, 2, 2), torch.zeros(3, 1, 2, 2))
        assert_close(R1()(p), torch.full((3,), 7.125))

    def test_a_quadratic_critic_pays_at_its_own_real_image(self) -> None:
        # D(x) = a ||x||^2 / 2 has gradient a x, so R1 = 1 / 2 * a^2 ||x||^2 and its derivative by a is a * ||x||^2.
        a = torch.tensor(3.0, requires_grad=True)
        real = torch.tensor([[[[1.0, 2.0]]], [[[0.0, 1.0]]]])
        p = look(lambda x: a * x.square().sum((1, 2, 3)) / 2, real, torch.ones_like(real))
        penalty = R1()(p)
        assert_close(penalty, torch.tensor([22.5, 4.5]))
        penalty.sum().backward()
        assert_close(a.grad, torch.tensor(3.0 * 6.0))


class TestR2:
    def test_a_quadratic_critic_pays_at_its_own_generated_image(self) -> None:
        fake = torch.tensor([[[[1.0, 2.0]]], [[[0.0, 1.0]]]])
        p = look(lambda x: 3.0 * x.square().sum((1, 2, 3)) / 2, torch.ones_like(fake), fake)
        assert_close(R2()(p), torch.tensor([22.5, 4.5]))

    def test_it_trains_the_critic(self) -> None:
        a, fake = torch.tensor(3.0, requires_grad=True), torch.tensor([[[[1.0, 2.0]]]])
        R2()(look(lambda x: a * x.square().sum((1, 2, 3)) / 2, torch.ones_like(fake), fake)).sum().backward()
        assert_close(a.grad, torch.tensor(3.0 * 5.0))  # a * ||x||^2


class TestGradientPenalty:
    def test_a_linear_critic_pays_for_its_norms_distance_from_one(self) -> None:
        w = torch.tensor([[[3.0, 4.0]]])  # norm 5
        p = look(lambda x: (x * w).sum((1, 2, 3)), torch.randn(3, 1, 1, 2), torch.randn(3, 1, 1, 2))
        assert_close(GradientPenalty()(p), torch.full((3,), 16.0))

    def test_it_trains_the_critic(self) -> None:
        # The penalty (|a| - 1)^2 of D(x) = a x has the derivative 2 (a - 1) by a.
        a = torch.tensor(3.0, requires_grad=True)
        p = look(lambda x: a * x.sum((1, 2, 3)), torch.randn(2, 1, 1, 1), torch.randn(2, 1, 1, 1))
        GradientPenalty()(p).mean().backward()
        assert_close(a.grad, torch.tensor(4.0))

    def test_a_flat_critic_pays_and_gets_no_nan(self) -> None:
        # The square root of the squared norm has an infinite slope at 0.
        a = torch.tensor(0.0, requires_grad=True)
        p = look(lambda x: a * x.sum((1, 2, 3)), torch.randn(2, 1, 1, 1), torch.randn(2, 1, 1, 1))
        penalty = GradientPenalty()(p)
        penalty.mean().backward()
        assert_close(penalty, torch.full((2,), 1.0))
        assert_close(a.grad, torch.tensor(0.0))

    def test_it_looks_between_the_images_uniformly(self) -> None:
        # D(x) = x^2 / 2 has the gradient x, so that between 2 and 4 the penalty (x - 1)^2 lies in [1, 9] with mean 13 / 3.
        torch.manual_seed(0)
        n = 20_000
        p = look(lambda x: x.square().sum((1, 2, 3)) / 2, torch.full((n, 1, 1, 1), 4.0), torch.full((n, 1, 1, 1), 2.0))
        penalty = GradientPenalty()(p)
        assert 1 <= penalty.min() < 1.01
        assert 8.99 < penalty.max() <= 9
        assert_close(penalty.mean(), torch.tensor(13 / 3), rtol=0.01, atol=0)


class TestZeroCentredGradientPenalty:
    def test_a_linear_critic_pays_its_squared_norm(self) -> None:
        w = torch.tensor([[[3.0, 4.0]]])
        p = look(lambda x: (x * w).sum((1, 2, 3)), torch.randn(3, 1, 1, 2), torch.randn(3, 1, 1, 2))
        assert_close(ZeroCentredGradientPenalty()(p), torch.full((3,), 25.0))

    def test_it_trains_a_quadratic_critic_between_the_images(self) -> None:
        # D(x) = a x^2 / 2 has the gradient a x, so the penalty is a^2 x^2 and its derivative 2 a x^2. Real and generated are
        # equal, so that what lies between is known.
        a = torch.tensor(3.0, requires_grad=True)
        image = torch.tensor([[[[2.0]]]])
        p = look(lambda x: a * x.square().sum((1, 2, 3)) / 2, image, image)
        penalty = ZeroCentredGradientPenalty()(p)
        assert_close(penalty, torch.tensor([36.0]))
        penalty.sum().backward()
        assert_close(a.grad, torch.tensor(24.0))


class TestDRAGAN:
    def test_a_linear_critic_pays_for_its_norms_distance_from_one(self) -> None:
        a = torch.tensor(3.0, requires_grad=True)
        p = look(lambda x: a * x.sum((1, 2, 3)), torch.randn(2, 1, 1, 1), torch.randn(2, 1, 1, 1))
        penalty = DRAGAN()(p)
        assert_close(penalty, torch.full((2,), 4.0))
        penalty.mean().backward()
        assert_close(a.grad, torch.tensor(4.0))

    def test_it_looks_around_the_real_images(self) -> None:
        # D(x) = ||x||^2 / 2 in one dimension: (|x + delta| - 1)^2 with x = 5 or 7, of standard deviation 1, and delta from
        # N(0, 0.5^2). Where x + delta is positive, as here, its mean is (x - 1)^2 + 0.25: 16.25 and 36.25.
        torch.manual_seed(0)
        n = 40_000
        real = torch.tensor([5.0, 7.0]).repeat_interleave(n // 2).view(n, 1, 1, 1)
        penalty = DRAGAN(noise=0.5)(look(lambda x: x.square().sum((1, 2, 3)) / 2, real, torch.zeros_like(real)))
        assert_close(penalty.view(2, -1).mean(1), torch.tensor([16.25, 36.25]), rtol=0, atol=0.1)


class TestLeCam:
    def look(self, real: float, fake: float) -> CriticPass:
        """A critic that says `real` of real images and `fake` of generated ones, with a slope of 1 by its scale."""
        self.scale = torch.tensor(1.0, requires_grad=True)
        return look(lambda x: self.scale * x.mean((1, 2, 3)), torch.full((2, 1, 1, 1), real), torch.full((2, 1, 1, 1), fake))

    def test_the_averages_start_at_the_first_batch_and_then_move(self) -> None:
        penalty = LeCam(decay=0.75)
        assert_close(penalty(self.look(2.0, -1.0)), torch.full((2,), (2.0 + 1) ** 2 + (-1.0 - 2) ** 2))
        # The averages are now 0.75 * 2 + 0.25 * 4 = 2.5 and 0.75 * -1 + 0.25 * 3 = 0.
        assert_close(penalty(self.look(4.0, 3.0)), torch.full((2,), (4.0 - 0) ** 2 + (3.0 - 2.5) ** 2))

    def test_the_averages_are_constants_to_the_critic(self) -> None:
        # (2 s + 1)^2 + (-s - 2)^2 has at s = 1 the derivative 2 * 3 * 2 + 2 * -3 * -1 = 18.
        LeCam()(self.look(2.0, -1.0)).mean().backward()
        assert_close(self.scale.grad, torch.tensor(18.0))

    def test_its_averages_go_into_the_checkpoint(self) -> None:
        penalty, resumed = LeCam(), LeCam()
        penalty(self.look(2.0, -1.0))
        resumed.load_state_dict(penalty.state_dict())
        assert_close(resumed(self.look(1.0, 1.0)), penalty(self.look(1.0, 1.0)))


class Negative(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x


class TestConsistency:
    def test_a_linear_critic_at_negated_images(self) -> None:
        # D(x) - D(-x) = 2 a x: the penalty is 4 a^2 x^2 and its derivative by a is 8 a x^2.
        a = torch.tensor(3.0, requires_grad=True)
        real, fake = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1), torch.tensor([0.5, 0.0]).view(2, 1, 1, 1)
        penalty = Consistency(Negative())(look(lambda x: a * x.sum((1, 2, 3)), real, fake))
        assert_close(penalty, torch.tensor([36.0, 144.0]))
        penalty.sum().backward()
        assert_close(a.grad, torch.tensor(8 * 3 * 5.0))
        a.grad = None
        balanced = Consistency(Negative(), balanced=True)(look(lambda x: a * x.sum((1, 2, 3)), real, fake))
        assert_close(balanced, torch.tensor([45.0, 144.0]))
        balanced.sum().backward()
        assert_close(a.grad, torch.tensor(8 * 3 * 5.25))


class LinearStyles(StyleGenerator):
    """Styles w = a z, twice, and the image `w . directions` of 1x1 pixel, so that its Jacobian by w is known."""

    def __init__(self) -> None:
        super().__init__((1, 1, 1), latent_dim=2)
        self.a = torch.nn.Parameter(torch.tensor(1.0))
        self.directions = torch.nn.Parameter(torch.tensor([[1.0, 0.0], [2.0, 4.0]]))  # (layers, style_dim); summed: (3, 4)

    def styles(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.a * z.unsqueeze(1).repeat(1, 2, 1)

    def synthesize(self, styles: Tensor) -> Tensor:
        return (styles * self.directions).sum((1, 2)).view(-1, 1, 1, 1)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.synthesize(self.styles(z, y))


class TestPathLength:
    def test_a_linear_generator_by_hand(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # J_w = (3, 4), so that for the random image 2 sqrt(2) and two layers the length is 10; a moves from 0 to 1, and to
        # 0.9 * 1 + 0.1 * 10 = 1.9.
        monkeypatch.setattr(penalties, "randn", lambda *shape, device: torch.full(shape, 8**0.5))
        generator, penalty = LinearStyles(), PathLength(decay=0.1, batch_share=0.5)
        value = penalty(generator, torch.randn(4, 2), None)
        assert_close(value, torch.full((2,), 81.0))
        value.mean().backward()
        # d (2 |J| - 1)^2 / dJ = 2 * 9 * 2 * (3, 4) / 5, for each layer.
        assert_close(generator.directions.grad, torch.tensor([[21.6, 28.8], [21.6, 28.8]]))
        assert_close(penalty(generator, torch.randn(4, 2), None), torch.full((2,), 8.1**2))


def test_a_weight_may_be_a_schedule() -> None:
    schedule = Linear(1.0, 0.0, images=100)
    assert R1(weight=schedule).weight is schedule


def test_every_must_be_positive() -> None:
    with pytest.raises(ValueError, match="every"):
        R1(every=0)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        R1(weight=-1)
