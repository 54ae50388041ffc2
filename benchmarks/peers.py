"""Training as people do it, beside `fit`: the same DCGAN of width 64, on MNIST at 32x32, in batches of 64.

All train networks of the same kind and size with Adam at 2e-4, each with its own loader:

- *PyTorch's DCGAN example*, its loop written anew: torchvision's MNIST through Resize, ToTensor and Normalize, a shuffling
  DataLoader with 2 workers, float32; binary cross-entropy of a sigmoid; D goes back at real images and at fakes one after the
  other, and G learns from the same fakes, through a D whose gradients are computed, too; five `.item()`s and a printed line in
  each step, and two pictures saved in every hundredth. What it prints goes nowhere.
- *Lightning's GAN example*, that of its basic-GAN tutorial, its module and data module written anew: manual optimization with
  toggled optimizers, G first, and three passes of G a step (for the picture, for G's loss, for D's); a grid of six generated
  images handed to the logger and two losses logged to the progress bar in each step; MNIST through ToTensor and Normalize, here
  also Resize, in the order of its split, which it does not shuffle again, with half as many workers as there are cores;
  float32. Its logger is TensorBoard's, which is not among our dependencies: Lightning's CSVLogger stands in, and drops the
  pictures, which spares it their encoding. The progress bar writes to nowhere.
- *`fit`* of `conf/model/dcgan.yaml` with `--model.reuse_fakes true`, with the arithmetic that it chooses, and in float32. It
  saves a picture as often as PyTorch's example; W&B, evaluation and checkpoints, which come seldom, are left out.

Workers and first steps are waited for before the clock is started. They take turns, several times; a ratio is the median of the
turns'. At least twice the images/s of the examples are asked for.

    uv run python -m benchmarks.peers --root FOLDER
"""

import argparse
import copy
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, random_split
from torchvision import datasets, transforms
from torchvision.utils import make_grid, save_image

from benchmarks.step_time import COMMON, WARM_UP, Timed, fit, versions
from lightning_gan.networks.base import Discriminator, Generator

BATCH_SIZE = 64
PICTURES_EVERY = 100
"""Steps between the pictures of PyTorch's example."""
OPTIONS = ["-c", "conf/data/mnist32.yaml", "-c", "conf/model/dcgan.yaml", "--model.reuse_fakes=true"]
Networks = tuple[Generator, Discriminator]
Adam = partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999))


def mnist(root: str, mean: float, std: float) -> Dataset[tuple[Tensor, int]]:
    steps = [transforms.Resize(32), transforms.ToTensor(), transforms.Normalize((mean,), (std,))]
    images: Dataset[tuple[Tensor, int]] = datasets.MNIST(root, transform=transforms.Compose(steps))
    return images


def pytorch_example(networks: Networks, root: str, steps: int, folder: Path) -> float:
    """Train as PyTorch's example: seconds of `steps` steps."""
    g, d = networks
    loader = DataLoader(mnist(root, 0.5, 0.5), BATCH_SIZE, shuffle=True, num_workers=2)
    criterion = nn.BCELoss()
    d_optimizer, g_optimizer = Adam(d.parameters()), Adam(g.parameters())
    fixed_noise = torch.randn(BATCH_SIZE, g.latent_dim)
    for i, (real, _) in enumerate(loader):
        if i == WARM_UP:
            start = time.perf_counter()
        elif i == WARM_UP + steps:
            seconds = time.perf_counter() - start
            break
        d.zero_grad()
        labels = torch.full((len(real),), 1.0)
        output = d(real).sigmoid()
        d_loss_real = criterion(output, labels)
        d_loss_real.backward()
        d_x = output.mean().item()

        fake = g(torch.randn(len(real), g.latent_dim))
        labels.fill_(0.0)
        output = d(fake.detach()).sigmoid()
        d_loss_fake = criterion(output, labels)
        d_loss_fake.backward()
        d_g_z1 = output.mean().item()
        d_loss = d_loss_real + d_loss_fake
        d_optimizer.step()

        g.zero_grad()
        labels.fill_(1.0)
        output = d(fake).sigmoid()
        g_loss = criterion(output, labels)
        g_loss.backward()
        d_g_z2 = output.mean().item()
        g_optimizer.step()

        print(f"[{i}/{len(loader)}] {d_loss.item():.4f} {g_loss.item():.4f} {d_x:.4f} {d_g_z1:.4f} / {d_g_z2:.4f}")
        if i % PICTURES_EVERY == 0:
            save_image(real, folder / "real_samples.png", normalize=True)
            save_image(g(fixed_noise).detach(), folder / "fake_samples.png", normalize=True)
    return seconds


