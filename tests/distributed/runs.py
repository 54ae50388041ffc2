"""Short runs, in one process or several, that leave behind all that they came to."""

import logging
import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_gan import randomness
from lightning_gan.augment import ADA, DiffAugment
from lightning_gan.batch_norm import synchronize
from lightning_gan.data import Digits
from lightning_gan.gan import GAN
from lightning_gan.losses import NonSaturating, Relativistic, Wasserstein
from lightning_gan.networks import (
    DCGANDiscriminator,
    DCGANGenerator,
    MLPDiscriminator,
    MLPGenerator,
    R3GANDiscriminator,
    R3GANGenerator,
    ResNetDiscriminator,
    ResNetGenerator,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
)
from lightning_gan.penalties import DRAGAN, R1, R2, Consistency, GradientPenalty, LeCam, PathLength
from lightning_gan.strategy import GANStrategy, SynchronizedBatchNorm

SHAPE = (1, 16, 16)
BATCH_SIZE = 24
STEPS = 6
# Its divisor's epsilon is large: where a gradient is next to nothing, its sign, which Adam would take steps by, is rounding.
Adam = partial(torch.optim.Adam, lr=2e-3, betas=(0.5, 0.99), eps=1e-4)


class _WithUnused(MLPGenerator):
    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__(image_shape, latent_dim=4, hidden=[16])
        self.unused = nn.Parameter(torch.ones(3))


def _plain(**parts: Any) -> dict[str, Any]:
    return {
        "generator": MLPGenerator(SHAPE, latent_dim=4, hidden=[16, 16]),
        "discriminator": DCGANDiscriminator(SHAPE, width=4, batch_norm=False),
    } | parts


def _dcgan(num_classes: int = 0, **parts: Any) -> dict[str, Any]:
    return {
        "generator": DCGANGenerator(SHAPE, num_classes, latent_dim=4, width=4),
        "discriminator": DCGANDiscriminator(SHAPE, num_classes, width=4),
    } | parts


def _stylegan2() -> dict[str, Any]:
    small: dict[str, Any] = {"channel_base": 64, "max_channels": 8}
    return {
        "generator": StyleGAN2Generator(SHAPE, latent_dim=8, style_dim=8, mapping_layers=2, **small),
        "discriminator": StyleGAN2Discriminator(SHAPE, **small),
        "penalties": {"r1": R1(every=2)},
        "generator_penalties": {"path_length": PathLength(every=2)},
    }


# What the names say, and each with something that the others do not have.
RECIPES: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": _plain,
    "dcgan": lambda: _dcgan(penalties={"r1": R1()}),
    "wgan_gp": lambda: _plain(loss=Wasserstein(), penalties={"gp": GradientPenalty()}, critic_steps=2),
    "lazy_r1": lambda: _plain(penalties={"r1": R1(every=4)}, generator_clip_norm=0.1, further_half_lives=[100]),
    "sngan": lambda: {
        "generator": ResNetGenerator(SHAPE, 10, latent_dim=4, width=4, channels=[8, 4]),
        "discriminator": ResNetDiscriminator(SHAPE, 10, width=4, halvings=1),
        # A bias before batch normalization has no gradient but rounding, which Adam would take for one.
        "generator_optimizer": partial(torch.optim.SGD, lr=0.002, momentum=0.9),
    },
    "r3gan": lambda: {
        "generator": R3GANGenerator(SHAPE, latent_dim=4, width=8, blocks=1, group_width=4),
        "discriminator": R3GANDiscriminator(SHAPE, width=8, blocks=1, group_width=4),
        "loss": Relativistic(),
        "penalties": {"r1": R1(1.0), "r2": R2(1.0)},
    },
    "conditional_ada": lambda: _dcgan(10, augment=ADA(target=0.0, speed=500, every=2)),
    "other_draws": lambda: _plain(
        penalties={"dragan": DRAGAN(), "lecam": LeCam(), "bcr": Consistency(DiffAugment(), balanced=True)},
        augment=ADA(probability=0.5),
    ),
    "stylegan2": _stylegan2,
    "in_2_parts": lambda: _plain(penalties={"r1": R1()}, accumulate=2),
    "in_4_parts": lambda: _plain(penalties={"r1": R1()}, accumulate=4),
    "unused_parameter": lambda: _plain(generator=_WithUnused(SHAPE)),
}
DIFFERENT: dict[str, Callable[[], dict[str, Any]]] = {
    "own_batch_norm": lambda: _dcgan(penalties={"r1": R1()}),
    "dropout": lambda: _plain(discriminator=MLPDiscriminator(SHAPE, hidden=[16], dropout=0.5)),
}
"""Those that the number of processes does change."""
IN_THREE = ["dcgan", "conditional_ada", "stylegan2", "own_batch_norm"]


