"""Scores of the averaged generators as training goes on, and of a checkpoint."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_gan import randomness, scorecard
from lightning_gan.callbacks.every_images import EveryImages
from lightning_gan.callbacks.health import Health
from lightning_gan.data import DataModule
from lightning_gan.ema import AveragedGenerator
from lightning_gan.errors import UserError
from lightning_gan.gan import GAN
from lightning_gan.images import to_float
from lightning_gan.metrics.distances import discriminator_gap, ordered_pairs
from lightning_gan.metrics.extractors import Extractor, choose
from lightning_gan.metrics.names import HIGHER_IS_BETTER, LOWER_IS_BETTER, SCORES, logged_name
from lightning_gan.metrics.real import RealImages
from lightning_gan.metrics.reference import BATCH_SIZE, random_order
from lightning_gan.metrics.suite import Suite
from lightning_gan.processes import from_first
from lightning_gan.sampling import finite_uint8

RANKING = [name for name, score in SCORES.items() if score.of_features and name in LOWER_IS_BETTER | HIGHER_IS_BETTER]
"""Scores that a best checkpoint can be chosen by."""

DISCRIMINATOR_IMAGES = 1024
"""Images of each kind that D is asked about."""


class Evaluation(EveryImages):
    """Scores the averaged generator, and keeps the best in `checkpoints/best.ckpt`.

    It draws nothing from the global random generators and leaves the networks as they are: training is the same without.

    Args:
        every_images: images between two evaluations; 0 = only at the end.
        num_samples: generated images in each of them, and in `validate`; 0 = no evaluation during `fit`.
        test_samples: generated images in `test`.
        extractor: what images are compared by; null = Inception if its weights are at hand and the images have colours, else a
            classifier if they have labels, else a random network.
        best: the score by which the best checkpoint is chosen.
        seed: of the latents in `test`, so that `sample --seed` of it makes the same images; those in `fit` are others.
    """

    def __init__(
        self,
        every_images: int = 50_000,
        num_samples: int = 5_000,
        test_samples: int = 50_000,
        extractor: Extractor | None = None,
        best: str = "fid",
        seed: int = 0,
    ) -> None:
        super().__init__(every_images)
        if num_samples < 0 or test_samples < 1:
            raise ValueError(f"evaluation cannot take {num_samples} samples, and {test_samples} in test")
        if best not in RANKING:
            raise ValueError(f"there is no score '{best}' to choose the best checkpoint by; there are {', '.join(RANKING)}")
        self.num_samples = num_samples
        self.test_samples = test_samples
        self.extractor = extractor
        self.best = best
        self.seed = seed
        self.best_value: float | None = None
        self.best_images_seen = 0
        self.seconds = 0.0
        self._suite: Suite | None = None

    def prepare(self, data: DataModule) -> str:
        """Get the extractor ready, which takes a while if a classifier is to be trained, and say which it is and why.

        Raises:
            UserError: it cannot be had.
        """
        self._data, self._real = data, real_images(data)
        self._chosen, reason = choose(self.extractor, self._real)
        return reason

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.num_samples and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # a connector sets it
            started = time.monotonic()
            suite = self._suite_of(trainer)
            if self.best not in suite.measured:
                raise UserError(
                    f"--evaluation.best {self.best} cannot be measured with the extractor {self._chosen.name} and these data. "
                    f"Take one of {', '.join(name for name in RANKING if name in suite.measured)}."
                )
            self.seconds = time.monotonic() - started

    def act(self, trainer: Trainer, gan: GAN) -> None:
        if self.num_samples == 0:
            return
        healths = [callback for callback in trainer.callbacks if isinstance(callback, Health)]  # type: ignore[attr-defined]  # as above
        for health in healths:
            health.check(trainer, gan)  # first, or a score would be the one to trip over what is not finite
        started = time.monotonic()
        seed = randomness.derive(self.seed, "validation")
        scores, floor, record = self._evaluate(trainer, gan, self.num_samples, seed)
        logged = self._logged(scores, floor)
        for half_life, average in gan.further_averages.items():
            further = self._score(trainer, gan, cast(AveragedGenerator, average), self.num_samples, seed)
            logged |= {f"{name}/half_life_{half_life}": value for name, value in self._logged(further, {}).items()}
        self.seconds += time.monotonic() - started

        for logger in trainer.loggers:
            logger.log_metrics({**logged, "images_seen": gan.images_seen}, step=trainer.global_step - 1)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in logged.items()})
        if trainer.is_global_zero:
            try:
                scorecard.write(Path(trainer.default_root_dir, "scores.json"), scores, floor, record)
            except UserError as error:  # no reason to stop
                rank_zero_warn(str(error))
        self._keep_best(trainer, gan, scores[self.best])
        for health in healths:
            health.judge(trainer, gan, scores | {"classes": self._real.num_classes})

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, GAN)
        if trainer.state.fn == TrainerFn.VALIDATING:
            result = self._evaluate(trainer, pl_module, self.num_samples or 5_000, randomness.derive(self.seed, "validation"))
            if trainer.is_global_zero:
                print(scorecard.table(*result), flush=True)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, GAN)
        result = self._evaluate(trainer, pl_module, self.test_samples, self.seed)
        if trainer.is_global_zero:
            path = Path(str(trainer.ckpt_path)).with_suffix(".scores.json")
            scorecard.write(path, *result)
            print(f"{scorecard.table(*result)}\n\n{path}", flush=True)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "value": self.best_value, "images_seen": self.best_images_seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Another score has its own best; and a rollback does not undo a better one, which is on disk.
        if state_dict["best"] == self.best and state_dict["value"] is not None and self._is_better(state_dict["value"]):
            self.best_value, self.best_images_seen = state_dict["value"], state_dict["images_seen"]

    @property
    def best_name(self) -> str:
        """Name the score by which the best checkpoint is chosen, as it is logged."""
        return logged_name(self.best, self._chosen.name)

    def _logged(self, scores: dict[str, float], floor: dict[str, float]) -> dict[str, float]:
        if floor:
            scores = scores | {"fid_floor": floor["fid"], "fid_floor_se": floor["fid_se"]}
        return {logged_name(name, self._chosen.name): value for name, value in scores.items()}

    def _keep_best(self, trainer: Trainer, gan: GAN, value: float) -> None:
        if math.isfinite(value) and self._is_better(value):
            self.best_value, self.best_images_seen = value, gan.images_seen
            trainer.save_checkpoint(Path(trainer.default_root_dir, "checkpoints", "best.ckpt"))

    def _is_better(self, value: float) -> bool:
        sign = 1 if self.best in LOWER_IS_BETTER else -1
        return self.best_value is None or sign * value < sign * self.best_value

    def _evaluate(
        self, trainer: Trainer, gan: GAN, num: int, seed: int
    ) -> tuple[dict[str, float], dict[str, float], dict[str, Any]]:
        """Score the average: the scores, those of held-out images, and what they were made with."""
        started = time.monotonic()
        suite = self._suite_of(trainer)
        scores = self._score(trainer, gan, gan.average, num, seed)
        floor = suite.floor(num)
        record = {
            "source": str(trainer.default_root_dir if trainer.state.fn == TrainerFn.FITTING else trainer.ckpt_path),
            "images_seen": gan.images_seen,
            "seed": seed,
            **record_of(suite, self._data, num),
            "seconds": round(time.monotonic() - started, 1),
        }
        return scores, floor, record

    def _score(self, trainer: Trainer, gan: GAN, average: AveragedGenerator, num: int, seed: int) -> dict[str, float]:
        samples = self._samples(trainer, gan, average, num, seed)
        scores = self._suite_of(trainer).score(samples, num)
        return scores | from_first(lambda: self._discriminator_scores(gan, average, seed), gan.device)

    def _samples(
        self, trainer: Trainer, gan: GAN, average: AveragedGenerator, num: int, seed: int
    ) -> Iterator[tuple[int, Tensor]]:
        """Generate this process' share: whole batches, the same whatever the number of processes."""
        for first in range(trainer.global_rank * BATCH_SIZE, num, trainer.world_size * BATCH_SIZE):
            images, _ = self._generate(gan, average, first, min(first + BATCH_SIZE, num), seed)
            yield first, images

    @torch.no_grad()
    def _generate(self, gan: GAN, average: AveragedGenerator, first: int, last: int, seed: int) -> tuple[Tensor, Tensor | None]:
        """Generate images number `first` to `last - 1`, (N, C, H, W) uint8, and their labels: those of training images."""
        z = randomness.numbered_latents(gan.generator.latents, seed, first, last).to(gan.device)
        y = None
        if gan.generator.num_classes:
            labels = self._real.train_labels
            assert labels is not None
            y = labels[randomness.batch_order(seed, 0, last, len(labels))[first:]].to(gan.device)
        return finite_uint8(average(z, y)), y

    @torch.no_grad()
    def _discriminator_scores(self, gan: GAN, average: AveragedGenerator, seed: int) -> dict[str, float]:
        """Compare D's logits, as it is now, for training, held-out and generated images."""
        fakes, labels = self._generate(gan, average, 0, DISCRIMINATOR_IMAGES, seed)
        training = gan.discriminator.training
        gan.discriminator.eval()
        try:
            fake = _logits(gan, fakes, labels)
            train = _logits(gan, *_some(self._real.train, self._real.train_labels))
            scores = {"d_accuracy": ordered_pairs(train, fake)}
            if len(self._real.held_out):
                held_out = _logits(gan, *_some(self._real.held_out, self._real.held_out_labels))
                scores["d_gap"] = discriminator_gap(train, held_out, fake)
        finally:
            gan.discriminator.train(training)
        return scores

    def _suite_of(self, trainer: Trainer) -> Suite:
        if self._suite is None:
            if not hasattr(self, "_data"):
                self.prepare(trainer.datamodule)  # type: ignore[attr-defined]  # a connector sets it
            device = trainer.strategy.root_device
            device = torch.device("cpu") if device.type == "mps" else device  # which has no float64
            self._suite = Suite(self._chosen.to(device), self._real)
        return self._suite


def record_of(suite: Suite, data: DataModule, num: int) -> dict[str, Any]:
    """Say how `num` generated images are scored, in JSON values."""
    facts = {"data": data.description, "num_classes": len(data.class_names), "samples": num}
    return facts | {"floor_samples": suite.floor_images(num)} | suite.record | {"versions": scorecard.versions()}


def real_images(data: DataModule) -> RealImages:
    """Show a data set to the metrics."""
    return RealImages(*data.images("train"), *data.images("test"), len(data.class_names), data.fingerprint, data.cache_folder)


def _some(images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    rows = random_order(len(images)).argsort()[:DISCRIMINATOR_IMAGES]
    return images[rows], None if labels is None else labels[rows]


def _logits(gan: GAN, images: Tensor, labels: Tensor | None) -> Tensor:
    """Ask D, in batches of one kind as in training: uint8 (N, C, H, W), (N,) or None -> (N,)."""
    conditional = gan.discriminator.num_classes > 0
    logits = []
    for rows in torch.arange(len(images)).split(BATCH_SIZE):
        y = labels[rows].to(gan.device) if conditional and labels is not None else None
        logits.append(gan.discriminator(to_float(images[rows].to(gan.device)), y))
    return torch.cat(logits)
