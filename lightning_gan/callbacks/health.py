"""What stops a training that is broken, warns of one that goes wrong, and may go back to where it was well."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_gan.callbacks.checkpoint import best_checkpoint, checkpoint_to_keep, last_checkpoint
from lightning_gan.callbacks.events import EventLog
from lightning_gan.checkpoints import read_checkpoint
from lightning_gan.errors import UserError
from lightning_gan.gan import GAN
from lightning_gan.processes import from_first
from lightning_gan.wandb_run import wandb_loggers

CURES = {
    "divergence": (
        "Try a lower learning rate, a stronger penalty on D (such as --model.penalties.r1.weight), or gradient clipping "
        "(--model.generator_clip_norm, --model.discriminator_clip_norm)"
    ),
    "collapse": (
        "Try a stronger penalty on D (such as --model.penalties.r1.weight), a lower learning rate, or augmentation "
        "(--model.augment DiffAugment) if there are few images"
    ),
    "discriminator": (
        "G learns little from it. Try a stronger penalty on D (such as --model.penalties.r1.weight), "
        "augmentation (--model.augment ADA) or a lower learning rate for D"
    ),
    "memorisation": ("Try augmentation (--model.augment ADA), more images, smaller networks or a shorter run"),
}
"""What to try, by what has gone wrong."""
TITLES = {"collapse": "G has collapsed", "discriminator": "D has won", "memorisation": "G repeats training images"}
TOLD_AFTER = {"collapse": 1, "discriminator": 2, "memorisation": 1}
"""Evaluations in a row that see it before it is told."""
GIVEN_TIME = 3
"""The same for a collapse where there has been no variety yet."""


class TrainingDiverged(UserError):  # noqa: N818  # says what happened, as its message does
    """Something in training is NaN or infinite."""


class TrainingCollapsed(UserError):  # noqa: N818  # as above
    """The generator has lost its variety, and there is a checkpoint to go back to."""


class Health(Callback):
    """Stops a run that has diverged, and warns of collapse, of a D that has won and of memorisation.

    A loss or a logit that is NaN or infinite ends the run, and a model that is not finite is never saved. A single process on
    the CPU looks at every step. On a GPU, where no step should wait for a look, and with several processes, which look
    together, it is every `log_every_n_steps` steps and before each checkpoint.

    Args:
        min_coverage: collapse is when generated images are near fewer of the real ones than this share,
        max_duplicates: or when more of them than this share look like another one,
        min_modes: or when fewer of the classes than this share are drawn. One that was there from the start is told when it is
            seen a third time, and is no reason to go back.
        max_d_accuracy: D has won when it ranks the real image higher in more than this share of the pairs of a real and a
            generated image, in two evaluations in a row.
        max_copy_rate: memorisation is when more of the generated images than this share are as near to a training image as 1 %
            of fresh real ones are.
        rollbacks: how often training may go back to the last good checkpoint when it diverges or collapses.
        learning_rate_factor: what each of these multiplies the learning rates by.
        penalty_factor: what it multiplies the weights of D's penalties by.
        new_seed: whether it changes the seed of training's draws.
    """

    def __init__(
        self,
        min_coverage: float = 0.1,
        max_duplicates: float = 0.1,
        min_modes: float = 0.5,
        max_d_accuracy: float = 0.99,
        max_copy_rate: float = 0.1,
        rollbacks: int = 0,
        learning_rate_factor: float = 0.5,
        penalty_factor: float = 1.0,
        new_seed: bool = True,
    ) -> None:
        if rollbacks < 0 or learning_rate_factor <= 0 or penalty_factor <= 0:
            raise ValueError(
                "Health's rollbacks must not be negative and its factors must be positive, and they are "
                f"{rollbacks}, {learning_rate_factor} and {penalty_factor}"
            )
        if rollbacks and learning_rate_factor == penalty_factor == 1 and not new_seed:
            raise ValueError("a rollback that changes nothing repeats what went wrong: let it change a factor or the seed")
        self.min_coverage = min_coverage
        self.max_duplicates = max_duplicates
        self.min_modes = min_modes
        self.max_d_accuracy = max_d_accuracy
        self.max_copy_rate = max_copy_rate
        self.rollbacks = rollbacks
        self.learning_rate_factor = learning_rate_factor
        self.penalty_factor = penalty_factor
        self.new_seed = new_seed
        self._every = 1
        self._unread: list[tuple[int, dict[str, Tensor]]] = []
        self._streaks = dict.fromkeys(TOLD_AFTER, 0)  # evaluations in a row that saw it
        self._had_variety = False  # G has none at first in many a good run

    def state_dict(self) -> dict[str, Any]:
        return {"streaks": dict(self._streaks), "had_variety": self._had_variety}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._streaks |= state_dict["streaks"]
        self._had_variety = state_dict["had_variety"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # a connector sets it
        self._every = 1 if trainer.world_size == 1 and pl_module.device.type == "cpu" else every or 50
        self._unread = []
        if self.rollbacks and not from_first(lambda: checkpoint_to_keep(trainer), pl_module.device):  # none to go back to
            trainer.save_checkpoint(last_checkpoint(trainer))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, GAN)
        self._unread.append((pl_module.images_seen, outputs))
        if len(self._unread) >= self._every:
            self.check(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, GAN)
        self.check(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        assert isinstance(pl_module, GAN)
        self.check(trainer, pl_module)
        networks = [*_weights(pl_module).values(), *_optimizer_values(trainer, pl_module).values()]
        if not trainer.strategy.reduce_boolean_decision(_finite(tensor for tensors in networks for tensor in tensors.values())):
            self.stop(trainer, pl_module)

    def check(self, trainer: Trainer, gan: GAN) -> None:
        """Look at the steps since the last look, in all processes; it waits for the device.

        Raises:
            TrainingDiverged: a loss or a logit was not finite.
        """
        steps, self._unread = self._unread, []
        scalars = [scalar for _, step in steps for scalar in step.values()]
        finite = not scalars or all(map(math.isfinite, torch.stack(scalars).tolist()))
        if not trainer.strategy.reduce_boolean_decision(finite):
            self.stop(trainer, gan, steps=steps)

    def stop(
        self,
        trainer: Trainer,
        gan: GAN,
        what: str = "another process has values that are not finite",
        steps: Sequence[tuple[int, dict[str, Tensor]]] = (),
    ) -> NoReturn:
        """Stop a run that has diverged. To be called in all processes.

        Args:
            what: is not finite, if neither the steps, nor weights, nor gradients show it.
            steps: images seen and scalars of the last steps.

        Raises:
            TrainingDiverged: with what is not finite, and what to do.
        """
        images, first = next((step for step in steps if not _finite(step[1].values())), (gan.images_seen, {}))
        findings = [f"{name} is {scalar.item()}" for name, scalar in first.items() if not _finite([scalar])]
        kinds = {"weights": _weights(gan), "optimizer's values": _optimizer_values(trainer, gan), "gradients": _gradients(gan)}
        for kind, networks in kinds.items():
            names = {
                network: [name for name, x in tensors.items() if not _finite([x])] for network, tensors in networks.items()
            }
            if broken := [f"{network} ({bad[0]}{_more(bad)})" for network, bad in names.items() if bad]:
                findings.append(f"the {kind} of {', '.join(broken)} are not finite")
                break  # the next kinds are not, either
        kept = from_first(lambda: _kept(trainer), gan.device)
        precision = "" if "32" in str(trainer.precision) else ", or --trainer.precision 32-true"
        what = "; ".join(findings) or what
        text = f"Training diverged after {images:,} images: {what}. {kept} {CURES['divergence']}{precision}."
        alert(trainer, "divergence", text, images)
        raise TrainingDiverged(text)

    @property
    def collapsed(self) -> bool:
        """Whether the last evaluation saw no variety where there had been."""
        return self._had_variety and self._streaks["collapse"] > 0

    def judge(self, trainer: Trainer, gan: GAN, scores: dict[str, float]) -> None:
        """Warn of what an evaluation shows, once each time that it appears. To be called in all processes.

        Args:
            scores: by base name, the number of `classes` with `modes`, and the coverage that so many perfect images would
                reach, as `reachable_coverage`; what is missing or NaN is not judged.

        Raises:
            TrainingCollapsed: there are rollbacks left for a collapse.
        """
        for kind, signs in self._signs(gan, defaultdict(lambda: math.nan, scores)).items():
            known = [sign for sign in signs if not math.isnan(sign[0])]
            if not known:
                continue
            found = [words for _, bad, words in known if bad]
            self._streaks[kind] = self._streaks[kind] + 1 if found else 0
            if kind == "collapse":
                self._had_variety |= not found
            told_after = GIVEN_TIME if kind == "collapse" and not self._had_variety else TOLD_AFTER[kind]
            if self._streaks[kind] == told_after:
                text = f"{TITLES[kind]} after {gan.images_seen:,} images: {' and '.join(found)}. {CURES[kind]}."
                rank_zero_warn(text)
                alert(trainer, kind, text, gan.images_seen)
                may_go_back = gan.changes.rollbacks < self.rollbacks and from_first(
                    best_checkpoint(trainer).is_file, gan.device
                )
                if kind == "collapse" and self.collapsed and may_go_back:
                    raise TrainingCollapsed(text)

    def _signs(self, gan: GAN, scores: dict[str, float]) -> dict[str, list[tuple[float, bool, str]]]:
        """Say what each score says, by what it is a sign of: the score, whether it is bad, which NaN never is, and in words."""
        coverage, duplicates, modes, classes = (scores[name] for name in ("coverage", "duplicates", "modes", "classes"))
        accuracy, copies = scores["d_accuracy"], scores["copy_rate"]
        reachable = 1.0 if math.isnan(scores["reachable_coverage"]) else scores["reachable_coverage"]
        real, fake = (float(gan.scalars.get(f"logits/{side}", math.nan)) for side in ("real", "fake"))
        ranked = f"D ranks {accuracy:.1%} of the pairs of a real and a generated image rightly"
        return {
            "collapse": [
                (
                    coverage,
                    coverage < self.min_coverage * reachable,
                    f"only {coverage:.1%} of real images have a generated one near them",
                ),
                (duplicates, duplicates > self.max_duplicates, f"{duplicates:.1%} of generated images look like another one"),
                (modes, modes < self.min_modes * classes, f"only {modes:.0f} of {classes:.0f} classes are drawn"),
            ],
            "discriminator": [
                (accuracy, accuracy > self.max_d_accuracy, f"{ranked}, by logits of {real:.1f} and {fake:.1f} on average"),
            ],
            "memorisation": [
                (copies, copies > self.max_copy_rate, f"{copies:.1%} of generated images are near copies of training images"),
            ],
        }


def _weights(gan: GAN) -> dict[str, dict[str, Tensor]]:
    """All of the model that is saved, by network and name."""
    weights: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for path, tensor in gan.state_dict().items():
        network, _, name = path.partition(".")
        weights[f"model.{network}"][name] = tensor
    return weights


def _optimizer_values(trainer: Trainer, gan: GAN) -> dict[str, dict[str, Tensor]]:
    values: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for network, optimizer in zip(("discriminator", "generator"), trainer.optimizers, strict=False):
        for name, parameter in gan.get_submodule(network).named_parameters():
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    values[f"model.{network}"][f"{key} of {name}"] = value
    return values


def _gradients(gan: GAN) -> dict[str, dict[str, Tensor]]:
    gradients: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for network in ("discriminator", "generator"):
        for name, parameter in gan.get_submodule(network).named_parameters():
            if parameter.grad is not None:
                gradients[f"model.{network}"][name] = parameter.grad
    return gradients


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _finite(tensors: Iterable[Tensor]) -> bool:
    """Tell whether all values are finite, with one wait for each device that they are on."""
    by_device: dict[torch.device, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        by_device[tensor.device].append(tensor.isfinite().all())
    return all(torch.stack(found).all().item() for found in by_device.values())


def _kept(trainer: Trainer) -> str:
    checkpoint = checkpoint_to_keep(trainer)
    if checkpoint is None:
        return "There is no checkpoint yet."
    images_seen = read_checkpoint(checkpoint)["lightning_gan"]["images_seen"]
    return f"{checkpoint}, saved after {images_seen:,} images, is intact."


def alert(trainer: Trainer, kind: str, text: str, images_seen: int) -> None:
    """Note that something has happened, in `events.jsonl` and with W&B."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # a connector sets it
    for callback in callbacks:
        if isinstance(callback, EventLog) and trainer.is_global_zero:
            callback.add(kind, text, images_seen)
    for logger in wandb_loggers(trainer):
        logger.alert(kind, text, images_seen)
