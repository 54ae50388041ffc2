import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from torch.testing import assert_close

from lightning_gan.callbacks import LastCheckpoint
from lightning_gan.callbacks.health import Health, TrainingDiverged
from lightning_gan.callbacks.rollback import fit_with_rollbacks
from lightning_gan.data import DataModule
from lightning_gan.gan import GAN
from lightning_gan.penalties import R1, CriticPass, Penalty
from lightning_gan.record import Changes
from lightning_gan.schedules import Linear
from lightning_gan.wandb_run import TolerantWandbLogger

MakeGAN = Callable[..., GAN]
MakeTrainer = Callable[..., Trainer]
BATCH = 32  # the digits fixture's


class Poison(Callback):
    """Puts a NaN into a tensor of G or D before the step that begins at so many images, as often as it is told."""

    def __init__(self, images_seen: int, name: str = "discriminator.dense.bias", times: int = 1) -> None:
        self.images_seen, self.name, self.times = images_seen, name, times
        self.torn_down = 0

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self.torn_down += 1

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if pl_module.images_seen == self.images_seen and self.times:
            self.times -= 1
            pl_module.state_dict()[self.name].fill_(math.nan)


class BadGradient(Penalty):
    """Zero, with a gradient that is NaN in D's step at so many images: the weights break and no loss does."""

    def __init__(self, step: int) -> None:
        super().__init__(1.0)
        self.step = step

    def forward(self, p: CriticPass) -> Tensor:
        self.step -= 1
        return p.real_logits.sub(p.real_logits.detach()).abs().sqrt() if self.step < 0 else 0 * p.real_logits


def last(folder: Path) -> Any:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def finite(checkpoint: Any) -> bool:
    return all(tensor.isfinite().all() for tensor in checkpoint["state_dict"].values())


