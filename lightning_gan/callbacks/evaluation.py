"""Scores of the averaged generators as training goes on, and of a checkpoint."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_gan import randomness, scorecard
from lightning_gan.callbacks.checkpoint import best_checkpoint
from lightning_gan.callbacks.every_images import EveryImages
from lightning_gan.callbacks.health import Health
from lightning_gan.callbacks.interrupt import stopped_by
from lightning_gan.checkpoints import read_checkpoint
from lightning_gan.data import DataModule
from lightning_gan.ema import AveragedGenerator, in_words
from lightning_gan.errors import UserError
from lightning_gan.gan import GAN
from lightning_gan.images import to_float, to_uint8
from lightning_gan.metrics.distances import discriminator_gap, ordered_pairs
from lightning_gan.metrics.extractors import Extractor, choose
from lightning_gan.metrics.names import HIGHER_IS_BETTER, LOWER_IS_BETTER, SCORES, logged_name
from lightning_gan.metrics.real import RealImages
from lightning_gan.metrics.reference import BATCH_SIZE, random_order
from lightning_gan.metrics.suite import Suite, measurable
from lightning_gan.processes import from_first
from lightning_gan.sampling import NotFinite
from lightning_gan.wandb_run import tell_best

RANKING = [name for name, score in SCORES.items() if score.of_features and name in LOWER_IS_BETTER | HIGHER_IS_BETTER]
"""Scores that a best checkpoint can be chosen by."""

MOST_SAMPLES = 10**9
"""More can only be a slip."""

DISCRIMINATOR_IMAGES = 1024
"""Images of each kind that D is asked about."""

C = TypeVar("C", bound=Callback)

Result = tuple[dict[str, float], dict[str, float], dict[str, Any]]
"""Scores, those of held-out images, and what they were made with."""


class Evaluation(EveryImages, Checkpoint):
    """Scores the averaged generator, and keeps the best in `checkpoints/best.ckpt`.

    It draws nothing from the global random generators and leaves the networks as they are: training is the same without.

    Args:
        every_images: images between two evaluations; 0 = only at the end.
        num_samples: generated images in each of them, and in `validate`; 0 = no evaluation during `fit`.
        test_samples: generated images in `test`.
        extractor: what images are compared by; null = Inception if its weights are at hand, the images have colours and there
            is a GPU, else a classifier if they have labels, else a random network.
        best: the score by which the best checkpoint is chosen.
        half_life: of the average that `validate` and `test` score, in images, if the run kept further ones.
        seed: of the latents in `test`, which `sample --seed` draws, too; those in `fit` are others.
    """

    def __init__(
        self,
        every_images: int = 50_000,
        num_samples: int = 5_000,
        test_samples: int = 50_000,
        extractor: Extractor | None = None,
        best: str = "fid",
        half_life: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(every_images)
        if not 0 <= num_samples <= MOST_SAMPLES or not 1 <= test_samples <= MOST_SAMPLES:
            raise ValueError(f"evaluation cannot take {num_samples} samples, and {test_samples} in test")
        if best not in RANKING:
            raise ValueError(f"there is no score '{best}' to choose the best checkpoint by; there are {', '.join(RANKING)}")
        self.num_samples = num_samples
        self.test_samples = test_samples
        self.extractor = extractor
        self.best = best
        self.half_life = half_life
        self.seed = seed
        self.best_value: float | None = None
        self.best_images_seen = 0
        self.evaluated_at = 0
        self.seconds = 0.0
        self._best_of: list[Any] = []
        self._finite = True
        self.result: Result | None = None
        self._suite: Suite | None = None

    def prepare(self, data: DataModule) -> str:
        """Get the extractor ready, which takes a while if a classifier is to be trained, and say which it is and why.

        Raises:
            UserError: it cannot be had, or does not give the score for the best checkpoint.
        """
        self._data, self._real = data, real_images(data)
        self._chosen, reason = choose(self.extractor, self._real)
        if self.best not in (measured := measurable(self._chosen, self._real)):
            raise UserError(
                f"--evaluation.best {self.best} cannot be measured with the extractor {self._chosen.name} and these data. "
                f"Take one of {', '.join(name for name in RANKING if name in measured)}."
            )
        # What the best is the best of. The digest is taken once: it reads all of the extractor's weights.
        self._best_of = [self.best, self._chosen.digest, self._real.fingerprint, self.num_samples]
        return reason

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        assert isinstance(pl_module, GAN)
        if self.num_samples == 0 or trainer.fast_dev_run:  # type: ignore[attr-defined]  # a connector sets it
            return
        started = time.monotonic()
        self._suite_of(trainer)
        self.seconds += time.monotonic() - started
        gan = pl_module
        self.best_value, self.best_images_seen = from_first(lambda: self._best_on_disk(trainer, gan), gan.device)
        # The last checkpoint is saved before an evaluation that is due with it: a run that was killed in that one does it now.
        if self.evaluated_at == gan.images_seen:
            self._acted_at = gan.images_seen
        elif self._is_due(gan):
            self._act(trainer, gan)

    def _best_on_disk(self, trainer: Trainer, gan: GAN) -> tuple[float | None, int]:
        """Find out which the best checkpoint is, of which one that was saved before it does not know."""
        known = self.best_value, self.best_images_seen
        try:
            best = read_checkpoint(best_checkpoint(trainer))
        except UserError:  # a run with a new folder has a best of its own; and one that is damaged is none
            return None, 0
        state = best["callbacks"][self.state_key]
        passed = state["images_seen"] > gan.images_seen  # of a part of the run that is trained again
        return known if passed or state["best"] != self._best_of else (state["value"], state["images_seen"])

    def _is_due(self, gan: GAN) -> bool:
        seen, batch = gan.images_seen, self._data.batch_size
        return self.every_images > 0 and seen // self.every_images > max(0, seen - batch) // self.every_images

    def act(self, trainer: Trainer, gan: GAN) -> None:
        if self.num_samples == 0 or stopped_by(trainer):  # what is due then is made up for later
            return
        healths = _callbacks(trainer, Health)
        for health in healths:
            health.check(trainer, gan)  # first, or a score would be the one to trip over what is not finite
        started = time.monotonic()
        seed = _seed_in_training(self.seed)
        scores, floor, record = self._evaluate(trainer, gan, gan.average, self.num_samples, seed)
        logged = self.logged(scores, floor)
        for half_life, average in gan.further_averages.items():
            further = self._score(trainer, gan, cast(AveragedGenerator, average), self.num_samples, seed)
            ranked = {name: value for name, value in further.items() if name in RANKING}
            logged |= {f"{name}/half_life_{half_life}": value for name, value in self.logged(ranked, {}).items()}
        self.evaluated_at = gan.images_seen
        self.seconds += time.monotonic() - started

        for logger in trainer.loggers:
            logger.log_metrics({**logged, "images_seen": gan.images_seen}, step=trainer.global_step - 1)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in logged.items()})
        if trainer.is_global_zero:
            try:
                scorecard.write(Path(trainer.default_root_dir, "scores.json"), scores, floor, record)
            except UserError as error:  # no reason to stop
                rank_zero_warn(str(error))
            if trainer.progress_bar_callback is not None:
                trainer.progress_bar_callback.print(
                    f"after {gan.images_seen:,} images: {scorecard.line(scores, floor, record)}"
                )
        reachable = self._suite_of(trainer).reachable_coverage(self.num_samples)
        for health in healths:
            health.judge(trainer, gan, scores | {"classes": self._real.num_classes, "reachable_coverage": reachable})
        if not any(health.collapsed for health in healths):
            self._keep_best(trainer, gan, scores[self.best])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            if self.num_samples == 0:
                raise UserError("--evaluation.num_samples is 0: say how many images to score.")
            result = self._of_checkpoint(trainer, pl_module, self.num_samples, _seed_in_training(self.seed))
            if trainer.is_global_zero:
                print(scorecard.table(*result), flush=True)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        result = self._of_checkpoint(trainer, pl_module, self.test_samples, self.seed)
        if trainer.is_global_zero:
            half_life = "" if self.half_life is None else f".half_life_{in_words(self.half_life)}"
            suffix = f"{half_life}.{self.test_samples}-{self._chosen.name}.scores.json"
            scorecard.publish(Path(str(trainer.ckpt_path)).with_suffix(suffix), *result)

    def state_dict(self) -> dict[str, Any]:
        return {
            "evaluated_at": self.evaluated_at,
            "best": self._best_of,
            "value": self.best_value,
            "images_seen": self.best_images_seen,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.evaluated_at = state_dict["evaluated_at"]
        # Scores of other kinds do not compare; and a rollback does not undo a better one, which is on disk.
        known = state_dict["best"] == self._best_of and state_dict["value"] is not None
        if known and self._is_better(state_dict["value"]):
            self.best_value, self.best_images_seen = state_dict["value"], state_dict["images_seen"]

    @property
    def best_name(self) -> str:
        """Name the score by which the best checkpoint is chosen, as it is logged."""
        return logged_name(self.best, self._chosen.name)

    def logged(self, scores: dict[str, float], floor: dict[str, float]) -> dict[str, float]:
        if floor:
            scores = scores | {"fid_floor": floor["fid"], "fid_floor_se": floor["fid_se"]}
        return {logged_name(name, self._chosen.name): value for name, value in scores.items()}

    def _keep_best(self, trainer: Trainer, gan: GAN, value: float) -> None:
        if math.isfinite(value) and self._is_better(value):
            self.best_value, self.best_images_seen = value, gan.images_seen
            trainer.save_checkpoint(best_checkpoint(trainer))
            tell_best(trainer, self.best_name, value, gan.images_seen, best_checkpoint(trainer))

    def _is_better(self, value: float) -> bool:
        sign = 1 if self.best in LOWER_IS_BETTER else -1
        return self.best_value is None or sign * value < sign * self.best_value

    def _of_checkpoint(self, trainer: Trainer, gan: LightningModule, num: int, seed: int) -> Result:
        assert isinstance(gan, GAN)
        average = gan.average
        if self.half_life is not None:
            if (name := in_words(self.half_life)) not in gan.further_averages:
                raise UserError(f"--evaluation.half_life {self.half_life:g}: the run has no such average.")
            average = cast(AveragedGenerator, gan.further_averages[name])
        self.result = self._evaluate(trainer, gan, average, num, seed)
        return self.result

    def _evaluate(self, trainer: Trainer, gan: GAN, average: AveragedGenerator, num: int, seed: int) -> Result:
        started = time.monotonic()
        suite = self._suite_of(trainer)
        scores = self._score(trainer, gan, average, num, seed)
        floor = suite.floor(num)
        record = {
            "source": str(trainer.default_root_dir if trainer.state.fn == TrainerFn.FITTING else trainer.ckpt_path),
            "images_seen": gan.images_seen,
            "half_life": self.half_life,
            "seed": seed,
            **record_of(suite, self._data, num),
            "seconds": round(time.monotonic() - started, 1),
        }
        return scores, floor, record

    def _score(self, trainer: Trainer, gan: GAN, average: AveragedGenerator, num: int, seed: int) -> dict[str, float]:
        self._finite = True
        scores = self._suite_of(trainer).score(self._samples(trainer, gan, average, num, seed), num)
        if not trainer.strategy.reduce_boolean_decision(self._finite):  # told here, where all processes are
            healths = _callbacks(trainer, Health)
            if healths and trainer.state.fn == TrainerFn.FITTING:
                healths[0].stop(trainer, gan, "generated images are not finite")
            raise NotFinite
        return {**scores, **from_first(lambda: self._discriminator_scores(gan, average, seed), gan.device)}

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
        x = average(z, y)
        self._finite = self._finite and bool(x.isfinite().all())
        return to_uint8(x), y

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
            self._suite = Suite(self._chosen, self._real, trainer.strategy.root_device)
        return self._suite


def _callbacks(trainer: Trainer, kind: type[C]) -> list[C]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # a connector sets it
    return [callback for callback in callbacks if isinstance(callback, kind)]


def _seed_in_training(seed: int) -> int:
    """Choose other latents than `test` does, or the best checkpoint would be the best for those."""
    return randomness.derive(seed, "validation") % 2**32  # which every reader of JSON takes


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
