"""The training of a GAN: D and G in turn, Goodfellow et al. 2014, Algorithm 1."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from math import inf
from typing import Any, cast

import torch
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
from lightning_gan.networks.layers import full_precision
from lightning_gan.optimizers import OptimizerCallable, fused, set_option
from lightning_gan.overhead import LeanModule
from lightning_gan.penalties import GeneratorPenalty, Penalty, critique, due_at, named
from lightning_gan.processes import mean_over_processes
from lightning_gan.schedules import Schedule, at


class GAN(LeanModule):
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
        reuse_fakes: let G learn from the images that D was just shown, as the DCGAN authors' code does, instead of drawing new
            ones as in the paper's algorithm. It spares a pass of G, and keeps its memory while D learns.
        accumulate: parts that each batch is computed in, one after the other, which saves memory. Their gradients add up to
            the batch's; but what looks at a batch as a whole, as batch normalization, minibatch standard deviation and the
            running means of penalties do, looks at each part by itself.
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
        reuse_fakes: bool = False,
        accumulate: int = 1,
        ema_half_life: float | Schedule = 10_000,
        further_half_lives: list[float] | None = None,
        generator_clip_norm: float | None = None,
        discriminator_clip_norm: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, number in {"critic_steps": critic_steps, "accumulate": accumulate}.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, not {number}")
        if reuse_fakes and accumulate > 1:
            raise ValueError("reuse_fakes keeps the pass of G that accumulate is there to divide: take one of them")
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
        for network in (generator, discriminator):
            if empty := [name for name, parameter in network.named_parameters() if parameter.numel() == 0]:
                raise ValueError(f"{type(network).__name__} is without weights in {empty[0]}: some width is 0")
        self.automatic_optimization = False
        self.generator = generator
        self.discriminator = discriminator
        self.average = AveragedGenerator(generator, ema_half_life)
        self.further_averages = nn.ModuleDict(
            {in_words(half_life): AveragedGenerator(generator, half_life) for half_life in further_half_lives or []}
        )
        self.loss = loss
        self.penalties = named(penalties)
        self.generator_penalties = named(generator_penalties)
        self.constraint = constraint
        self.augment = augment
        # A penalty may hold one too.
        self.augmentations = [module for module in self.modules() if isinstance(module, Augmentation)]
        self.generator_schedules = generator_schedules or {}
        self.discriminator_schedules = discriminator_schedules or {}
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.critic_steps = critic_steps
        self.reuse_fakes = reuse_fakes
        self.accumulate = accumulate
        self.generator_clip_norm = generator_clip_norm
        self.discriminator_clip_norm = discriminator_clip_norm
        self.seed = seed
        self.images_seen = 0
        self.changes = record.Changes()
        self.configure_optimizers()  # what cannot be set or scheduled is said now rather than when training starts
        self.scalars: dict[str, Tensor] = {}
        self._logged_next = False

    def training_step(self, batch: tuple[Any, ...], batch_idx: int) -> dict[str, Tensor]:
        """Update D, and at every `critic_steps`-th step G and its average. Returns this step's scalars, on the device."""
        real, y, *_ = batch
        step = self.trainer.global_step
        every: int = self.trainer.log_every_n_steps or 0  # type: ignore[attr-defined]  # a connector sets it
        self._logged_next = every > 0 and -(step + 1) % every < self.critic_steps
        randomness.reseed(self.training_seed, "step", step, rank=self.global_rank)

        images_before = self.images_seen
        generator_is_due = (step + 1) % self.critic_steps == 0
        latents = self.latents("discriminator", step, len(real))
        fakes = self.generator(latents, y) if self.reuse_fakes and generator_is_due else None
        scalars = self.discriminator_step(real, y, step, latents, fakes)
        if generator_is_due:
            if not self.reuse_fakes:
                latents = self.latents("generator", step, len(real))
            scalars |= self.generator_step(real, y, step, latents, fakes)
            for average in cast(list[AveragedGenerator], [self.average, *self.further_averages.values()]):
                average.update(self.generator, self.critic_steps * (self.images_seen - images_before), self.images_seen)

        self._follow_schedules(self.trainer.optimizers)  # now, and not when the next step begins, for a checkpoint to have it
        self.scalars |= scalars
        if every and (step + 1) % every == 0:
            self._log(step)
        return scalars

    def discriminator_step(
        self, real: Tensor, y: Tensor | None, step: int, latents: Tensor, fakes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Update D at real images (N, C, H, W) and as many generated ones: `fakes`, or without them those of `latents`."""
        due = due_at(self.penalties, step)
        weights = {name: self.changes.penalty * at(penalty.weight, self.images_seen) for name, penalty in due.items()}
        optimizer, scalars, real_logits = self._optimizer(0), [], []
        for x, fake, z, labels in self._parts(real, fakes, latents, y):
            if fake is None:
                with torch.no_grad():
                    fake = call_frozen(self.generator, z, labels)
            x = x.detach().requires_grad_(any(penalty.at_real for penalty in due.values()))
            fake = fake.detach().float().requires_grad_(any(penalty.at_fake for penalty in due.values()))

            p = critique(self._critic(self.discriminator, labels), x, fake)
            adversarial = self.loss.discriminator(p.real_logits, p.fake_logits).mean()
            with full_precision(x) if due else nullcontext():
                terms = {name: weights[name] * penalty(p).mean() for name, penalty in due.items()}
            self._backward(sum((due[name].every * term for name, term in terms.items()), adversarial))
            real_logits.append(p.real_logits.detach())
            logits = {"logits/real": real_logits[-1].mean(), "logits/fake": p.fake_logits.detach().mean()}
            scalars.append(
                {"loss/discriminator": adversarial, **logits, **{f"penalty/{name}": term for name, term in terms.items()}}
            )

        # Lightning counts each call of an optimizer's `step` as a training step. D takes one in every training step, so
        # that D's are the ones to count.
        optimizer.step()
        if self.constraint is not None:
            self.constraint(self.discriminator)
        self.images_seen += len(real) * self.trainer.world_size
        for augmentation in self.augmentations:
            augmentation.update(torch.cat(real_logits), self.images_seen)
        return _means(scalars)

    def generator_step(
        self, real: Tensor, y: Tensor | None, step: int, latents: Tensor, fakes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Update G through D, which stays as it is: at `fakes`, with their graph, or without them at those of `latents`."""
        due = due_at(self.generator_penalties, step // self.critic_steps)
        optimizer, scalars = self._optimizer(1), []
        for x, fake, z, labels in self._parts(real, fakes, latents, y):
            critic = self._critic(partial(call_frozen, self.discriminator), labels)
            fake_logits = critic(self.generator(z, labels) if fake is None else fake)
            real_logits = critic(x) if self.loss.generator_sees_real else fake_logits
            adversarial = self.loss.generator(real_logits, fake_logits).mean()

            with full_precision(x) if due else nullcontext():
                terms = {name: at(p.weight, self.images_seen) * p(self.generator, z, labels).mean() for name, p in due.items()}
            self._backward(sum((due[name].every * term for name, term in terms.items()), adversarial))
            scalars.append(
                {"loss/generator": adversarial, **{f"generator_penalty/{name}": term for name, term in terms.items()}}
            )

        self.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None)  # as optimizer.step(), but not counted
        return _means(scalars)

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
            fused(self.discriminator_optimizer(self.discriminator.parameters())),
            fused(self.generator_optimizer(self.generator.parameters())),
        ]
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = self.changes.learning_rate * group["lr"]
        self._follow_schedules(optimizers)
        return optimizers

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient, after a gradient scaler has undone its scaling, and keep its norm if it is to be logged next."""
        is_discriminator = optimizer is self.trainer.optimizers[0]
        clip_norm = self.discriminator_clip_norm if is_discriminator else self.generator_clip_norm
        if clip_norm is not None or self._logged_next:
            name, network = ("discriminator", self.discriminator) if is_discriminator else ("generator", self.generator)
            norm = nn.utils.clip_grad_norm_(network.parameters(), inf if clip_norm is None else clip_norm)
            self.scalars[f"grad_norm/{name}"] = norm

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lightning_gan"] = record.record_of(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        record.take_over(self, checkpoint)

    @property
    def training_seed(self) -> int:
        """The seed of training's draws: `seed`, or another one since a rollback."""
        reseeded = self.changes.reseeded
        return randomness.derive(self.seed, "rollback", reseeded) if reseeded else self.seed

    def _follow_schedules(self, optimizers: list[Optimizer]) -> None:
        """Set what the optimizers change with the images seen."""
        for optimizer, settings in zip(optimizers, self._scheduled().values(), strict=True):
            for name, value in settings.items():
                set_option(optimizer, name, value)

    def _scheduled(self) -> dict[str, dict[str, float]]:
        schedules = {"discriminator": self.discriminator_schedules, "generator": self.generator_schedules}
        factors = {"lr": self.changes.learning_rate}
        return {
            network: {name: factors.get(name, 1) * schedule(self.images_seen) for name, schedule in scheduled.items()}
            for network, scheduled in schedules.items()
        }

    def _settings(self) -> dict[str, float]:
        """Tell what changes as training goes on, for the loggers."""
        settings = {
            f"{name}/{network}": value for network, scheduled in self._scheduled().items() for name, value in scheduled.items()
        }
        return settings if self.augment is None else settings | {"augment/p": float(self.augment.p)}

    def _optimizer(self, index: int) -> LightningOptimizer:
        """Get an optimizer, without the gradients of its last step."""
        optimizer: LightningOptimizer = self.optimizers()[index]  # type: ignore[index]  # there are always two
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            parameter.grad = None  # what `zero_grad` does, and tells profilers of, which takes longer
        return optimizer

    def _parts(self, *batch: Tensor | None) -> Iterator[tuple[Any, ...]]:
        """Divide a batch into `accumulate` parts.

        Raises:
            UserError: they would not be of one size.
        """
        if self.accumulate == 1:
            return iter([batch])
        (n,) = {len(x) for x in batch if x is not None}
        if n % self.accumulate:
            raise UserError(
                f"--model.accumulate={self.accumulate} does not divide the {n} images of a batch that a process has. "
                "Take a number that does, or another --data.batch_size."
            )
        return zip(*((None,) * self.accumulate if x is None else x.chunk(self.accumulate) for x in batch), strict=True)

    def _log(self, step: int) -> None:
        """Log a row of the latest scalars, each the mean over the processes.

        At once and not by `self.log`, which would keep it until this step's callbacks are done: a checkpoint that one of them
        saves comes after the row of its step. It would also cost as much as a small network's step.
        """
        row = self.latest()
        self.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in row.items()})
        row |= self._settings()
        for logger in self.trainer.loggers:
            logger.log_metrics({**row, "images_seen": self.images_seen, "epoch": self.current_epoch}, step=step)
            logger.save()

    def latest(self) -> dict[str, float]:
        """Read the latest scalars, each the mean over the processes. To be called in all of them."""
        if not self.scalars:
            return {}
        values = mean_over_processes(torch.stack([scalar.to(self.device) for scalar in self.scalars.values()]).float())
        return dict(zip(self.scalars, values.tolist(), strict=True))

    def _critic(self, discriminator: Callable[..., Tensor], y: Tensor | None) -> Callable[[Tensor], Tensor]:
        """Let D look at images (N, C, H, W) through the augmentation; logits (N,) in float32."""
        augment = self.augment
        return lambda x: discriminator(x if augment is None else augment(x), y).float()

    def _backward(self, loss: Tensor) -> None:
        """Add to the gradients, outside autocast: within it what was computed in float32 would go back in part in bfloat16."""
        with full_precision(loss):
            self.manual_backward(loss if self.accumulate == 1 else loss / self.accumulate)


def _means(scalars: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Average the scalars of a batch's parts."""
    if len(scalars) == 1:
        return {name: scalar.detach() for name, scalar in scalars[0].items()}
    return {name: torch.stack([of_part[name].detach() for of_part in scalars]).mean() for name in scalars[0]}