class TestDivergence:
    def fit(self, make_trainer: MakeTrainer, gan: GAN, digits: DataModule, *callbacks: Callback, **arguments: Any) -> str:
        with pytest.raises(TrainingDiverged) as stop:
            make_trainer(max_steps=10, callbacks=[*callbacks, Health(), LastCheckpoint(64)], **arguments).fit(gan, digits)
        return str(stop.value)

    def test_the_run_stops_at_once_and_says_what_is_kept(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Path
    ) -> None:
        gan = make_gan(penalties={"r1": R1()})
        run = MagicMock(summary={})
        logger = TolerantWandbLogger(save_dir=tmp_path, experiment=run)
        said = self.fit(make_trainer, gan, digits, Poison(5 * BATCH), logger=logger)
        assert gan.images_seen == 6 * BATCH
        assert said.startswith("Training diverged after 192 images: loss/discriminator is nan")
        assert "the weights of model.generator (dense.weight and " in said
        assert f"{tmp_path}/checkpoints/last.ckpt, saved after 128 images, is intact. Try a lower learning rate" in said
        assert "32-true" not in said  # it is that already
        run.alert.assert_called_once()
        assert run.summary == {"health/divergence": 192}
        assert finite(last(tmp_path))
        resumed, trainer = make_gan(penalties={"r1": R1()}), make_trainer(max_steps=5, callbacks=[Health(), LastCheckpoint()])
        trainer.fit(resumed, digits, ckpt_path=tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
        assert resumed.images_seen == 5 * BATCH

    def test_a_model_that_is_not_finite_is_not_saved(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Path
    ) -> None:
        gan = make_gan(penalties={"bad": BadGradient(step=3)}, critic_steps=5)
        said = self.fit(make_trainer, gan, digits)
        # The losses of the fourth step were fine; its weights are not, and they were about to be saved.
        assert gan.images_seen == 4 * BATCH
        assert "after 128 images: the weights of model.discriminator (layers.0.weight and 3 more) are not finite." in said
        assert "last.ckpt, saved after 64 images, is intact" in said
        assert last(tmp_path)["global_step"] == 2

    @pytest.mark.parametrize("name", ["average.generator.dense.bias", "generator.layers.0.running_mean"])
    def test_neither_is_an_average_or_a_running_statistic(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Path, name: str
    ) -> None:
        network, _, place = name.partition(".")
        said = self.fit(make_trainer, make_gan(), digits, Poison(3 * BATCH, name))
        assert f"after 128 images: the weights of model.{network} ({place})" in said
        assert last(tmp_path)["global_step"] == 2

    def test_nor_the_optimizers_values(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Path
    ) -> None:
        class Overflow(Callback):
            def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
                if pl_module.images_seen == 3 * BATCH:
                    bias = pl_module.discriminator.get_parameter("dense.bias")
                    trainer.optimizers[0].state[bias]["exp_avg_sq"].fill_(math.inf)  # its steps are 0 from now on

        said = self.fit(make_trainer, make_gan(), digits, Overflow())
        assert "the optimizer's values of model.discriminator (exp_avg_sq of dense.bias) are not finite" in said
        assert last(tmp_path)["global_step"] == 2

    def test_before_the_first_checkpoint_and_in_half_precision_it_says_so(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule
    ) -> None:
        said = self.fit(make_trainer, make_gan(), digits, Poison(0), precision="bf16-mixed")
        assert "There is no checkpoint yet." in said
        assert said.endswith(", or --trainer.precision 32-true.")

    def test_where_looks_are_rare_the_first_bad_step_is_named_all_the_same(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule
    ) -> None:
        class Rare(Health):
            def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
                super().on_train_start(trainer, pl_module)
                self._every = 50  # as on a GPU

        health, gan = Rare(), make_gan()
        trainer = make_trainer(max_steps=7, callbacks=[Poison(5 * BATCH), health], enable_checkpointing=False)
        with pytest.raises(TrainingDiverged, match="diverged after 192 images: loss/discriminator is nan"):
            trainer.fit(gan, digits)
        assert gan.images_seen == 7 * BATCH

    def test_it_does_not_change_training(self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule) -> None:
        watched, alone = make_gan(), make_gan()
        make_trainer(max_steps=5, callbacks=[Health(), LastCheckpoint(64)]).fit(watched, digits)
        make_trainer(max_steps=5).fit(alone, digits)
        assert_close(watched.state_dict(), alone.state_dict(), rtol=0, atol=0)

    def test_a_look_is_quick(self, make_gan: MakeGAN, make_trainer: MakeTrainer) -> None:
        health, trainer, gan = Health(), make_trainer(), make_gan()
        outputs = {name: torch.tensor(0.5) for name in ("d", "g", "real", "fake", "r1")}
        started = time.process_time()
        for _ in range(1000):
            health.on_train_batch_end(trainer, gan, outputs, None, 0)
        assert time.process_time() - started < 0.2  # 200 microseconds each; it measures about 10


GOOD = {"coverage": 0.8, "duplicates": 0.01, "modes": 10.0, "classes": 10.0, "copy_rate": 0.01, "d_accuracy": 0.8}


class TestJudgement:
    @pytest.fixture
    def told(self, make_gan: MakeGAN, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
        """Judge these scores, one after the other, beside good ones, and return what each of them led to."""
        gan, trainer, run = make_gan(), make_trainer(), MagicMock(summary={})
        trainer.loggers = [TolerantWandbLogger(experiment=run)]
        gan.scalars = {"logits/real": torch.tensor(5.25), "logits/fake": torch.tensor(-7.0)}

        def told(*scores: dict[str, float], health: Health | None = None) -> list[str]:
            health, texts = health or Health(), []
            for changed in scores:
                warnings: list[str] = []
                monkeypatch.setattr("lightning_gan.callbacks.health.rank_zero_warn", warnings.append)
                run.alert.reset_mock()
                health.judge(trainer, gan, GOOD | changed)
                assert run.alert.call_count == len(warnings)
                texts.append(" ".join(warnings))
            return texts

        return told

    @pytest.mark.parametrize(
        ("scores", "said"),
        [
            ({"coverage": 0.05}, "G has collapsed after 0 images: only 5.0% of real images have a generated one near them."),
            ({"duplicates": 0.25}, "G has collapsed after 0 images: 25.0% of generated images look like another one. Try"),
            ({"modes": 4}, "G has collapsed after 0 images: only 4 of 10 classes are drawn. Try"),
            ({"modes": 4, "coverage": 0.0}, "near them and only 4 of 10"),
            ({"copy_rate": 0.5}, "G repeats training images after 0 images: 50.0% of generated images are near copies"),
        ],
    )
    def test_what_goes_wrong_is_told(self, told: Callable[..., list[str]], scores: dict[str, float], said: str) -> None:
        nothing, something = told({}, scores)
        assert nothing == ""
        assert said in something

    def test_what_is_on_the_edge_is_not(self, told: Callable[..., list[str]]) -> None:
        edge = {"coverage": 0.1, "duplicates": 0.1, "modes": 5.0, "copy_rate": 0.1, "d_accuracy": 0.99}
        assert told(GOOD, edge, edge) == ["", "", ""]

    def test_it_is_told_once_until_it_has_gone_away(self, told: Callable[..., list[str]]) -> None:
        bad = {"coverage": 0.05}
        assert [bool(text) for text in told({}, bad, bad, bad, {}, bad)] == [False, True, False, False, False, True]

    def test_a_collapse_that_was_always_there_is_told_the_third_time(self, told: Callable[..., list[str]]) -> None:
        bad = {"coverage": 0.05}
        assert [bool(text) for text in told(bad, bad, bad, bad)] == [False, False, True, False]
        assert told(bad, bad, {}) == ["", "", ""]

    def test_d_has_won_when_it_does_so_twice_in_a_row(self, told: Callable[..., list[str]]) -> None:
        won = {"d_accuracy": 0.995}
        texts = told(won, {}, won, won, won)
        assert [bool(text) for text in texts] == [False, False, False, True, False]
        assert "99.5% of the pairs of a real and a generated image rightly, by logits of 5.2 and -7.0 on average" in texts[3]

    def test_what_is_not_known_is_not_judged(self, told: Callable[..., list[str]], make_gan: MakeGAN) -> None:
        unknown = dict.fromkeys(GOOD, math.nan)
        bad = {"coverage": 0.05}
        assert [bool(text) for text in told({}, unknown, bad, unknown, bad)] == [False, False, True, False, False]
        Health().judge(Trainer(logger=False, accelerator="cpu"), make_gan(), {})

    def test_thresholds_are_arguments(self, told: Callable[..., list[str]]) -> None:
        assert told({}, {"coverage": 0.05}, health=Health(min_coverage=0.04)) == ["", ""]
        assert "G repeats" in told({"copy_rate": 0.06}, health=Health(max_copy_rate=0.05))[0]

    def test_a_resumed_run_does_not_repeat_it(self, told: Callable[..., list[str]]) -> None:
        first, resumed = Health(), Health()
        told({}, {"coverage": 0.05}, health=first)
        resumed.load_state_dict(copy.deepcopy(first.state_dict()))
        assert told({"coverage": 0.05}, health=resumed) == [""]


class TestRollback:
    def fit(self, make_trainer: MakeTrainer, gan: GAN, digits: DataModule, *callbacks: Callback, **arguments: Any) -> Trainer:
        health = Health(**arguments)
        trainer = make_trainer(max_steps=10, callbacks=[*callbacks, health, LastCheckpoint(64)])
        fit_with_rollbacks(trainer, gan, digits, health)
        return trainer

    def test_training_goes_on_from_the_last_good_checkpoint_with_what_is_changed(
        self,
        make_gan: MakeGAN,
        make_trainer: MakeTrainer,
        digits: DataModule,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        gan = make_gan(generator_schedules={"lr": Linear(1e-3, 1e-3, 1)})
        poison = Poison(5 * BATCH)
        trainer = self.fit(make_trainer, gan, digits, poison, rollbacks=1, penalty_factor=3.0)
        assert poison.torn_down == 2  # such as the progress bar before the next
        assert trainer.global_step == 10
        assert gan.images_seen == 10 * BATCH
        assert gan.changes == Changes(rollbacks=1, learning_rate=0.5, penalty=3.0, reseeded=1)
        assert [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers] == [1e-4, 5e-4]
        assert finite(last(tmp_path))
        out = capsys.readouterr().out
        assert "Rollback 1 of 1: back to " in out
        assert "last.ckpt, after 128 images, with learning rates times 0.5, D's penalties times 3 and another seed." in out

        resumed = make_gan(generator_schedules={"lr": Linear(1e-3, 1e-3, 1)})
        trainer = make_trainer(max_steps=11, callbacks=[Health(rollbacks=1), LastCheckpoint()])
        trainer.fit(resumed, digits, ckpt_path=tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
        assert resumed.changes == gan.changes
        assert [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers] == [1e-4, 5e-4]

    def test_it_is_a_resumption(self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Path) -> None:
        """After a rollback, and without one but with what it changed, the same checkpoint trains to the same weights."""
        gan = make_gan(critic_steps=2, penalties={"r1": R1(every=4)})
        self.fit(make_trainer, gan, digits, Poison(5 * BATCH), rollbacks=1)

        again = make_gan(critic_steps=2, penalties={"r1": R1(every=4)})
        make_trainer(max_steps=4, callbacks=[LastCheckpoint()]).fit(again, digits)
        again.changes = Changes(rollbacks=1, learning_rate=0.5, reseeded=1)
        checkpoint = tmp_path / "checkpoints" / "last.ckpt"
        trainer = make_trainer(max_steps=10, callbacks=[LastCheckpoint()])
        trainer.fit(again, digits, ckpt_path=checkpoint, weights_only=True)
        assert_close(again.state_dict(), gan.state_dict(), rtol=0, atol=0)

    def test_the_seed_and_the_weights_of_penalties_are_what_they_are_said_to_be(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule
    ) -> None:
        gan = make_gan(penalties={"r1": R1(2.0)})
        make_trainer(max_steps=1).fit(gan, digits)
        stronger, reseeded = make_gan(penalties={"r1": R1(2.0)}), make_gan(penalties={"r1": R1(2.0)})
        stronger.changes, reseeded.changes = Changes(penalty=3.0), Changes(reseeded=1)
        for changed in (stronger, reseeded):
            make_trainer(max_steps=1).fit(changed, digits)
        assert_close(stronger.scalars["penalty/r1"], 3 * gan.scalars["penalty/r1"])
        assert stronger.scalars["logits/real"] == gan.scalars["logits/real"] != reseeded.scalars["logits/real"]  # by dropout
        assert not torch.equal(gan.latents("generator", 0, 4), reseeded.latents("generator", 0, 4))
        assert reseeded.seed == 0  # pictures and scores keep their latents

    def test_the_number_is_bounded(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Path
    ) -> None:
        gan = make_gan()
        with pytest.raises(TrainingDiverged, match="diverged after 192 images"):
            self.fit(make_trainer, gan, digits, Poison(5 * BATCH, times=3), rollbacks=2)
        assert gan.changes == Changes(rollbacks=2, learning_rate=0.25, reseeded=2)
        assert last(tmp_path)["global_step"] == 4

    def test_a_collapse_goes_back_to_the_best_checkpoint(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Path
    ) -> None:
        class Evaluation(Callback):
            def __init__(self) -> None:
                self.at: list[tuple[int, int]] = []

            def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
                if pl_module.images_seen == 2 * BATCH:
                    trainer.save_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
                if pl_module.images_seen % (3 * BATCH) == 0:
                    self.at.append((pl_module.changes.rollbacks, pl_module.images_seen))
                    health = next(one for one in trainer.callbacks if isinstance(one, Health))  # type: ignore[attr-defined]  # a connector sets it
                    health.judge(trainer, pl_module, {"coverage": 0.5 if pl_module.images_seen < 6 * BATCH else 0.01})

        evaluation, gan = Evaluation(), make_gan()
        with pytest.warns(UserWarning, match="G has collapsed after 192 images"):
            self.fit(make_trainer, gan, digits, evaluation, rollbacks=1)
        assert evaluation.at == [(0, 96), (0, 192), (1, 96), (1, 192), (1, 288)]  # no rollback is left: it is only told
        assert gan.images_seen == 10 * BATCH

    def test_a_run_that_may_go_back_has_a_checkpoint_from_the_start(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule
    ) -> None:
        gan = make_gan()
        self.fit(make_trainer, gan, digits, Poison(0), rollbacks=1)
        assert gan.changes.rollbacks == 1
        assert gan.images_seen == 10 * BATCH

    def test_one_that_changes_nothing_is_refused(self) -> None:
        with pytest.raises(ValueError, match="repeats what went wrong"):
            Health(rollbacks=1, learning_rate_factor=1, new_seed=False)
        with pytest.raises(ValueError, match="must not be negative"):
            Health(rollbacks=-1)

    def test_a_collapse_without_a_checkpoint_is_only_told(self, make_gan: MakeGAN, make_trainer: MakeTrainer) -> None:
        trainer, health = make_trainer(), Health(rollbacks=1)
        health.judge(trainer, make_gan(), {"coverage": 0.5})
        with pytest.warns(UserWarning, match="G has collapsed"):
            health.judge(trainer, make_gan(), {"coverage": 0.05})
