"""What is computed in bfloat16 and what is not, and that the one is the other up to rounding."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_gan import randomness
from lightning_gan.augment import DiffAugment
from lightning_gan.data import DataModule
from lightning_gan.gan import GAN
from lightning_gan.losses import AdversarialLoss
from lightning_gan.penalties import (
    DRAGAN,
    R1,
    R2,
    Consistency,
    GradientPenalty,
    LeCam,
    Penalty,
    ZeroCentredGradientPenalty,
    critique,
)

MakeGAN = Callable[..., GAN]
MakeTrainer = Callable[..., Trainer]
SGD = partial(torch.optim.SGD, lr=0.1)


class Indifferent(AdversarialLoss):
    """Leaves D to the penalties alone."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return 0 * (real_logits + fake_logits)

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return 0 * fake_logits


class Linear(nn.Module):
    """A critic that notes in which type it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(16, 1)
        self.types: list[torch.dtype] = []

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.dense(x.flatten(1)).squeeze(1)
        self.types.append(logits.dtype)
        return logits.float()


PENALTIES = [R1(), R2(), GradientPenalty(), ZeroCentredGradientPenalty(), DRAGAN(), LeCam(), Consistency(DiffAugment())]


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda penalty: type(penalty).__name__)
def test_a_penalty_can_do_without_gradient_where_it_says_so(penalty: Penalty) -> None:
    torch.manual_seed(0)
    critic = Linear()
    real, fake = torch.randn(2, 3, 1, 4, 4)
    everything = critique(critic, real.clone().requires_grad_(), fake.clone().requires_grad_())
    said = critique(critic, real.requires_grad_(penalty.at_real), fake.requires_grad_(penalty.at_fake))
    results = []
    for p in (everything, said):
        torch.manual_seed(1)
        results.append(copy.deepcopy(penalty)(p))
    assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("penalty", "types"),
    [
        (R1(), [torch.float32, torch.bfloat16]),
        (R2(), [torch.bfloat16, torch.float32]),
        (LeCam(), [torch.bfloat16, torch.bfloat16]),
        (GradientPenalty(), [torch.bfloat16, torch.bfloat16, torch.float32]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_the_pass_that_is_differentiated_is_in_full_precision(penalty: Penalty, types: list[torch.dtype]) -> None:
    critic = Linear()
    real, fake = torch.randn(2, 3, 1, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        p = critique(critic, real.requires_grad_(penalty.at_real), fake.requires_grad_(penalty.at_fake))
        penalty(p)
    assert critic.types == types


@pytest.mark.parametrize("penalty", [R1, R2, GradientPenalty, DRAGAN])
def test_a_penalty_pulls_in_mixed_precision_exactly_as_in_full(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, penalty: type[Penalty]
) -> None:
    # With `backward` inside autocast D's dense layer went back in bfloat16, and was 0.2 % off.
    gradients = []
    for precision in ("32-true", "bf16-mixed"):
        gan = make_gan(loss=Indifferent(), penalties={"only": penalty(weight=10.0)})
        gan.latents = lambda *_: torch.zeros(32, 4)  # type: ignore[method-assign]  # G's images are in bfloat16
        with torch.no_grad():
            gan.generator.layers[-2].weight.zero_()  # type: ignore[index, union-attr]  # so that they are all alike
        make_trainer(max_steps=1, precision=precision).fit(gan, digits)
        gradients.append([parameter.grad for parameter in gan.discriminator.parameters()])
    assert any(gradient is not None and gradient.abs().max() > 1e-4 for gradient in gradients[0])
    assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-7)


def test_a_step_in_mixed_precision_by_hand(make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule) -> None:
    """G learns from the D that has just learned: autocast keeps copies of weights, which must not be those before."""
    gan = make_gan(generator_optimizer=SGD, discriminator_optimizer=SGD, reuse_fakes=True)
    by_hand = copy.deepcopy(gan)
    make_trainer(max_steps=1, precision="bf16-mixed").fit(gan, digits)

    g, d, loss = by_hand.generator.train(), by_hand.discriminator.train(), gan.loss
    g_optimizer, d_optimizer = SGD(g.parameters()), SGD(d.parameters())
    real = digits.on_after_batch_transfer(digits.train_dataloader().batch(0), 0).images
    randomness.reseed(0, "step", 0, rank=0)
    z = g.latents(32, randomness.generator(0, "latents", "discriminator", 0))
    autocast = partial(torch.autocast, "cpu", torch.bfloat16)
    with autocast():
        fake = g(z)
    with autocast():
        d_loss = loss.discriminator(d(real).float(), d(fake.detach().float()).float()).mean()
    d_loss.backward()
    d_optimizer.step()
    with autocast():
        fake_logits = d(fake).float()
        g_loss = loss.generator(fake_logits, fake_logits).mean()
    g_loss.backward()
    g_optimizer.step()
    close = partial(assert_close, rtol=0, atol=5e-5)  # a bfloat16 of gradients of a hundredth, times the learning rate
    close(dict(gan.generator.named_parameters()), dict(g.named_parameters()))
    close(dict(gan.discriminator.named_parameters()), dict(d.named_parameters()))
