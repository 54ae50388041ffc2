import copy
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_gan import randomness, record
from lightning_gan.data import DataModule
from lightning_gan.ema import AveragedGenerator
from lightning_gan.errors import UserError
from lightning_gan.gan import GAN
from lightning_gan.losses import AdversarialLoss, NonSaturating, Relativistic
from lightning_gan.penalties import R1, CriticPass, Penalty
from lightning_gan.schedules import Linear

MakeGAN = Callable[..., GAN]
MakeTrainer = Callable[..., Trainer]


def state(network: nn.Module) -> dict[str, Any]:
    gradients = {f"{name}.grad": parameter.grad for name, parameter in network.named_parameters()}
    return copy.deepcopy({**network.state_dict(), **gradients})


def differs(a: dict[str, Any], b: dict[str, Any]) -> set[str]:
    return {name for name in a if not (a[name] is b[name] or (a[name] is not None and torch.equal(a[name], b[name])))}


class OneStepEach(Callback):
    """Runs D's step and then G's by themselves and keeps what each changed."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        real, y, *_ = batch
        networks = {"generator": pl_module.generator, "discriminator": pl_module.discriminator, "average": pl_module.average}
        self.changed = {}
        for step in (pl_module.discriminator_step, pl_module.generator_step):
            before = {name: state(network) for name, network in networks.items()}
            step(real, y, 0, pl_module.latents(step.__name__, 0, len(real)))
            self.changed[step.__name__] = {
                name: changes for name, network in networks.items() if (changes := differs(before[name], state(network)))
            }


@pytest.mark.parametrize("num_classes", [0, 10])
def test_each_step_changes_its_own_network_alone(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, num_classes: int
) -> None:
    digits.conditional = num_classes > 0
    gan, probe = make_gan(num_classes, penalties={"r1": R1()}), OneStepEach()
    make_trainer(max_steps=1, limit_train_batches=1, max_epochs=1, callbacks=[probe], enable_checkpointing=False).fit(
        gan, digits
    )
    assert set(probe.changed["discriminator_step"]) == {"discriminator"}
    assert set(probe.changed["generator_step"]) == {"generator"}
    # Weights, gradients and, in the generator, the running statistics of batch normalization.
    assert {"dense.weight", "dense.weight.grad"} <= probe.changed["discriminator_step"]["discriminator"]
    expected = {"dense.weight", "dense.weight.grad", "layers.0.running_mean", "layers.0.num_batches_tracked"}
    assert expected <= probe.changed["generator_step"]["generator"]


class Record(Callback):
    """Notes what Lightning believes at the end of each training step."""

    def __init__(self) -> None:
        self.global_steps: list[int] = []
        self.images_seen: list[int] = []
        self.outputs: list[dict[str, Tensor]] = []
        self.validated_at: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.global_steps.append(trainer.global_step)
        self.images_seen.append(pl_module.images_seen)
        self.outputs.append(outputs)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.validated_at.append(trainer.global_step)


class Axis(DummyLogger):
    """Notes where each row lies on the loggers' axis."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))


@pytest.mark.parametrize("critic_steps", [1, 3])
class TestOneClock:
    """Lightning counts optimizer steps; naively, 24 steps asked for were 12 or 6 training steps."""

    def test_max_steps_and_global_step_count_training_steps(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, critic_steps: int
    ) -> None:
        record, gan = Record(), make_gan(critic_steps=critic_steps, penalties={"r1": R1(every=4)})
        make_trainer(max_steps=24, callbacks=[record], enable_checkpointing=False).fit(gan, digits)
        assert record.global_steps == list(range(1, 25))
        assert record.images_seen == list(range(32, 32 * 25, 32))

    def test_checkpoints_come_every_n_train_steps(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, critic_steps: int, tmp_path: Any
    ) -> None:
        checkpoint = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=10, save_top_k=-1)
        trainer = make_trainer(max_steps=24, callbacks=[checkpoint])
        with pytest.warns(UserWarning, match="pre-optimization state"):  # wrong of it: it looks for a name of its own
            trainer.fit(make_gan(critic_steps=critic_steps), digits)
        assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["step=10.ckpt", "step=20.ckpt"]

    def test_validation_comes_every_val_check_interval(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, critic_steps: int
    ) -> None:
        record = Record()
        trainer = make_trainer(
            max_steps=24,
            callbacks=[record],
            enable_checkpointing=False,
            limit_val_batches=1,
            val_check_interval=10,
            check_val_every_n_epoch=None,
        )
        trainer.fit(make_gan(critic_steps=critic_steps), digits)
        assert record.validated_at == [10, 20]

    def test_the_loggers_axis_counts_training_steps_from_zero(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, critic_steps: int
    ) -> None:
        axis = Axis()
        trainer = make_trainer(max_steps=24, logger=axis, log_every_n_steps=10)
        trainer.fit(make_gan(critic_steps=critic_steps), digits)
        assert [(step, row["images_seen"]) for step, row in axis.rows] == [(9, 320.0), (19, 640.0)]


