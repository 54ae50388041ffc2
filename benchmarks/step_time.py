"""How much of a hand-written loop's speed `fit` has.

Both train the same networks on the same images, in the same batches, precision and memory layout, with the same losses and
optimizers, and with one pass of G a step:

- *plain* is the quickest loop that we can write without Lightning: the images are a tensor in memory, the optimizers are fused,
  nothing is logged, checked, averaged or saved.
- *fit* is the command with all that a run does at its steps: Lightning, the average of G, the health check, rows of
  metrics.csv, the progress bar (which without a terminal is seldom drawn), draws that can be repeated. W&B, evaluation and
  checkpoints, which come seldom, are left out.

They take turns, several times; a ratio is the median of the turns'.

    uv run python -m benchmarks.step_time --root FOLDER [--only mlp]
"""

import argparse
import copy
import platform
import statistics
import subprocess
import tempfile
import time
import warnings
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning
import torch
import torch.nn.functional as F
from PIL import Image
from pytorch_lightning import Callback
from torch import Tensor, nn

from lightning_gan.cli import CLI

WARM_UP = 20
"""Steps before the clock is started."""
COMMON = [
    "--trainer.accelerator=cpu",
    "--wandb=off",
    "--evaluation.num_samples=0",
    "--checkpoint.every_images=0",
    "--samples.every_images=0",
    "--walks.rows=0",
]


class Clock(Callback):
    """Notes how long the steps after the first `WARM_UP` take."""

    seconds = 0.0

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == WARM_UP:
            self.seconds = -time.perf_counter()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == trainer.max_steps:
            self.seconds += time.perf_counter()


class Timed(CLI):
    """`fit` with a clock."""

    def before_fit(self) -> None:
        self.clock = Clock()
        self.trainer.callbacks.append(self.clock)
        super().before_fit()


class Setup(NamedTuple):
    """What is trained.

    Attributes:
        options: of `fit`.
        batch_size: images in a step.
        steps: how many are timed in a turn.
        target: what is asked for.
    """

    options: list[str]
    batch_size: int
    steps: int
    target: str


def setups(root: str, folder: Path) -> dict[str, Setup]:
    """Name the setups.

    Args:
        root: where MNIST is.
        folder: an empty one, for made-up pictures.
    """
    rng = np.random.default_rng(0)
    for number in range(1024):
        Image.fromarray(rng.integers(256, size=(64, 64, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    dcgan = ["-c", "conf/model/dcgan.yaml", "--model.reuse_fakes=true"]
    small = (
        "--model.generator.hidden=[64] --model.generator.latent_dim=32 --model.discriminator.hidden=[64] "
        "--model.discriminator.dropout=0 --trainer.precision=32-true"
    )
    return {
        "DCGAN-32": Setup(["-c", "conf/data/mnist32.yaml", f"--data.root={root}", *dcgan], 128, 60, "at least 0.97"),
        "DCGAN-64": Setup(["-c", "conf/data/folder64.yaml", f"--data.root={folder}", *dcgan], 128, 50, "at least 0.97"),
        "tiny MLP": Setup(
            ["-c", "conf/data/digits.yaml", "-c", "conf/model/mlp.yaml", "--model.reuse_fakes=true", *small.split()],
            64,
            2000,
            "at most 0.45 ms more",
        ),
    }


def fit(options: list[str], batch_size: int, steps: int) -> tuple[float, Timed]:
    """Train by the command line, silently: seconds of `steps` steps, and what was trained."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        length = ["--max_images", str((WARM_UP + steps) * batch_size)]
        run = Timed.run(["fit", *options, *COMMON, *length, "--data.batch_size", str(batch_size), "--run_dir", f"{folder}/run"])
    return run.clock.seconds, run


def plain(g: nn.Module, d: nn.Module, images: Tensor, batch_size: int, mixed: bool, steps: int) -> float:
    """Train by hand: seconds of `steps` steps."""
    layout = torch.channels_last if mixed else torch.contiguous_format
    g, d = (copy.deepcopy(network).train().to(memory_format=layout) for network in (g, d))
    images = images.contiguous(memory_format=layout)
    g_optimizer, d_optimizer = (torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999), fused=True) for network in (g, d))
    autocast = partial(torch.autocast, "cpu", torch.bfloat16) if mixed else nullcontext
    parameters_of_d = list(d.parameters())
    batches, seconds = len(images) // batch_size, 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            seconds = -time.perf_counter()
        if step % batches == 0:
            order = torch.randperm(len(images)).split(batch_size)
        real = images.index_select(0, order[step % batches]).float().mul_(2 / 255).sub_(1)
        z = torch.randn(batch_size, g.latent_dim)

        with autocast():
            fake = g(z)
            d_loss = F.softplus(-d(real).float()).mean() + F.softplus(d(fake.detach()).float()).mean()
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()

        for parameter in parameters_of_d:
            parameter.requires_grad = False
        with autocast():
            g_loss = F.softplus(-d(fake).float()).mean()
        g_optimizer.zero_grad()
        g_loss.backward()
        g_optimizer.step()
        for parameter in parameters_of_d:
            parameter.requires_grad = True
    return seconds + time.perf_counter()


def compare(setup: Setup, turns: int) -> tuple[list[float], list[float]]:
    """Let both ways take turns: seconds a step of each."""
    _, run = fit(setup.options, setup.batch_size, WARM_UP)
    networks = run.model.generator, run.model.discriminator
    images, _ = run.datamodule.images("train")
    mixed = "bf16" in str(run.trainer.precision)
    ours, theirs = [], []
    for turn in range(turns):
        for first in (turn % 2 == 0, turn % 2 == 1):  # each is the first in every other turn
            if first:
                ours.append(fit(setup.options, setup.batch_size, setup.steps)[0] / setup.steps)
            else:
                theirs.append(plain(*networks, images, setup.batch_size, mixed, setup.steps) / setup.steps)
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="where MNIST is")
    parser.add_argument("--only", default="", help="the setup with this in its name")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(versions() + "\n")
    print("| | plain, ms a step | `fit`, ms a step | ms more | plain, images/s | `fit`, images/s | share of plain's | asked |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, setup in setups(options.root, Path(folder)).items():
            if options.only not in name:
                continue
            ours, theirs = compare(setup, options.turns)
            share = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
            more = 1000 * statistics.median(a - b for a, b in zip(ours, theirs, strict=True))
            a, b = statistics.median(ours), statistics.median(theirs)
            rates = f"{setup.batch_size / b:,.0f} | {setup.batch_size / a:,.0f}"
            print(
                f"| {name} | {1000 * b:.2f} | {1000 * a:.2f} | {more:.2f} | {rates} | {share:.3f} | {setup.target} |",
                flush=True,
            )


def versions() -> str:
    """Say what ran, and on what."""
    facts = torch.cpu.get_capabilities()
    bfloat16 = "with" if facts.get("avx512_bf16") or facts.get("amx_bf16") else "without"
    hardware = f"{facts.get('num_physical_cores')} cores of {facts.get('cpu_name', platform.processor())} {bfloat16} bfloat16"
    software = (
        f"Python {platform.python_version()}, torch {torch.__version__}, pytorch-lightning {pytorch_lightning.__version__}"
    )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return f"{hardware}, {torch.get_num_threads()} thread(s), {software}, commit {commit}"


if __name__ == "__main__":
    main()
