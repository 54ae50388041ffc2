"""The training of a GAN: D and G in turn, Goodfellow et al. 2014, Algorithm 1."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_gan import images, randomness, record
from lightning_gan.augment.base import Augmentation
from lightning_gan.constraints import Constraint
from lightning_gan.ema import AveragedGenerator, in_words
from lightning_gan.errors import UserError
from lightning_gan.losses import AdversarialLoss
from lightning_gan.networks.base import Discriminator, Generator, StyleGenerator, call_frozen
from lightning_gan.penalties import CriticPass, GeneratorPenalty, Penalty, Term
from lightning_gan.schedules import Schedule, at

OptimizerCallable = Callable[[Iterable[Any]], Optimizer]


class GAN(LightningModule):
    """A generator and a discriminator that train against each other.

    One training step shows D one batch of real images; `trainer.global_step` counts these steps and `images_seen` these images.
    The batch is `(images, labels or None, ...)`, with images in [-1, 1].

    Args:
        generator: latents to images.
        discriminator: images to logits; also called critic.
        loss: what each of them minimises.
        generator_optimizer: makes G's optimizer from its parameters.
        discriminator_optimizer: makes D's optimizer from its parameters.
        penalties: further terms of D's loss, by the name they are logged under.
        generator_penalties: the same of G's; they need a generator with styles.
        constraint: what is done to D's weights after each of its steps.
        augment: random changes of all images on their way to D.
        generator_schedules: what G's optimizer changes with the images seen: `lr`, `beta1`, `beta2` or another of its settings.
        discriminator_schedules: the same for D's.
        critic_steps: training steps for each step of G.
        ema_half_life: half-life of the averaged generator, in images; a number or a schedule.
        further_half_lives: half-lives of further averages, in images, which are scored beside the first.
        generator_clip_norm: largest norm of G's gradient; a longer one is scaled down to it.
        discriminator_clip_norm: the same for D.
        seed: of every random draw in training.

    Attributes:
        images_seen: real images that D has seen, in all processes.
        changes: what rollbacks have changed; it is in the checkpoint.
        further_averages: those of `further_half_lives`, by the half-life in words: "500", "2_5".
        scalars: the latest value of whatever is logged, on the device; not every step has every one.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        loss: AdversarialLoss,
        generator_optimizer: OptimizerCallable,
        discriminator_optimizer: OptimizerCallable,
        penalties: dict[str, Penalty] | None = None,
        generator_penalties: dict[str, GeneratorPenalty] | None = None,
        constraint: Constraint | None = None,
        augment: Augmentation | None = None,
        generator_schedules: dict[str, Schedule] | None = None,
        discriminator_schedules: dict[str, Schedule] | None = None,
        critic_steps: int = 1,
        ema_half_life: float | Schedule = 10_000,
        further_half_lives: list[float] | None = None,
        generator_clip_norm: float | None = None,
        discriminator_clip_norm: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if critic_steps < 1:
            raise ValueError(f"critic_steps must be at least 1, not {critic_steps}")
        for name, norm in {"generator": generator_clip_norm, "discriminator": discriminator_clip_norm}.items():
            if norm is not None and norm <= 0:
                raise ValueError(f"{name}_clip_norm must be positive, not {norm}")
        if generator_penalties and not isinstance(generator, StyleGenerator):
            raise ValueError(f"generator_penalties act on a generator's styles, and {type(generator).__name__} has none")
        if augment is not None and augment.adaptive and not loss.centred:
            raise ValueError(
                f"{type(augment).__name__} adapts to the sign of D's logits, which means nothing under {type(loss).__name__}: "
                "give it a probability"
            )
        self.automatic_optimization = False
        self.generator = generator
        self.discriminator = discriminator
        self.average = AveragedGenerator(generator, ema_half_life)
        self.further_averages = nn.ModuleDict(
            {in_words(half_life): AveragedGenerator(generator, half_life) for half_life in further_half_lives or []}
        )
        self.loss = loss
        self.penalties = _named(penalties)
        self.generator_penalties = _named(generator_penalties)
        self.constraint = constraint
        self.augment = augment
        # A penalty may hold one too.
        self.augmentations = [module for module in self.modules() if isinstance(module, Augmentation)]
        self.generator_schedules = generator_schedules or {}
        self.discriminator_schedules = discriminator_schedules or {}
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.critic_steps = critic_steps
        self.generator_clip_norm = generator_clip_norm
        self.discriminator_clip_norm = discriminator_clip_norm
        self.seed = seed
        self.images_seen = 0
        self.changes = record.Changes()
        self.configure_optimizers()  # what cannot be set or scheduled is said now rather than when training starts
        self.scalars: dict[str, Tensor] = {}

    def training_step(self, batch: tuple[Any, ...], batch_idx: int) -> dict[str, Tensor]:
        """Update D, and at every `critic_steps`-th step G and its average. Returns this step's scalars, on the device."""
        real, y, *_ = batch
        step = self.trainer.global_step
        randomness.reseed(self.training_seed, "step", step, self.global_rank)
        self._follow_schedules(self.trainer.optimizers)

        images_before = self.images_seen
        scalars = self.discriminator_step(real, y, step)
        if (step + 1) % self.critic_steps == 0:
            scalars |= self.generator_step(real, y, step)
            for average in cast(list[AveragedGenerator], [self.average, *self.further_averages.values()]):
                average.update(self.generator, self.critic_steps * (self.images_seen - images_before), self.images_seen)

        self.scalars |= scalars
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # a connector sets it
        if every and (step + 1) % every == 0:  # a call of log_dict costs as much as a small network's step
            self.log_dict({**self.scalars, **self._settings(), "images_seen": self._images_seen()})
        return scalars

    def discriminator_step(self, real: Tensor, y: Tensor | None, step: int) -> dict[str, Tensor]:
        """Update D at real images (N, C, H, W) and as many generated ones."""
        due = _due(self.penalties, step)
        with torch.no_grad():
            fake = call_frozen(self.generator, self.latents("discriminator", step, len(real)), y).float()
        real, fake = (x.detach().requires_grad_(bool(due)) for x in (real, fake))

        with self._full_precision() if due else nullcontext():
            p = critique(self.discriminator, self.augment, real, fake, y)
            adversarial = self.loss.discriminator(p.real_logits, p.fake_logits).mean()
            weights = {name: self.changes.penalty * at(penalty.weight, self.images_seen) for name, penalty in due.items()}
            terms = {name: weights[name] * penalty(p).mean() for name, penalty in due.items()}
        loss = adversarial + sum(due[name].every * term for name, term in terms.items())

        # Lightning counts each call of an optimizer's `step` as a training step. D takes one in every training step, so
        # that D's are the ones to count.
        optimizer = self._backward(0, loss)
        optimizer.step()
        if self.constraint is not None:
            self.constraint(self.discriminator)
        self.images_seen += len(real) * self.trainer.world_size
        for augmentation in self.augmentations:
            augmentation.update(p.real_logits.detach(), self.images_seen)
        scalars = {"loss/discriminator": adversarial, "logits/real": p.real_logits.mean(), "logits/fake": p.fake_logits.mean()}
        scalars |= {f"penalty/{name}": term for name, term in terms.items()}
        return {name: scalar.detach() for name, scalar in scalars.items()}

    def generator_step(self, real: Tensor, y: Tensor | None, step: int) -> dict[str, Tensor]:
        """Update G through D, which stays as it is."""
        z = self.latents("generator", step, len(real))
        critic = _critic(partial(call_frozen, self.discriminator), self.augment, y)
        fake_logits = critic(self.generator(z, y))
        real_logits = critic(real) if self.loss.generator_sees_real else fake_logits
        adversarial = self.loss.generator(real_logits, fake_logits).mean()

        due = _due(self.generator_penalties, step // self.critic_steps)
        with self._full_precision() if due else nullcontext():
            terms = {name: at(p.weight, self.images_seen) * p(self.generator, z, y).mean() for name, p in due.items()}
        loss = adversarial + sum(due[name].every * term for name, term in terms.items())

        optimizer = self._backward(1, loss)
        self.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None)  # as optimizer.step(), but not counted
        scalars = {"loss/generator": adversarial} | {f"generator_penalty/{name}": term for name, term in terms.items()}
        return {name: scalar.detach() for name, scalar in scalars.items()}

    def latents(self, purpose: str, step: int, n: int) -> Tensor:
        """Draw this process' share of a step's latents: (n, latent_dim).

        They are drawn for all processes together, so that the number of processes does not change them.
        """
        rng = randomness.generator(self.training_seed, "latents", purpose, step, device=self.device)
        z = self.generator.latents(n * self.trainer.world_size, rng)
        return z[self.global_rank * n : (self.global_rank + 1) * n]

    @torch.no_grad()
    def sample(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Generate with the averaged generator: (N, latent_dim), (N,) or None -> uint8 (N, C, H, W)."""
        return images.to_uint8(self.average(z, y))

    def validation_step(self, batch: tuple[Any, ...], batch_idx: int) -> None:
        """Do nothing, which Lightning needs to be asked for: it is the Evaluation callback that measures."""

    def test_step(self, batch: tuple[Any, ...], batch_idx: int) -> None:
        """Do nothing, as in `validation_step`."""

    def configure_optimizers(self) -> list[Optimizer]:
        optimizers = [
            self.discriminator_optimizer(self.discriminator.parameters()),
            self.generator_optimizer(self.generator.parameters()),
        ]
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = self.changes.learning_rate * group["lr"]
        self._follow_schedules(optimizers)
        return optimizers

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient, after a gradient scaler has undone its scaling."""
        is_discriminator = optimizer is self.trainer.optimizers[0]
        network: nn.Module = self.discriminator if is_discriminator else self.generator
        clip_norm = self.discriminator_clip_norm if is_discriminator else self.generator_clip_norm
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), clip_norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lightning_gan"] = record.record_of(self)

    def check_fits(self, checkpoint: dict[str, Any]) -> None:
        record.check_fits(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        record.take_over(self, checkpoint)

    def stretch_schedules(self, max_images: int) -> None:
        """Let every schedule that does not say how long it takes take the rest of a run of so many images."""
        for module in self.modules():
            for value in vars(module).values():
                for schedule in value.values() if isinstance(value, dict) else [value]:
                    if isinstance(schedule, Schedule):
                        schedule.stretch(max_images)

    @property
    def training_seed(self) -> int:
        """The seed of training's draws: `seed`, or another one since a rollback."""
        reseeded = self.changes.reseeded
        return randomness.derive(self.seed, "rollback", reseeded) if reseeded else self.seed

    def _follow_schedules(self, optimizers: list[Optimizer]) -> None:
        """Set what the optimizers change with the images seen."""
        for optimizer, settings in zip(optimizers, self._scheduled().values(), strict=True):
            for name, value in settings.items():
                _set(optimizer, name, value)

    def _scheduled(self) -> dict[str, dict[str, float]]:
        schedules = {"discriminator": self.discriminator_schedules, "generator": self.generator_schedules}
        factors = {"lr": self.changes.learning_rate}
        return {
            network: {name: factors.get(name, 1) * schedule(self.images_seen) for name, schedule in scheduled.items()}
            for network, scheduled in schedules.items()
        }

    def _settings(self) -> dict[str, float | Tensor]:
        """Tell what changes as training goes on, for the loggers."""
        settings: dict[str, float | Tensor] = {
            f"{name}/{network}": value for network, scheduled in self._scheduled().items() for name, value in scheduled.items()
        }
        return settings if self.augment is None else settings | {"augment/p": self.augment.p}

    def _backward(self, index: int, loss: Tensor) -> LightningOptimizer:
        optimizer: LightningOptimizer = self.optimizers()[index]  # type: ignore[index]  # there are always two
        optimizer.zero_grad()
        self.manual_backward(loss)
        return optimizer

    def _images_seen(self) -> Tensor:
        """Give the clock to the loggers without rounding it."""
        return torch.tensor(self.images_seen, dtype=torch.float64)

    def _full_precision(self) -> AbstractContextManager[Any]:
        """Switch autocast off: the gradient of a gradient is several per cent off in bfloat16."""
        return torch.autocast(self.device.type, enabled=False)


Critic = Callable[[Tensor], Tensor]  # (N, C, H, W) -> (N,)


def critique(
    discriminator: Discriminator, augment: Augmentation | None, real: Tensor, fake: Tensor, y: Tensor | None
) -> CriticPass:
    """Let D look at real and generated images, both (N, C, H, W), through the augmentation."""
    critic = _critic(discriminator, augment, y)
    return CriticPass(real, fake, critic(real), critic(fake), critic)


def _critic(discriminator: Callable[..., Tensor], augment: Augmentation | None, y: Tensor | None) -> Critic:
    return lambda x: discriminator(x if augment is None else augment(x), y).float()


def _named(terms: Mapping[str, Term] | None) -> nn.ModuleDict:
    try:
        return nn.ModuleDict(terms or {})
    except KeyError as error:  # such as `keys`, which is a method of the dictionary
        raise ValueError(f"a penalty needs another name: {error.args[0]}") from None


def _due(terms: nn.ModuleDict, step: int) -> dict[str, Term]:
    """Pick the penalties whose turn it is."""
    return {name: term for name, term in terms.items() if isinstance(term, Term) and step % term.every == 0}


def _set(optimizer: Optimizer, name: str, value: float) -> None:
    """Set a setting of an optimizer by name; `beta1` and `beta2` are the two of Adam's betas."""
    for group in optimizer.param_groups:
        if name in ("beta1", "beta2") and "betas" in group:
            group["betas"] = (value, group["betas"][1]) if name == "beta1" else (group["betas"][0], value)
        elif isinstance(group.get(name), int | float) and not isinstance(group[name], bool):
            group[name] = value
        else:
            raise UserError(f"{type(optimizer).__name__} has no '{name}' to schedule.")
