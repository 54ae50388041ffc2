"""What the parts of a recipe do in training: schedules, constraints, augmentation, penalties on G."""

from collections import UserList
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from torch.testing import assert_close

from lightning_gan.augment import ADA, Augmentation
from lightning_gan.constraints import WeightClipping
from lightning_gan.data import DataModule
from lightning_gan.errors import UserError
from lightning_gan.gan import GAN
from lightning_gan.losses import LeastSquares, Relativistic
from lightning_gan.networks import StyleGAN2Generator
from lightning_gan.penalties import R1, Consistency, CriticPass, GeneratorPenalty, LeCam, PathLength, Penalty
from lightning_gan.schedules import Cosine, Linear

MakeGAN = Callable[..., GAN]
MakeTrainer = Callable[..., Trainer]
BATCH = 32  # the digits fixture's
FALLING = Linear(1.0, 0.0, images=4 * BATCH)  # 1, 3/4, 1/2, 1/4 and then 0, at the beginnings of steps


class Settings(Callback):
    """Notes the optimizers' settings at the beginning of each step, and whatever was logged at its end."""

    def __init__(self) -> None:
        self.groups: list[list[dict[str, Any]]] = []
        self.scalars: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        groups = [optimizer.param_groups[0] for optimizer in trainer.optimizers]
        self.groups.append([{name: value for name, value in group.items() if name != "params"} for group in groups])

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *args: Any) -> None:
        self.scalars.append(dict(outputs))


class TestSchedules:
    def test_optimizers_follow_them_in_images_seen(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule
    ) -> None:
        probe = Settings()
        gan = make_gan(
            discriminator_schedules={"lr": FALLING}, generator_schedules={"beta2": FALLING, "beta1": Linear(0, 0, 0)}
        )
        make_trainer(max_steps=5, callbacks=[probe], enable_checkpointing=False).fit(gan, digits)
        assert [d["lr"] for d, _ in probe.groups] == [1.0, 0.75, 0.5, 0.25, 0.0]
        assert [g["betas"] for _, g in probe.groups] == [(0.0, 1.0), (0.0, 0.75), (0.0, 0.5), (0.0, 0.25), (0.0, 0.0)]
        assert probe.groups[4][0]["betas"] == (0.5, 0.999)  # what is not scheduled stays
        assert probe.groups[4][1]["lr"] == 2e-4

    def test_what_the_optimizer_does_not_have_is_refused_at_once(self, make_gan: MakeGAN) -> None:
        with pytest.raises(UserError, match="SGD has no 'beta2'"):
            make_gan(discriminator_optimizer=partial(torch.optim.SGD, lr=0.1), discriminator_schedules={"beta2": FALLING})

    def test_a_penaltys_weight_follows_one(self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule) -> None:
        class One(Penalty):
            def forward(self, p: CriticPass) -> Tensor:
                return torch.ones(len(p.real))

        probe = Settings()
        gan = make_gan(penalties={"one": One(FALLING), "lazy": One(FALLING, every=2)})
        make_trainer(max_steps=5, callbacks=[probe], enable_checkpointing=False).fit(gan, digits)
        assert [scalars["penalty/one"].item() for scalars in probe.scalars] == [1.0, 0.75, 0.5, 0.25, 0.0]
        assert [scalars["penalty/lazy"].item() for scalars in probe.scalars[::2]] == [1.0, 0.5, 0.0]


def test_lazy_and_eager_penalties_pull_alike(make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule) -> None:
    """With weights that stay where they are, a period of lazy R1 sums up to what eager R1 does at the same images."""

    class Pull(Callback):
        def __init__(self) -> None:
            self.total = 0.0

        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
            self.total += pl_module.discriminator.get_parameter("dense.weight").grad

    def pull(**penalties: Penalty) -> Any:
        still, probe = partial(torch.optim.SGD, lr=0.0), Pull()
        gan = make_gan(penalties=penalties, generator_optimizer=still, discriminator_optimizer=still, loss=Relativistic())
        gan.discriminator.eval()  # no dropout, and no running statistics that move
        batch = digits.on_after_batch_transfer(digits.train_dataloader().batch(0), 0)
        trainer = make_trainer(max_epochs=1, callbacks=[probe], enable_checkpointing=False)
        trainer.fit(gan, UserList([batch] * 8), UserList([batch]))
        return probe.total

    without = pull()
    eager, lazy = pull(r1=R1(100.0)) - without, pull(r1=R1(100.0, every=4)) - without
    assert eager.norm() > 0.1
    assert_close(lazy, eager, rtol=1e-3, atol=1e-4)


class TestConstraint:
    def test_d_is_clipped_after_each_of_its_steps_and_g_is_not(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule
    ) -> None:
        gan = make_gan(constraint=WeightClipping(0.005))
        make_trainer(max_steps=1).fit(gan, digits)
        largest = {
            name: max(p.abs().max().item() for p in getattr(gan, name).parameters()) for name in ("generator", "discriminator")
        }
        assert largest["discriminator"] == pytest.approx(0.005)
        assert largest["generator"] > 0.01


