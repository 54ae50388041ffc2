import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch.testing import assert_close

from lightning_gan.callbacks import Evaluation, Health, LastCheckpoint
from lightning_gan.callbacks.evaluation import real_images
from lightning_gan.data import DataModule
from lightning_gan.errors import UserError
from lightning_gan.gan import GAN
from lightning_gan.metrics.extractors import Extractor, Random
from lightning_gan.metrics.reference import BATCH_SIZE
from lightning_gan.run_folder import RUNS
from lightning_gan.sampling import read_generator
from lightning_gan.tracking import MetricsCSV

# A GAN of a few steps is not a healthy one.
pytestmark = pytest.mark.filterwarnings("ignore:(G has collapsed|D has won|G repeats training images) after")

MakeGAN = Callable[..., GAN]
MakeTrainer = Callable[..., Trainer]


class Pixels(Extractor):
    """Features: pixels; for tests of what is done with scores."""

    name = "pixels"

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return torch.nn.functional.avg_pool2d(x.float(), 4).flatten(1), None


def rows(path: Path) -> list[dict[str, float]]:
    header, *lines = (line.split(",") for line in path.read_text().splitlines())
    found = [{name: float(value) for name, value in zip(header, line, strict=True) if value} for line in lines]
    return [row for row in found if "fid_pixels" in row]


def train(
    make_trainer: MakeTrainer, gan: GAN, data: DataModule, evaluation: Evaluation | None, steps: int = 8, **options: Any
) -> Trainer:
    callbacks = [Health(), *([evaluation] if evaluation else [])]
    checkpointing = None if evaluation else False  # Evaluation is a checkpoint callback, too
    trainer = make_trainer(max_steps=steps, callbacks=callbacks, enable_checkpointing=checkpointing, **options)
    trainer.fit(gan, data)
    return trainer


def test_training_is_bitwise_the_same_with_and_without(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule
) -> None:
    digits.conditional = True
    without, scored = make_gan(10), make_gan(10)
    train(make_trainer, without, digits, None)
    train(make_trainer, scored, digits, Evaluation(64, num_samples=100))
    for name, tensor in without.state_dict().items():
        assert torch.equal(tensor, scored.state_dict()[name]), name
    assert scored.discriminator.training


def test_scores_are_logged_at_their_place_under_the_extractors_name(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Path
) -> None:
    trainer = train(
        make_trainer, make_gan(), digits, Evaluation(64, num_samples=100, extractor=Pixels()), logger=MetricsCSV(tmp_path)
    )
    logged = rows(tmp_path / "metrics.csv")
    assert [row["images_seen"] for row in logged] == [64, 128, 192, 256]
    assert [row["step"] for row in logged] == [1, 3, 5, 7]
    last = logged[-1]
    assert {"fid_pixels", "fid_se_pixels", "fid_floor_pixels", "kid_pixels", "precision_pixels", "recall_pixels"} <= last.keys()
    assert {"density_pixels", "coverage_pixels", "copy_rate_pixels", "duplicates_pixels", "d_gap", "d_accuracy"} <= last.keys()
    assert "modes_pixels" not in last  # these features know no classes
    assert last["fid_floor_pixels"] < last["fid_pixels"]
    assert trainer.callback_metrics["fid_pixels"] == pytest.approx(last["fid_pixels"])

    record = json.loads((tmp_path / "scores.json").read_text())
    assert record["scores"]["fid_pixels"] == last["fid_pixels"]
    assert record["samples"] == 100
    assert record["images_seen"] == 256
    assert record["real"]["fingerprint"] == digits.fingerprint
    assert record["extractor"]["name"] == "pixels"
    assert len(record["extractor"]["digest"]) == 16
    assert record["versions"]["torch"]