class Traffic(TorchDispatchMode):
    """Lists what processes send each other, wherever in torch it is sent from: names and bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # in torch
        self.messages: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            tensors = args[0] if isinstance(args[0], list) else [args[0]]
            self.messages.append((func.__name__.split(".")[0], sum(tensor.nbytes for tensor in tensors)))
        return func(*args, **(kwargs or {}))


class Witness(Callback):
    """Keeps what this process was given at each step, what D dropped, and the messages of either network's step."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []
        self.latents: list[Tensor] = []
        self.dropped: list[Tensor] = []
        self.traffic: dict[str, list[list[tuple[str, int]]]] = {"discriminator_step": [], "generator_step": []}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        for module in pl_module.discriminator.modules():
            if isinstance(module, nn.Dropout):
                module.register_forward_hook(lambda _, x, y: self.dropped.append((y == 0) & (x[0] != 0)))
        for name, lists in self.traffic.items():
            setattr(pl_module, name, self._watched(getattr(pl_module, name), lists))

    @staticmethod
    def _watched(step: Callable[..., Any], lists: list[list[tuple[str, int]]]) -> Callable[..., Any]:
        def watched(*args: Any) -> Any:
            with Traffic() as traffic:
                result = step(*args)
            lists.append(traffic.messages)
            return result

        return watched

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.images.append(batch[0])
        self.latents.append(pl_module.latents("generator", trainer.global_step, len(batch[0])))


def run(recipe: str, world_size: int, **parts: Any) -> dict[str, Any]:
    """Train by a recipe, and return everything there is in the end."""
    torch.manual_seed(dist.get_rank() if dist.is_initialized() else 0)  # the first process' weights are the ones to count
    defaults: dict[str, Any] = {
        "loss": NonSaturating(),
        "generator_optimizer": Adam,
        "discriminator_optimizer": Adam,
        "ema_half_life": 50,
    }
    gan = GAN(**(defaults | {**RECIPES, **DIFFERENT}[recipe]() | parts))
    conditional = gan.generator.num_classes > 0
    witness = Witness()
    trainer = Trainer(
        accelerator="cpu",
        devices=world_size,
        strategy=GANStrategy(timedelta(seconds=60)) if world_size > 1 else "auto",
        plugins=[] if recipe == "own_batch_norm" else [SynchronizedBatchNorm()],
        max_steps=STEPS,
        log_every_n_steps=STEPS,
        max_epochs=-1,
        callbacks=[witness],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(gan, Digits(image_size=SHAPE[1], batch_size=BATCH_SIZE, conditional=conditional))
    return {
        "state": gan.state_dict(),
        "optimizers": [optimizer.state_dict()["state"] for optimizer in trainer.optimizers],
        "gradients": {name: parameter.grad for name, parameter in gan.named_parameters()},
        "scalars": gan.scalars,
        "logged": dict(trainer.callback_metrics),
        "images": witness.images,
        "latents": witness.latents,
        "dropped": witness.dropped,
        "traffic": witness.traffic,
    }


def normalize(layer: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Differentiate a layer twice: (N, C, ...) and as much -> output, gradient (twice) and second gradient."""
    x = x.clone().requires_grad_()
    output = layer(x)
    (only,) = torch.autograd.grad((output * y).sum(), x, retain_graph=True)
    (first,) = torch.autograd.grad((output * y).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(3).sum(), x)
    return output.detach(), only, first.detach(), second


def normalization() -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """Layers, each with a batch and with the weights of its output in the function that is differentiated."""
    rng = torch.Generator().manual_seed(0)
    cases: dict[str, tuple[nn.Module, Tensor, Tensor]] = {}
    for name, layer, shape in (
        ("features", nn.BatchNorm1d(3), (12, 3)),
        ("images", nn.BatchNorm2d(3), (12, 3, 2, 2)),
        ("without_weights", nn.BatchNorm2d(3, affine=False), (12, 3, 2, 2)),
        ("cumulative", nn.BatchNorm2d(3, momentum=None), (12, 3, 2, 2)),
        ("large_mean", nn.BatchNorm2d(3), (12, 3, 2, 2)),
    ):
        if layer.affine:
            nn.init.uniform_(layer.weight, 0.5, 1.5, generator=rng)
        x = torch.randn(shape, generator=rng) + (1000 if name == "large_mean" else 1)
        cases[name] = layer, x, torch.randn(shape, generator=rng)
    return cases


def draws(rank: int, n: int) -> list[Tensor]:
    device = torch.device("cpu")
    randomness.reseed("draws", rank=rank)
    return [
        randomness.rand(n, 2, device=device),
        randomness.randn(n, device=device),
        randomness.randint(-3, 9, n, 1, 2, device=device),
        randomness.rand(n, device=device),
        torch.rand(n),  # a process' own
    ]


def main(rank: int, folder: str, ports: tuple[int, int]) -> None:
    """Be one of three processes, which do some runs together, and then be one of two, which do all.

    What a run came to is saved as `<recipe>.<processes>.<rank>.pt`.
    """
    torch.set_num_threads(1)
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    for world_size, port, recipes in ((3, ports[0], IN_THREE), (2, ports[1], [*RECIPES, *DIFFERENT])):
        if rank == world_size:
            break
        os.environ |= {"MASTER_PORT": str(port)}
        for recipe in recipes:
            torch.save(run(recipe, world_size), Path(folder, f"{recipe}.{world_size}.{rank}.pt"))
        n = 12 // world_size
        normalized = {}
        for name, (layer, x, y) in normalization().items():
            layer = synchronize(layer)
            mine = slice(rank * n, (rank + 1) * n)
            normalized[name] = normalize(layer, x[mine], y[mine]), layer.state_dict()
        torch.save(normalized, Path(folder, f"normalization.{world_size}.{rank}.pt"))
        torch.save(draws(rank, n), Path(folder, f"draws.{world_size}.{rank}.pt"))
        dist.destroy_process_group()