class Ink(Augmentation):
    """Adds its level to every pixel, and notes what it is told."""

    level: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(()))
        self.seen: list[tuple[int, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        return x + self.level

    def update(self, real_logits: Tensor, images_seen: int) -> None:
        super().update(real_logits, images_seen)
        self.level += 1
        self.seen.append((images_seen, real_logits))


class TestAugmentation:
    def test_it_is_told_of_each_step_and_its_state_is_in_the_checkpoint(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Any
    ) -> None:
        ink = Ink()
        trainer = make_trainer(max_steps=3)
        trainer.fit(make_gan(augment=ink), digits)
        assert [images for images, _ in ink.seen] == [BATCH, 2 * BATCH, 3 * BATCH]
        assert all(logits.shape == (BATCH,) and not logits.requires_grad for _, logits in ink.seen)
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        state = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
        assert state["augment.level"] == 3

    def test_a_checkpoint_without_its_state_is_refused(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Any
    ) -> None:
        trainer = make_trainer(max_steps=1)
        trainer.fit(make_gan(), digits)
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        resumed = make_gan(augment=Ink())
        with pytest.raises(UserError, match=r"model\.augment differ"):
            make_trainer(max_steps=2).fit(resumed, digits, ckpt_path=tmp_path / "a.ckpt", weights_only=True)

    def test_d_sees_every_image_through_it_in_both_steps(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule
    ) -> None:
        seen: list[float] = []
        ink = Ink()
        ink.level += 100
        gan = make_gan(augment=ink, loss=Relativistic(), penalties={"r1": R1()})
        gan.discriminator.register_forward_pre_hook(lambda module, args: seen.append(args[0].mean().item()))
        make_trainer(max_steps=1).fit(gan, digits)
        # In D's step real and generated images, in G's generated and real ones; none of them brighter than 1 by itself.
        assert len(seen) == 4
        assert min(seen) > 98

    def test_one_that_is_a_penaltys_is_told_too(self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule) -> None:
        ink = Ink()
        make_trainer(max_steps=2).fit(make_gan(penalties={"cr": Consistency(ink)}), digits)
        assert ink.level == 2

    def test_an_adaptive_one_needs_logits_whose_sign_means_something(self, make_gan: MakeGAN) -> None:
        with pytest.raises(ValueError, match="means nothing under Relativistic: give it a probability"):
            make_gan(augment=ADA(), loss=Relativistic())
        make_gan(augment=ADA(probability=0.5), loss=Relativistic())
        make_gan(augment=ADA(), loss=LeastSquares(a=-1, b=1, c=1))

    def test_samples_are_not_augmented(self, make_gan: MakeGAN) -> None:
        ink, z = Ink(), torch.randn(2, 4)
        ink.level += 100
        assert_close(make_gan(augment=ink).sample(z), make_gan().sample(z))


def test_a_resumed_run_of_everything_that_keeps_something_goes_on_as_if_it_had_not_stopped(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Any
) -> None:
    def fit(steps: int, **kwargs: Any) -> GAN:
        torch.manual_seed(0)
        gan = make_gan(
            generator=StyleGAN2Generator((1, 8, 8), latent_dim=4, style_dim=4, mapping_layers=1, channel_base=32),
            penalties={"r1": R1(Linear(1.0, 0.0, images=20 * BATCH), every=4), "lecam": LeCam()},
            generator_penalties={"path": PathLength(every=2)},
            augment=ADA(speed=2000, target=-0.9),
            discriminator_schedules={"lr": Cosine(1e-3, 0.0, images=20 * BATCH)},
            ema_half_life=Linear(0.0, 100.0, images=20 * BATCH),
        )
        trainer = make_trainer(max_steps=steps)
        trainer.fit(gan, digits, weights_only=True, **kwargs)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return gan

    whole = fit(20)
    assert whole.augment is not None
    assert 0.1 < whole.augment.p < 1  # it has moved
    for kill_at in (5, 11):
        fit(kill_at)
        resumed = fit(20, ckpt_path=tmp_path / f"{kill_at}.ckpt")
        assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


class TestGeneratorPenalties:
    def styled(self, **parts: Any) -> dict[str, Any]:
        generator = StyleGAN2Generator((1, 8, 8), latent_dim=4, style_dim=4, mapping_layers=1, channel_base=32)
        return {"generator": generator, **parts}

    def test_they_come_every_so_many_steps_of_g(self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule) -> None:
        probe = Settings()
        parts = self.styled(generator_penalties={"path": PathLength(every=2)}, critic_steps=2)
        make_trainer(max_steps=8, callbacks=[probe], enable_checkpointing=False).fit(make_gan(**parts), digits)
        came = ["generator_penalty/path" in scalars for scalars in probe.scalars]
        assert came == [False, True, False, False, False, True, False, False]

    def test_a_lazy_one_is_as_many_times_stronger(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule
    ) -> None:
        class Mapped(GeneratorPenalty):
            def forward(self, generator: Any, z: Tensor, y: Tensor | None) -> Tensor:
                w: Tensor = generator.styles(z, y)
                return 1000 * w.square().sum((1, 2))

        gradients: list[Any] = []
        for every in (1, 3):
            torch.manual_seed(0)
            gan = make_gan(**self.styled(generator_penalties={"mapped": Mapped(1000.0, every)}))
            make_trainer(max_steps=1).fit(gan, digits)
            gradients.append(next(p.grad for name, p in gan.generator.named_parameters() if "mapping" in name))
        assert_close(gradients[1], 3 * gradients[0], rtol=1e-4, atol=0)

    def test_a_generator_without_styles_is_refused(self, make_gan: MakeGAN) -> None:
        with pytest.raises(ValueError, match="DCGANGenerator has none"):
            make_gan(generator_penalties={"path": PathLength()})


@pytest.mark.parametrize("clip_norm", [None, 1e9])
def test_the_norms_of_each_networks_last_gradients_are_logged(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, clip_norm: float | None
) -> None:
    gan = make_gan(critic_steps=3, generator_clip_norm=clip_norm, discriminator_clip_norm=clip_norm)
    trainer = make_trainer(max_steps=4, log_every_n_steps=4)
    trainer.fit(gan, digits)  # G's last step is the third, D's the fourth
    for name in ("generator", "discriminator"):
        norm = sum(parameter.grad.square().sum() for parameter in getattr(gan, name).parameters()).sqrt()
        assert_close(trainer.callback_metrics[f"grad_norm/{name}"], norm)
