"""Arithmetic, memory layout and compiled code, as the hardware is quick at them."""

import os
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_gan.errors import UserError
from lightning_gan.gan import GAN
from lightning_gan.overhead import pass_over_idle_hooks

GRAPHS = ("reduce-overhead", "max-autotune")
"""Modes of `torch.compile` that use CUDA graphs."""
Precision = Literal["32-true", "bf16-mixed"]


class Acceleration(Callback):
    """Lays the networks out in memory, and compiles them.

    Args:
        channels_last: keep the channels of images and of convolutions innermost in memory; null = with mixed precision, where
            most hardware is quicker for it.
        compile: mode of `torch.compile` for the passes of G and D that no penalty differentiates; null = none. It takes a
            minute or so at the start.
    """

    def __init__(
        self,
        channels_last: bool | None = None,
        compile: Literal["default", "reduce-overhead", "max-autotune"] | None = None,  # torch's name for it
    ) -> None:
        self.channels_last = channels_last
        self.compile = compile

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, GAN)
        if stage != "fit":
            return
        # With this, which Lightning sets for the time before processes are started, torch would load the GPU driver's library
        # to look for GPUs at each optimizer's step: 30 microseconds and more.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
        if self.compile in GRAPHS and pl_module.reuse_fakes:
            raise UserError(
                f"--acceleration.compile {self.compile} replays each pass in the memory of the one before, and "
                "--model.reuse_fakes keeps G's images: leave out one of them."
            )
        if self.compile:
            pl_module.generator.compile(mode=self.compile)
            pl_module.discriminator.compile(mode=self.compile)
        if self.channels_last:
            for name in ("generator", "discriminator", "average", "further_averages"):
                getattr(pl_module, name).to(memory_format=torch.channels_last)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pass_over_idle_hooks(trainer.callbacks)  # type: ignore[attr-defined]  # a connector sets it

    def describe(self, precision: Any) -> str:
        """Say in words how a run is accelerated."""
        layout = ["channels last"] if self.channels_last else []
        return ", ".join([str(precision), *layout, *([f"compiled ({self.compile})"] if self.compile else [])])


def quick_precision(accelerator: str) -> Precision:
    """Choose bfloat16, for what tolerates it, where the hardware computes in it, and float32 elsewhere.

    By what is known of the hardware and not by a measurement, which would not always come out the same.

    Args:
        accelerator: Lightning's word for the kind of device: "cpu", "cuda", "auto" and so on.
    """
    device = None if accelerator == "cpu" else torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        capabilities = torch.cpu.get_capabilities()
        return "bf16-mixed" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "32-true"
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16-mixed"
    return "32-true"


def settle(config: Any, saved: Any, resumed: bool) -> None:
    """Choose what was left open, and have the saved configuration say so: a run may be gone on with on another machine.

    Args:
        config: the parsed options, to be completed.
        saved: their form that is saved.
        resumed: whether the run goes on; where its configuration leaves something open, it is from before there was a choice.
    """
    if config.trainer.precision is None:
        config.trainer.precision = "32-true" if resumed else quick_precision(config.trainer.accelerator)
    if config.acceleration.channels_last is None:
        config.acceleration.channels_last = not resumed and "mixed" in str(config.trainer.precision)
    saved.trainer.precision = config.trainer.precision
    saved.acceleration.channels_last = config.acceleration.channels_last