class TestSchedule:
    def test_the_generator_steps_at_every_critic_steps_th_step(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule
    ) -> None:
        record = Record()
        make_trainer(max_steps=7, callbacks=[record], enable_checkpointing=False).fit(make_gan(critic_steps=3), digits)
        stepped = ["loss/generator" in outputs for outputs in record.outputs]
        assert stepped == [False, False, True, False, False, True, False]

    def test_a_lazy_penalty_comes_every_so_many_steps(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule
    ) -> None:
        record, gan = Record(), make_gan(penalties={"r1": R1(every=3), "always": R1()})
        make_trainer(max_steps=7, callbacks=[record], enable_checkpointing=False).fit(gan, digits)
        assert ["penalty/r1" in outputs for outputs in record.outputs] == [True, False, False, True, False, False, True]
        assert all("penalty/always" in outputs for outputs in record.outputs)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_penalties_in_mixed_precision(make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, precision: str) -> None:
    # The generator's images come out of autocast in bfloat16, which a critic in float32 would refuse.
    record, gan = Record(), make_gan(penalties={"r1": R1(every=2)})
    make_trainer(max_steps=3, callbacks=[record], enable_checkpointing=False, precision=precision).fit(gan, digits)
    assert record.outputs[2]["penalty/r1"].dtype == torch.float32
    assert record.outputs[2]["penalty/r1"] > 0


def test_a_row_is_written_before_the_callbacks_of_its_step(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule
) -> None:
    # A checkpoint that one of them saves is then never ahead of the rows: a run that is killed after it has lost none.
    axis = Axis()
    rows_at_checkpoint = []

    class Save(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            rows_at_checkpoint.append([step for step, _ in axis.rows])

    trainer = make_trainer(max_steps=4, logger=axis, log_every_n_steps=2, callbacks=[Save()], enable_checkpointing=False)
    trainer.fit(make_gan(), digits)
    assert rows_at_checkpoint == [[], [1], [1], [1, 3]]


def test_a_row_has_plain_numbers_and_callbacks_can_watch_them(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule
) -> None:
    axis, gan = Axis(), make_gan(generator_schedules={"lr": Linear(1e-3, 0.0, images=64)})
    trainer = make_trainer(max_steps=2, logger=axis, log_every_n_steps=2)
    trainer.fit(gan, digits)
    ((_, row),) = axis.rows
    assert type(row["images_seen"]) is type(row["epoch"]) is int
    assert (row["images_seen"], row["epoch"], row["lr/generator"]) == (64, 0, 0.0)
    for name, scalar in gan.scalars.items():
        assert type(row[name]) is float
        assert row[name] == trainer.callback_metrics[name] == scalar


def test_what_is_logged_is_the_latest_of_each_scalar(make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule) -> None:
    # Due at steps 0, 4, 8, ... and logged at 9, 19, ...: the two never meet.
    axis = Axis()
    gan = make_gan(penalties={"r1": R1(every=4)}, critic_steps=3)
    make_trainer(max_steps=10, logger=axis, log_every_n_steps=10).fit(gan, digits)
    ((_, row),) = axis.rows
    assert {"penalty/r1", "loss/generator"} <= set(row)


class Constant(Penalty):
    """Ten times the critic's logit at each real image, so that its gradient is easily told apart."""

    def forward(self, p: CriticPass) -> Tensor:
        return 10 * p.real_logits


class Silent(AdversarialLoss):
    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return 0 * (real_logits + fake_logits)

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return 0 * fake_logits


def test_a_lazy_penalty_is_as_many_times_stronger(make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule) -> None:
    gradients = []
    for every in (1, 4):
        gan = make_gan(loss=Silent(), penalties={"constant": Constant(1.0, every)})
        make_trainer(max_steps=1).fit(gan, digits)
        gradients.append(gan.discriminator.get_parameter("dense.bias").grad)
    assert_close(gradients, [torch.tensor([10.0]), torch.tensor([40.0])])


@pytest.mark.parametrize("clipped", ["generator", "discriminator"])
def test_gradients_are_clipped_by_norm_for_each_network(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, clipped: str
) -> None:
    norms = {}
    gan = make_gan(**{f"{clipped}_clip_norm": 1e-3})
    make_trainer(max_steps=1).fit(gan, digits)
    for name in ("generator", "discriminator"):
        gradients = [parameter.grad for parameter in getattr(gan, name).parameters()]
        norms[name] = torch.nn.utils.get_total_norm(gradients).item()
    assert norms.pop(clipped) == pytest.approx(1e-3, rel=1e-3)  # torch divides by the norm + 1e-6
    assert norms.popitem()[1] > 2e-3


@pytest.mark.parametrize("reuse_fakes", [False, True])
@pytest.mark.parametrize("loss", [NonSaturating(), Relativistic()])
def test_one_training_step_by_hand(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, loss: AdversarialLoss, reuse_fakes: bool
) -> None:
    """The weights after one training step are those of a few lines of plain PyTorch."""
    sgd = partial(torch.optim.SGD, lr=0.1)  # Adam's first step is a sign, which rounding can turn
    gan = make_gan(loss=loss, generator_optimizer=sgd, discriminator_optimizer=sgd, reuse_fakes=reuse_fakes)
    by_hand = copy.deepcopy(gan)
    make_trainer(max_steps=1).fit(gan, digits)

    g, d = by_hand.generator.train(), by_hand.discriminator.train()
    g_optimizer, d_optimizer = by_hand.generator_optimizer(g.parameters()), by_hand.discriminator_optimizer(d.parameters())
    batch = digits.on_after_batch_transfer(digits.train_dataloader().batch(0), 0)
    randomness.reseed(0, "step", 0, rank=0)
    z1, z2 = (g.latents(32, randomness.generator(0, "latents", purpose, 0)) for purpose in ("discriminator", "generator"))
    statistics = copy.deepcopy(dict(g.named_buffers()))
    fake = g(z1)
    if not reuse_fakes:
        for name, buffer in g.named_buffers():
            buffer.copy_(statistics[name])
    d_loss = loss.discriminator(d(batch.images), d(fake.detach())).mean()
    d_optimizer.zero_grad()
    d_loss.backward()
    d_optimizer.step()
    fake_logits = d(fake if reuse_fakes else g(z2))
    real_logits = d(batch.images) if isinstance(loss, Relativistic) else fake_logits
    g_loss = loss.generator(real_logits, fake_logits).mean()
    g_optimizer.zero_grad()
    g_loss.backward()
    g_optimizer.step()
    assert_close(dict(gan.generator.state_dict()), dict(g.state_dict()))
    assert_close(dict(gan.discriminator.named_parameters()), dict(d.named_parameters()))


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Any
) -> None:
    def fit(steps: int, **kwargs: Any) -> GAN:
        trainer, gan = make_trainer(max_steps=steps), make_gan(penalties={"r1": R1(every=4)}, critic_steps=2)
        trainer.fit(gan, digits, weights_only=True, **kwargs)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return gan

    whole = fit(70)  # an epoch has 53 steps
    for kill_at in (10, 53, 60):
        fit(kill_at)
        resumed = fit(70, ckpt_path=tmp_path / f"{kill_at}.ckpt")
        assert resumed.images_seen == whole.images_seen == 70 * 32
        assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


