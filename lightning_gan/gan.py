"""The training of a GAN: D and G in turn, Goodfellow et al. 2014, Algorithm 1."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_gan import __version__, images, randomness
from lightning_gan.ema import AveragedGenerator
from lightning_gan.errors import UserError
from lightning_gan.losses import AdversarialLoss
from lightning_gan.networks.base import Discriminator, Generator, call_frozen
from lightning_gan.penalties import CriticPass, Penalty

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
        critic_steps: training steps for each step of G.
        ema_half_life: half-life of the averaged generator, in images.
        generator_clip_norm: largest norm of G's gradient; a longer one is scaled down to it.
        discriminator_clip_norm: the same for D.
        seed: of every random draw in training.

    Attributes:
        images_seen: real images that D has seen, in all processes.
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
        critic_steps: int = 1,
        ema_half_life: float = 10_000,
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
        self.automatic_optimization = False
        self.generator = generator
        self.discriminator = discriminator
        self.average = AveragedGenerator(generator, ema_half_life)
        self.loss = loss
        self.penalties = penalties or {}
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.critic_steps = critic_steps
        self.generator_clip_norm = generator_clip_norm
        self.discriminator_clip_norm = discriminator_clip_norm
        self.seed = seed
        self.images_seen = 0
        self.scalars: dict[str, Tensor] = {}

    def training_step(self, batch: tuple[Any, ...], batch_idx: int) -> dict[str, Tensor]:
        """Update D, and at every `critic_steps`-th step G and its average. Returns this step's scalars, on the device."""
        real, y, *_ = batch
        step = self.trainer.global_step
        randomness.reseed(self.seed, "step", step, self.global_rank)

        scalars = self.discriminator_step(real, y, step)
        batch_size = len(real) * self.trainer.world_size
        self.images_seen += batch_size
        if (step + 1) % self.critic_steps == 0:
            scalars |= self.generator_step(real, y, step)
            self.average.update(self.generator, self.critic_steps * batch_size, self.images_seen)

        self.scalars |= scalars
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # a connector sets it
        if every and (step + 1) % every == 0:  # a call of log_dict costs as much as a small network's step
            self.log_dict({**self.scalars, "images_seen": self._images_seen()})
        return scalars

    def discriminator_step(self, real: Tensor, y: Tensor | None, step: int) -> dict[str, Tensor]:
        """Update D at real images (N, C, H, W) and as many generated ones."""
        due = {name: penalty for name, penalty in self.penalties.items() if step % penalty.every == 0}
        with torch.no_grad():
            fake = call_frozen(self.generator, self.latents("discriminator", step, len(real)), y).float()
        real, fake = (x.detach().requires_grad_(bool(due)) for x in (real, fake))

        with self._full_precision() if due else nullcontext():
            p = critique(self.discriminator, real, fake, y)
            adversarial = self.loss.discriminator(p.real_logits, p.fake_logits).mean()
            terms = {f"penalty/{name}": penalty(p).mean() for name, penalty in due.items()}
        loss = adversarial + sum(penalty.every * term for penalty, term in zip(due.values(), terms.values(), strict=True))

        # Lightning counts each call of an optimizer's `step` as a training step. D takes one in every training step, so
        # that D's are the ones to count.
        optimizer = self._backward(0, loss)
        optimizer.step()
        scalars = {"loss/discriminator": adversarial, "logits/real": p.real_logits.mean(), "logits/fake": p.fake_logits.mean()}
        return {name: scalar.detach() for name, scalar in (scalars | terms).items()}

    def generator_step(self, real: Tensor, y: Tensor | None, step: int) -> dict[str, Tensor]:
        """Update G through D, which stays as it is."""
        fake = self.generator(self.latents("generator", step, len(real)), y)
        critic = partial(call_frozen, self.discriminator)
        fake_logits = critic(fake, y).float()
        real_logits = critic(real, y).float() if self.loss.generator_sees_real else fake_logits
        loss = self.loss.generator(real_logits, fake_logits).mean()

        optimizer = self._backward(1, loss)
        self.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None)  # as optimizer.step(), but not counted
        return {"loss/generator": loss.detach()}

    def latents(self, purpose: str, step: int, n: int) -> Tensor:
        """Draw this process' share of a step's latents: (n, latent_dim).

        They are drawn for all processes together, so that the number of processes does not change them.
        """
        rng = randomness.generator(self.seed, "latents", purpose, step, device=self.device)
        z = self.generator.latents(n * self.trainer.world_size, rng)
        return z[self.global_rank * n : (self.global_rank + 1) * n]

    @torch.no_grad()
    def sample(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Generate with the averaged generator: (N, latent_dim), (N,) or None -> uint8 (N, C, H, W)."""
        return images.to_uint8(self.average(z, y))

    def validation_step(self, batch: tuple[Any, ...], batch_idx: int) -> None:
        """Log D's logits on held-out real images: below those on training images, D knows its training set by heart."""
        real, y, *_ = batch
        self.log("logits/held_out", self.discriminator(real, y).mean(), batch_size=len(real), sync_dist=True)
        self.log("images_seen", self._images_seen(), batch_size=len(real))

    def test_step(self, batch: tuple[Any, ...], batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def configure_optimizers(self) -> list[Optimizer]:
        return [
            self.discriminator_optimizer(self.discriminator.parameters()),
            self.generator_optimizer(self.generator.parameters()),
        ]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient, after a gradient scaler has undone its scaling."""
        is_discriminator = optimizer is self.trainer.optimizers[0]
        network: nn.Module = self.discriminator if is_discriminator else self.generator
        clip_norm = self.discriminator_clip_norm if is_discriminator else self.generator_clip_norm
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), clip_norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lightning_gan"] = {
            "version": __version__,
            "images_seen": self.images_seen,
            "seed": self.seed,
            "generator": self.generator.record,
            "discriminator": self.discriminator.record,
        }

    def check_fits(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other networks.

        Raises:
            UserError: the checkpoint's networks were built differently.
        """
        for name, ours in {"generator": self.generator.record, "discriminator": self.discriminator.record}.items():
            if (theirs := checkpoint["lightning_gan"][name]) != ours:
                raise UserError(
                    f"The checkpoint's {name} is {_call(theirs)}, but the configuration's is {_call(ours)}. "
                    "Start from the run's own configuration with -c RUN/config.yaml."
                )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_fits(checkpoint)
        self.images_seen = checkpoint["lightning_gan"]["images_seen"]
        # The optimizers' states are the checkpoint's, but their learning rates and the like are what the user says now.
        for state, configured in zip(checkpoint["optimizer_states"], self.configure_optimizers(), strict=True):
            for saved, group in zip(state["param_groups"], configured.param_groups, strict=True):
                saved.update({name: value for name, value in group.items() if name != "params"})

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


def _call(record: dict[str, Any]) -> str:
    arguments = ", ".join(f"{name}={value}" for name, value in record["init_args"].items())
    return f"{record['class_path'].rpartition('.')[2]}({arguments})"


def critique(discriminator: Discriminator, real: Tensor, fake: Tensor, y: Tensor | None) -> CriticPass:
    """Let D look at real and generated images, both (N, C, H, W)."""

    def critic(x: Tensor) -> Tensor:
        return discriminator(x, y).float()  # type: ignore[no-any-return]  # torch types every module's output as Any

    return CriticPass(real, fake, critic(real), critic(fake), critic)