def test_the_best_checkpoint_is_that_of_the_best_score(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([5.0, 3.0, float("nan"), 4.0])
    monkeypatch.setattr(Evaluation, "_score", lambda *_: {"fid": next(values)})
    evaluation = Evaluation(64, num_samples=10, extractor=Pixels())
    train(make_trainer, make_gan(), digits, evaluation)
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["lightning_gan"]["images_seen"] == 128
    assert (evaluation.best_value, evaluation.best_images_seen) == (3.0, 128)
    assert best["callbacks"][evaluation.state_key] == evaluation.state_dict() | {"evaluated_at": 128}

    def resumed(**options: Any) -> Evaluation:
        defaults: dict[str, Any] = {"num_samples": 10, "extractor": Pixels()}
        other = Evaluation(64, **(defaults | options))
        other.prepare(digits)
        other.load_state_dict(evaluation.state_dict())
        return other

    assert resumed().best_value == 3.0
    for options in ({"best": "coverage"}, {"num_samples": 11}, {"extractor": Random()}):
        assert resumed(**options).best_value is None  # what does not compare


def test_higher_is_better_for_some(make_gan: MakeGAN) -> None:
    evaluation = Evaluation(best="coverage")
    evaluation.best_value = 0.5
    assert evaluation._is_better(0.6)
    assert not evaluation._is_better(0.4)


def test_the_extractor_is_in_no_checkpoint_and_no_optimizer(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Path
) -> None:
    with_scores, without = tmp_path / "with.ckpt", tmp_path / "without.ckpt"
    train(make_trainer, make_gan(), digits, Evaluation(64, num_samples=100), steps=3).save_checkpoint(with_scores)
    train(make_trainer, make_gan(), digits, None, steps=3).save_checkpoint(without)
    one, other = (torch.load(path, weights_only=True) for path in (with_scores, without))
    assert one["state_dict"].keys() == other["state_dict"].keys()
    assert one["optimizer_states"][0]["param_groups"] == other["optimizer_states"][0]["param_groups"]


def test_several_half_lives_are_scored_in_one_evaluation(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Path
) -> None:
    gan = make_gan(ema_half_life=10, further_half_lives=[10, 1_000_000])
    evaluation = Evaluation(0, num_samples=100, extractor=Pixels())
    train(make_trainer, gan, digits, evaluation, logger=MetricsCSV(tmp_path))
    (row,) = rows(tmp_path / "metrics.csv")
    assert row["fid_pixels/half_life_10"] == row["fid_pixels"]
    assert row["fid_pixels/half_life_1000000"] != row["fid_pixels"]
    average = read_generator(tmp_path / "checkpoints" / "best.ckpt", half_life=1_000_000)
    for mine, saved in zip(gan.further_averages["1000000"].parameters(), average.parameters(), strict=True):
        assert torch.equal(mine, saved)


def test_a_collapsed_generator_is_never_the_best(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def best_after(*scores: tuple[float, float]) -> int:
        values = iter(scores)
        monkeypatch.setattr(Evaluation, "_score", lambda *_: dict(zip(("fid", "coverage"), next(values), strict=True)))
        train(make_trainer, make_gan(), digits, Evaluation(64, num_samples=10, extractor=Pixels()))
        best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
        images_seen: int = best["lightning_gan"]["images_seen"]
        return images_seen

    assert best_after((5.0, 0.5), (3.0, 0.0), (4.0, 0.5), (4.5, 0.5)) == 192
    assert best_after((5.0, 0.0), (3.0, 0.0), (2.0, 0.0), (4.5, 0.5)) == 192  # what never had variety has not collapsed


def test_the_last_checkpoint_is_saved_first_and_an_evaluation_that_was_killed_is_made_up_for(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = []

    def score(self: Evaluation, trainer: Trainer, gan: GAN, *_: Any) -> dict[str, float]:
        scored.append(gan.images_seen)
        if len(scored) == 2:
            raise KeyboardInterrupt
        return {"fid": 1.0}

    monkeypatch.setattr(Evaluation, "_score", score)

    def fit(**options: Any) -> None:
        callbacks = [LastCheckpoint(64), Evaluation(64, num_samples=10, extractor=Pixels())]
        make_trainer(max_steps=8, callbacks=callbacks).fit(make_gan(), digits, **options)

    with pytest.raises(SystemExit):
        fit()
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["lightning_gan"]["images_seen"] == 128
    fit(ckpt_path=last, weights_only=True)
    assert scored == [64, 128, 128, 192, 256]


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_the_processes_generate_what_one_would(
    make_gan: MakeGAN, digits: DataModule, world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits.conditional = True
    gan = make_gan(10)
    evaluation = Evaluation(extractor=Pixels())
    evaluation.prepare(digits)
    num = 2 * BATCH_SIZE + 5

    def share(rank: int, world_size: int) -> dict[int, Tensor]:
        trainer: Any = SimpleNamespace(global_rank=rank, world_size=world_size)
        return dict(evaluation._samples(trainer, gan, gan.average, num, seed=3))

    alone = share(0, 1)
    shares = [share(rank, world_size) for rank in range(world_size)]
    assert sum(map(len, shares)) == len(alone) == 3  # each batch once; with 7 processes some have none
    for mine in shares:
        for first, images in mine.items():
            assert torch.equal(images, alone[first])
    assert sum(len(images) for images in alone.values()) == num


def test_classes_are_generated_as_often_as_they_are_in_the_data(make_gan: MakeGAN, digits: DataModule) -> None:
    digits.conditional = True
    evaluation = Evaluation(extractor=Pixels())
    evaluation.prepare(digits)
    real = real_images(digits)
    gan = make_gan(10)
    _, labels = evaluation._generate(gan, gan.average, 0, len(real.train), seed=0)
    assert labels is not None
    assert real.train_labels is not None
    assert_close(labels.bincount(), real.train_labels.bincount())


def test_the_same_seed_makes_the_images_that_sample_makes(make_gan: MakeGAN, digits: DataModule) -> None:
    evaluation = Evaluation(extractor=Pixels())
    evaluation.prepare(digits)
    gan = make_gan()
    images, _ = evaluation._generate(gan, gan.average, 5, 9, seed=4)
    from lightning_gan.randomness import numbered_latents

    assert torch.equal(images, gan.sample(numbered_latents(gan.generator.latents, 4, 5, 9)))


def test_a_score_that_cannot_be_had_is_refused_before_training(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule
) -> None:
    with pytest.raises(UserError, match=r"best modes cannot be measured with the extractor random .* Take one of fid"):
        train(make_trainer, make_gan(), digits, Evaluation(num_samples=100, extractor=Random(), best="modes"))
    with pytest.raises(ValueError, match="no score 'd_gap'"):
        Evaluation(best="d_gap")


def test_no_samples_are_no_evaluation(make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Path) -> None:
    train(make_trainer, make_gan(), digits, Evaluation(64, num_samples=0))
    assert not (tmp_path / "scores.json").exists()
    assert not RUNS.exists()


def test_a_checkpoint_that_is_not_finite_is_said_to_be_so(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule
) -> None:
    gan = make_gan()
    with torch.no_grad():
        next(gan.average.parameters()).fill_(float("nan"))
    trainer = make_trainer(callbacks=[Health(), Evaluation(test_samples=10, extractor=Pixels())], limit_test_batches=1)
    with pytest.raises(UserError, match="Take an earlier checkpoint"):
        trainer.test(gan, digits)


def test_what_is_not_finite_is_told_as_such_and_not_scored(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule
) -> None:
    gan = make_gan()
    gan.average.half_life = 0

    def poison(trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 2:
            with torch.no_grad():
                next(gan.generator.parameters()).fill_(float("nan"))

    evaluation = Evaluation(64, num_samples=100, extractor=Pixels())
    evaluation.on_train_batch_start = poison  # type: ignore[method-assign,assignment]  # only here
    with pytest.raises(UserError, match="diverged"):
        train(make_trainer, gan, digits, evaluation)
