import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_gan.losses import AdversarialLoss, Hinge, LeastSquares, Minimax, NonSaturating, Relativistic, Wasserstein

LN2, LN3 = math.log(2), math.log(3)


class TestNonSaturating:
    def test_gradients_by_hand(self) -> None:
        # Of the discriminator's loss: s - 1 by the real logit and s by the fake one; of the generator's: s - 1.
        real, fake = torch.tensor([LN3], requires_grad=True), torch.tensor([LN3], requires_grad=True)
        NonSaturating().discriminator(real, fake).sum().backward()
        assert_close([real.grad, fake.grad], [torch.tensor([-0.25]), torch.tensor([0.75])])
        fake.grad = None
        NonSaturating().generator(real.detach(), fake).sum().backward()
        assert_close(fake.grad, torch.tensor([-0.25]))

    def test_extreme_logits_stay_finite_and_have_a_gradient(self) -> None:
        # log(sigmoid(x) + 1e-8), which is found in the wild, is flat at -1000.
        fake = torch.tensor([-1000.0], requires_grad=True)
        NonSaturating().generator(fake.detach(), fake).sum().backward()
        assert_close(fake.grad, torch.tensor([-1.0]))


REAL, FAKE = torch.tensor([0.0, LN3, -2.0]), torch.tensor([LN3, 0.0, 0.5])
LN4 = math.log(4)


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


# s(ln 3) = 3/4, so that softplus(ln 3) = ln 4 and softplus(-ln 3) = ln(4/3); the third pair tells clipping from not clipping.
BY_HAND = [
    (Minimax(), [LN2 + LN4, LN4 - LN3 + LN2, softplus(2) + softplus(0.5)], [-LN4, -LN2, -softplus(0.5)]),
    (NonSaturating(), [LN2 + LN4, LN4 - LN3 + LN2, softplus(2) + softplus(0.5)], [LN4 - LN3, LN2, softplus(-0.5)]),
    # With the label 0.9 D pays another 0.1 * r for each real logit r: it is not to be too sure.
    (
        NonSaturating(real_label=0.9),
        [LN2 + LN4, LN4 - LN3 + 0.1 * LN3 + LN2, softplus(2) - 0.2 + softplus(0.5)],
        [LN4 - LN3, LN2, softplus(-0.5)],
    ),
    (Wasserstein(), [LN3, -LN3, 2.5], [-LN3, 0.0, -0.5]),
    (Hinge(), [1 + 1 + LN3, 0 + 1, 3 + 1.5], [-LN3, 0.0, -0.5]),
    (LeastSquares(), [(1 + LN3**2) / 2, ((LN3 - 1) ** 2) / 2, (9 + 0.25) / 2], [(LN3 - 1) ** 2 / 2, 0.5, 0.125]),
    (
        LeastSquares(a=-1, b=1, c=0),
        [(1 + (LN3 + 1) ** 2) / 2, ((LN3 - 1) ** 2 + 1) / 2, (9 + 2.25) / 2],
        [LN3**2 / 2, 0.0, 0.125],
    ),
    (Relativistic(), [LN4, LN4 - LN3, softplus(2.5)], [LN4 - LN3, LN4, softplus(-2.5)]),
]


@pytest.mark.parametrize(("loss", "discriminator", "generator"), BY_HAND)
def test_values_by_hand(loss: AdversarialLoss, discriminator: list[float], generator: list[float]) -> None:
    assert_close(loss.discriminator(REAL, FAKE), torch.tensor(discriminator))
    assert_close(loss.generator(REAL, FAKE), torch.tensor(generator))


@pytest.mark.parametrize("loss", [case[0] for case in BY_HAND])
def test_d_wants_real_up_and_fake_down_and_g_wants_fake_up(loss: AdversarialLoss) -> None:
    real, fake = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    d_real, d_fake = torch.autograd.grad(loss.discriminator(real, fake).sum(), [real, fake])
    assert d_real < 0
    assert d_fake > 0 or isinstance(loss, LeastSquares)  # its fakes are at 0 where a = 0
    (g_fake,) = torch.autograd.grad(loss.generator(real, torch.full_like(fake, -0.5, requires_grad=True) + fake).sum(), [fake])
    assert g_fake < 0


def test_the_generators_that_say_they_ignore_real_logits_do() -> None:
    for loss, *_ in BY_HAND:
        same = torch.equal(loss.generator(REAL, FAKE), loss.generator(REAL + 1, FAKE))
        assert same is not loss.generator_sees_real


@pytest.mark.parametrize("real_label", [0.5, 1.1])
def test_a_label_that_is_no_smoothing_is_refused(real_label: float) -> None:
    with pytest.raises(ValueError, match="real_label"):
        NonSaturating(real_label)


@pytest.mark.parametrize("loss", [case[0] for case in BY_HAND])
@pytest.mark.parametrize(
    ("real", "fake"),
    [(torch.zeros(4), torch.zeros(4, 1)), (torch.zeros(4, 1), torch.zeros(4, 1)), (torch.zeros(4), torch.zeros(1))],
)
def test_shapes_that_would_broadcast_are_refused(loss: AdversarialLoss, real: Tensor, fake: Tensor) -> None:
    for side in (loss.discriminator, loss.generator):
        with pytest.raises(ValueError, match=r"\(N,\)"):
            side(real, fake)
