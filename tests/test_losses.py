import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_gan.losses import NonSaturating

LN2, LN3 = math.log(2), math.log(3)


class TestNonSaturating:
    def test_values_by_hand(self) -> None:
        # s(ln 3) = 3/4 and s(0) = 1/2.
        real, fake = torch.tensor([0.0, LN3]), torch.tensor([LN3, 0.0])
        loss = NonSaturating()
        assert_close(loss.discriminator(real, fake), torch.tensor([LN2 + math.log(4), math.log(4 / 3) + LN2]))
        assert_close(loss.generator(real, fake), torch.tensor([math.log(4 / 3), LN2]))

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


@pytest.mark.parametrize(
    ("real", "fake"),
    [(torch.zeros(4), torch.zeros(4, 1)), (torch.zeros(4, 1), torch.zeros(4, 1)), (torch.zeros(4), torch.zeros(1))],
)
def test_shapes_that_would_broadcast_are_refused(real: Tensor, fake: Tensor) -> None:
    for side in (NonSaturating().discriminator, NonSaturating().generator):
        with pytest.raises(ValueError, match=r"\(N,\)"):
            side(real, fake)