class ExampleModule(LightningModule):
    def __init__(self, generator: Generator, discriminator: Discriminator) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = generator
        self.discriminator = discriminator

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.generator(z)
        return images

    def loss(self, x: Tensor, label: float) -> Tensor:
        probability = self.discriminator(x).sigmoid()
        return F.binary_cross_entropy(probability, torch.full_like(probability, label))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, _ = batch
        g_optimizer, d_optimizer = self.optimizers()  # type: ignore[attr-defined]  # there are always two
        z = torch.randn(len(images), self.generator.latent_dim).type_as(images)

        self.toggle_optimizer(g_optimizer)
        generated = self(z)
        self.logger.add_image("generated_images", make_grid(generated[:6]), self.current_epoch)  # type: ignore[union-attr]  # ours has
        g_loss = self.loss(self(z), 1.0)
        self.log("g_loss", g_loss, prog_bar=True)
        self.manual_backward(g_loss)
        g_optimizer.step()
        g_optimizer.zero_grad()
        self.untoggle_optimizer(g_optimizer)

        self.toggle_optimizer(d_optimizer)
        d_loss = (self.loss(images, 1.0) + self.loss(self(z).detach(), 0.0)) / 2
        self.log("d_loss", d_loss, prog_bar=True)
        self.manual_backward(d_loss)
        d_optimizer.step()
        d_optimizer.zero_grad()
        self.untoggle_optimizer(d_optimizer)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [Adam(self.generator.parameters()), Adam(self.discriminator.parameters())]


class ExampleData(LightningDataModule):
    def __init__(self, root: str) -> None:
        super().__init__()
        self.root = root

    def setup(self, stage: str) -> None:
        self.train, _ = random_split(mnist(self.root, 0.1307, 0.3081), [55_000, 5_000])

    def train_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        return DataLoader(self.train, BATCH_SIZE, num_workers=(len(os.sched_getaffinity(0)) or 1) // 2)


class WithoutPictures(CSVLogger):
    def add_image(self, *_: Any) -> None:
        pass


class Clock(Callback):
    """Times the batches after the first `WARM_UP`; Lightning's count of steps is one of optimizers' steps."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM_UP:
            self.start = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.end = time.perf_counter()


def lightning_example(networks: Networks, root: str, steps: int, folder: Path) -> float:
    """Train as Lightning's example: seconds of `steps` steps."""
    clock = Clock()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=WARM_UP + steps,
        logger=WithoutPictures(folder),
        default_root_dir=folder,
        callbacks=[clock],
    )
    trainer.fit(ExampleModule(*networks), ExampleData(root))
    return clock.end - clock.start


def ours(precision: list[str], networks: Networks, root: str, steps: int, folder: Path) -> float:
    """Train by `fit`: seconds of `steps` steps."""
    pictures = f"--samples.every_images={PICTURES_EVERY * BATCH_SIZE}"
    length = [f"--max_images={(WARM_UP + steps) * BATCH_SIZE}", f"--data.batch_size={BATCH_SIZE}"]
    run = Timed.run(["fit", *OPTIONS, f"--data.root={root}", *precision, *COMMON, pictures, *length, f"--run_dir={folder}/run"])
    return run.clock.seconds


WAYS: dict[str, Callable[[Networks, str, int, Path], float]] = {
    "PyTorch's DCGAN example": pytorch_example,
    "Lightning's GAN example": lightning_example,
    "`fit`, float32": partial(ours, ["--trainer.precision=32-true"]),
    "`fit`": partial(ours, []),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="where MNIST is")
    parser.add_argument("--steps", type=int, default=100, help="that are timed in a turn")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(versions(), flush=True)

    _, run = fit([*OPTIONS, f"--data.root={options.root}"], BATCH_SIZE, 1)
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(options.turns):
        for name, way in WAYS.items():
            networks = copy.deepcopy((run.model.generator, run.model.discriminator))
            for network in networks:
                network.train().to(memory_format=torch.contiguous_format)
                for module in network.modules():
                    if isinstance(module, nn.Conv2d):
                        module.__class__ = nn.Conv2d  # as the examples have it
            with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                seconds = way(networks, options.root, options.steps, Path(folder))
            rates[name].append(options.steps * BATCH_SIZE / seconds)

    columns = ["", "images/s", *(f"times {name}" for name in list(WAYS)[:2])]
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name, found in rates.items():
        ratios = [statistics.median(a / b for a, b in zip(found, rates[other], strict=True)) for other in list(WAYS)[:2]]
        print(f"| {name} | {statistics.median(found):,.0f} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    print(f"\n`fit` chose {run.config_init.fit.trainer.precision}.")


if __name__ == "__main__":
    main()