class TestFurtherAverages:
    def test_each_has_its_own_half_life(self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule) -> None:
        gan = make_gan(ema_half_life=100, further_half_lives=[100, 12.5, 0], critic_steps=2)
        make_trainer(max_steps=200).fit(gan, digits)  # from 2,000 images on a half-life of 100 is not cut short
        assert list(gan.further_averages) == ["100", "12_5", "0"]
        same, shorter, none = cast(list[AveragedGenerator], list(gan.further_averages.values()))
        assert_close(same.state_dict(), gan.average.state_dict(), rtol=0, atol=0)
        assert_close(none.generator.state_dict(), gan.generator.state_dict(), rtol=0, atol=0)
        for other in (same, none):
            assert "generator.dense.weight" in differs(shorter.state_dict(), other.state_dict())

    def test_they_are_in_the_checkpoint_and_do_not_change_training(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Any
    ) -> None:
        without, gan, resumed = make_gan(), make_gan(further_half_lives=[500]), make_gan(further_half_lives=[500])
        for trained in (without, gan):
            trainer = make_trainer(max_steps=3)
            trainer.fit(trained, digits)
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        assert differs(without.state_dict(), gan.state_dict()) == set()
        make_trainer(max_steps=3).fit(resumed, digits, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
        assert_close(resumed.state_dict(), gan.state_dict(), rtol=0, atol=0)

        checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
        for other in (without, make_gan(further_half_lives=[1000])):
            with pytest.raises(UserError, match=r"model\.further_half_lives differ"):
                record.check_fits(other, checkpoint)
        record.check_fits(gan, checkpoint)


def test_sampling_uses_the_average_and_gives_uint8(make_gan: MakeGAN) -> None:
    gan = make_gan()
    z = torch.randn(3, 4)
    expected = ((gan.average(z) + 1) * 127.5).round()
    nn.init.zeros_(gan.generator.get_parameter("dense.weight"))
    assert_close(gan.sample(z).float(), expected)
    assert gan.sample(z).dtype == torch.uint8


def test_fakes_cannot_be_reused_in_parts(make_gan: MakeGAN) -> None:
    with pytest.raises(ValueError, match="reuse_fakes keeps the pass of G that accumulate"):
        make_gan(reuse_fakes=True, accumulate=2)


def test_critic_steps_must_be_positive(make_gan: MakeGAN) -> None:
    with pytest.raises(ValueError, match="critic_steps"):
        make_gan(critic_steps=0)
