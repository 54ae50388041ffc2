"""What two processes send each other in a step of D and in a step of G, beside the least there is to send.

The least is each step's own gradients, once. Messages and bytes are counted where torch hands them to its backend, so that
Lightning's DDP, whose messages leave from C++, is counted alike. "Between" is what is sent outside of the two steps. A process'
bytes are those of its tensors: a ring of two processes carries as much each way. Milliseconds are those of a training step on
gloo that nothing counts: the least, and of one process' CPU time, which other work on the machine disturbs less, the median.

    OMP_NUM_THREADS=1 uv run python benchmarks/communication.py
"""

import argparse
import logging
import os
import socket
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
import torch.multiprocessing as mp
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_gan.data import Digits
from lightning_gan.gan import GAN
from lightning_gan.losses import AdversarialLoss, NonSaturating, Relativistic, Wasserstein
from lightning_gan.networks import (
    DCGANDiscriminator,
    DCGANGenerator,
    Discriminator,
    Generator,
    R3GANDiscriminator,
    R3GANGenerator,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
)
from lightning_gan.penalties import R1, R2, GradientPenalty, PathLength
from lightning_gan.strategy import GANStrategy, SynchronizedBatchNorm

SHAPE = (1, 16, 16)
BATCH_SIZE = 32
COUNTED, TIMED = 16, 20
SEVERAL = 2
Adam = partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.99))


def networks(family: str) -> dict[str, Generator | Discriminator | AdversarialLoss | dict[str, Any]]:
    match family:
        case "DCGAN + lazy R1":
            return {
                "generator": DCGANGenerator(SHAPE, latent_dim=32, width=32),
                "discriminator": DCGANDiscriminator(SHAPE, width=32),
                "loss": NonSaturating(),
                "penalties": {"r1": R1(every=16)},
            }
        case "WGAN-GP":
            return {
                "generator": DCGANGenerator(SHAPE, latent_dim=32, width=32),
                "discriminator": DCGANDiscriminator(SHAPE, width=32, batch_norm=False),
                "loss": Wasserstein(),
                "penalties": {"gp": GradientPenalty()},
            }
        case "R3GAN":
            return {
                "generator": R3GANGenerator(SHAPE, latent_dim=32, width=32),
                "discriminator": R3GANDiscriminator(SHAPE, width=32),
                "loss": Relativistic(),
                "penalties": {"r1": R1(1.0), "r2": R2(1.0)},
            }
        case _:
            size: dict[str, Any] = {"channel_base": 1024, "max_channels": 64}
            return {
                "generator": StyleGAN2Generator(SHAPE, latent_dim=64, style_dim=64, mapping_layers=2, **size),
                "discriminator": StyleGAN2Discriminator(SHAPE, **size),
                "loss": NonSaturating(),
                "penalties": {"r1": R1(every=16)},
                "generator_penalties": {"path_length": PathLength()},
            }


# Family, whose strategy, whether batch normalization is synchronized, parts of a batch.
WAYS = [
    ("DCGAN + lazy R1", "ours", True, 1),
    ("DCGAN + lazy R1", "ours", True, 4),
    ("DCGAN + lazy R1", "ours", False, 1),
    ("DCGAN + lazy R1", "ours", False, 4),
    ("DCGAN + lazy R1", "Lightning's", False, 1),
    ("DCGAN + lazy R1", "Lightning's", False, 4),
    ("WGAN-GP", "ours", False, 1),
    ("WGAN-GP", "ours", False, 4),
    ("WGAN-GP", "Lightning's", False, 1),
    ("R3GAN", "ours", False, 1),
    ("R3GAN", "ours", False, 4),
    ("R3GAN", "Lightning's", False, 1),
    ("StyleGAN2 + lazy penalties", "ours", False, 1),
    ("StyleGAN2 + lazy penalties", "Lightning's", False, 1),
]


COLUMNS = ["", "strategy", "batch norm", "parts"]
COLUMNS += [f"{network}: {what}" for network in "DG" for what in ("messages", "bytes", "of the least")]
COLUMNS += ["between: messages", "bytes", "ms", "CPU ms"]


class Traffic(TorchDispatchMode):
    """Counts messages and bytes, by the part of a training step that they are sent in."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # in torch
        self.part = "between"
        self.messages = dict.fromkeys(("discriminator_step", "generator_step", "between"), 0)
        self.bytes = dict(self.messages)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.messages[self.part] += 1
            tensors = args[0] if isinstance(args[0], list) else [args[0]]
            self.bytes[self.part] += sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))
        return func(*args, **(kwargs or {}))

    def watch(self, gan: GAN, step: str) -> None:
        unwatched: Callable[..., Any] = getattr(gan, step)

        def watched(*args: Any) -> Any:
            self.part = step
            try:
                return unwatched(*args)
            finally:
                self.part = "between"

        setattr(gan, step, watched)


class Meter(Callback):
    """Counts for some steps, which starts after the first, and then times some."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.seconds: list[tuple[float, float]] = []  # wall clock, CPU
        self._counting = ExitStack()
        self._started = 0.0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        for step in ("discriminator_step", "generator_step"):
            self.traffic.watch(pl_module, step)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 1:
            self._counting.enter_context(self.traffic)
        elif trainer.global_step == 1 + COUNTED:
            self._counting.close()
        elif trainer.global_step > 2 + COUNTED:
            wall, cpu = self._started
            self.seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
        self._started = time.perf_counter(), time.process_time()


def measure(family: str, whose: str, synchronized: bool, parts: int) -> str:
    torch.manual_seed(0)
    optimizers = {"generator_optimizer": Adam, "discriminator_optimizer": Adam}
    gan = GAN(**networks(family), **optimizers, accumulate=parts)  # type: ignore[arg-type]  # a dictionary of unlike parts
    meter = Meter()
    Trainer(
        accelerator="cpu",
        devices=SEVERAL,
        strategy=GANStrategy() if whose == "ours" else DDPStrategy(find_unused_parameters=True),
        plugins=[SynchronizedBatchNorm()] if synchronized else [],
        max_steps=1 + COUNTED + TIMED,
        max_epochs=-1,
        callbacks=[meter],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    ).fit(gan, Digits(image_size=SHAPE[1], batch_size=BATCH_SIZE, conditional=False))
    norm = "synchronized" if synchronized else "by process"
    cells = [family, whose, norm if any(isinstance(m, nn.BatchNorm2d) for m in gan.average.modules()) else "none", str(parts)]
    for part, network in (("discriminator_step", gan.discriminator), ("generator_step", gan.generator)):
        least = sum(parameter.nbytes for parameter in network.parameters())
        sent = meter.traffic.bytes[part] / COUNTED
        cells += [f"{meter.traffic.messages[part] / COUNTED:g}", f"{sent:,.0f}", f"{sent / least:.3f}"]
    between = meter.traffic
    cells += [f"{between.messages['between'] / COUNTED:g}", f"{between.bytes['between'] / COUNTED:,.0f}"]
    wall, cpu = zip(*meter.seconds, strict=True)
    cells += [f"{1000 * min(wall):.1f}", f"{1000 * statistics.median(cpu):.1f}"]
    return f"| {' | '.join(cells)} |"


def take_part(rank: int, port: int) -> None:
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    for way in WAYS:
        row = measure(*way)
        if rank == 0:
            print(row, flush=True)
    torch.distributed.destroy_process_group()


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {BATCH_SIZE} images of 16 px a step\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    mp.spawn(take_part, (port,), nprocs=SEVERAL)


if __name__ == "__main__":
    main()
