"""Training on a device whose values nobody can ask for.

`meta` tensors have shapes and no values. They stand for those of a GPU here: whatever would make the host wait for one
(`.item()`, `bool(x)`, `.cpu()`, `x[mask]`, ...) has no answer, and raises. What would wait to send values `Watch` notices.
"""

from typing import Any
from unittest.mock import patch

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_gan.cli import CLI
from lightning_gan.gan import GAN

NOWHERE = torch.device("meta")


class Waits(Exception):  # noqa: N818  # says what happened
    """The host would wait for the device."""


class Arrived(Exception):  # noqa: N818  # as above
    """All steps are taken; what comes after them may read values."""


class Watch(TorchDispatchMode):
    """Refuses what would wait for a GPU, and goes unnoticed on `meta`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # in torch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        name = func.overloadpacket.__name__
        made_of_values = name == "lift_fresh" and result.device == NOWHERE  # torch.tensor(..., device=...)
        copied = name in ("_to_copy", "copy_") and result.device == NOWHERE and any(x.device != NOWHERE for x in tensors)
        masked = "index_put" in name and any(x.dtype == torch.bool and x.device == NOWHERE for x in tree_leaves(args[1]))
        if made_of_values or copied or masked:
            raise Waits(f"{func} waits for a GPU to take its values")
        return result


class Move(Callback):
    """Takes what is trained to `meta` when training starts, and back before Lightning looks at it again."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy._root_device = NOWHERE  # type: ignore[attr-defined]  # where batches are sent
        pl_module.to(NOWHERE)
        trainer.strategy.optimizers = pl_module.configure_optimizers()  # type: ignore[assignment]  # which is GAN's

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        trainer.strategy._root_device = torch.device("cpu")  # type: ignore[attr-defined]  # as above
        pl_module.to_empty(device="cpu")
        trainer.strategy.optimizers = []


class Arrive(Callback):
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.steps:
            raise Arrived


def on_cpu(function: Any) -> Any:
    """Let a function that takes the kind of a device treat `meta` as the CPU."""
    return lambda kind, *args, **kwargs: function("cpu" if kind == "meta" else kind, *args, **kwargs)


def train(options: list[str], steps: int) -> set[str]:
    """Take the first steps of `fit` there, with all its callbacks, and tell what was measured.

    The progress bar is left out: it reads the losses when it is redrawn, twice a second at most. A step's one draw that takes
    a generator of the device's own is replaced, as `meta` has none.
    """

    class Elsewhere(CLI):
        def fit(self, model: GAN, datamodule: Any, **kwargs: Any) -> None:
            last = Arrive(max(steps, model.critic_steps))
            self.trainer.callbacks = [Move(), *self.trainer.callbacks, last]  # type: ignore[attr-defined]  # set by a connector
            try:
                self.trainer.fit(model, datamodule)
            except Arrived:
                return

    step = GAN.training_step

    def watched(gan: GAN, *args: Any) -> Any:
        with Watch():
            return step(gan, *args)

    def latents(gan: GAN, purpose: str, step: int, n: int) -> Tensor:
        return torch.empty(n, gan.generator.latent_dim, device=gan.device)

    supported = [*optimizer._get_fused_kernels_supported_devices(), "meta"]
    with (
        patch.object(GAN, "training_step", watched),
        patch.object(GAN, "latents", latents),
        patch.object(torch, "autocast", on_cpu(torch.autocast)),
        patch.object(torch, "is_autocast_enabled", on_cpu(torch.is_autocast_enabled)),
        patch.object(optimizer, "_get_fused_kernels_supported_devices", lambda: supported),
    ):
        common = "--wandb=off --evaluation.num_samples=0 --trainer.accelerator=cpu --trainer.enable_progress_bar=false"
        run = Elsewhere.run(["fit", *options, *common.split(), "--trainer.precision=bf16-mixed"])
    return set(run.model.scalars)
