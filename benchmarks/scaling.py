"""How the cost of training grows: with processes, batch, width, resolution and images.

Processes: DCGAN-32 of width 64 in one process on one core, and in two on one core each (`--trainer.devices 2`), with the same
batch over both, and with the same batch for each; one thread each. Beside them stand two runs of one process at the same time,
which say what two cores can do on this machine if nothing is exchanged. They take turns; an efficiency is the median of the
turns' images/s, over twice those of the one process.

Cost: milliseconds of a training step for each of its images, and the most memory that the process has had (VmHWM: all its
pages, with those of Python and torch), where one of batch, width, resolution and images differs from `BASE`. What is mapped of
the images' file is named, too: the system takes it back at will. Each is a process of its own, with all threads.

All run `fit` with the arithmetic that it chooses, on made-up images in colour, without W&B, evaluation, pictures and
checkpoints.

    uv run --group benchmarks python -m benchmarks.scaling

It writes tables to standard output, and the curves to docs/images/scaling.png, where dotted lines mark `BASE`.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pytorch_lightning import Callback

from benchmarks.step_time import COMMON, versions
from lightning_gan.cli import CLI
from lightning_gan.data import DataModule
from lightning_gan.data.cache import Source
from lightning_gan.data.decode import Preprocessing

WARM_UP, TRIAL = 5, 8
"""Steps before the first ones are timed; and before those that count are, whose number depends on the first ones."""
SECONDS = 4.0
"""About how long the steps are that count."""
FOREVER = 10**9
CORES, RANK = "BENCHMARK_CORES", "LOCAL_RANK"
BASE = {"batch": 64, "width": 32, "resolution": 32, "images": 8192}
VALUES = {
    "batch": [16, 32, 64, 128, 256, 512],
    "width": [16, 32, 64, 128],
    "resolution": [16, 32, 64, 128],
    "images": [1024, 8192, 50_000, 200_000],
}
LABELS = {
    "batch": "images in a batch",
    "width": "width of G and D, channels",
    "resolution": "resolution, px",
    "images": "images in the data set",
}


@dataclass(frozen=True)
class NoisePictures:
    number: int
    size: int

    def __len__(self) -> int:
        return self.number

    def name(self, index: int) -> str:
        return f"image {index}"

    def open(self, index: int) -> Image.Image:
        return Image.frombytes("RGB", (self.size, self.size), random.Random(index).randbytes(3 * self.size**2))

    def digest(self, memory: Path) -> str:
        return f"{self.number} of {self.size} px"


class Noise(DataModule):
    """Made-up images in colour, which pass through the cache as any others."""

    def __init__(self, rows: int = 8192, image_size: int = 32, **options: Any) -> None:
        super().__init__("noise", Preprocessing(image_size, channels=3), **options)
        self.rows = rows

    def source(self) -> Source:
        return Source(self.name, NoisePictures(self.rows, self.preprocessing.size), np.zeros(self.rows, dtype=np.bool_))


class Watched(CLI):
    """`fit` with one more callback."""

    watch: Callback

    def before_fit(self) -> None:
        self.trainer.callbacks.append(self.watch)  # type: ignore[attr-defined]  # a connector sets it
        super().before_fit()


def train(options: list[str], watch: Callback) -> None:
    """Run `fit` silently."""
    warnings.simplefilter("ignore")
    Watched.watch = watch
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        Watched.run(["fit", *COMMON, *options, f"--run_dir={folder}/run"])


def in_fresh_process(module: str, argument: object, **environment: str) -> dict[str, Any]:
    """Let `python -m module` work on an argument, and return what it writes as its last line; both are JSON.

    Raises:
        RuntimeError: it fails; the last line that it writes to standard error.
    """
    command = [sys.executable, "-m", module, json.dumps(argument)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def memory(name: str) -> float:
    """Read a line of this process' memory, in MB."""
    return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0]) * 1024 / 1e6


def mapped(file: str) -> float:
    """MB of a mapped file that are in this process' memory."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(f"/{file}")
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found * 1024 / 1e6


class Stopwatch(Callback):
    """Times as many steps as take about `SECONDS`, in all processes the same ones, and ends training after them."""

    last = 0

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step in (WARM_UP, TRIAL):
            self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        step = trainer.global_step
        if step == TRIAL:
            a_step = (time.perf_counter() - self.start) / (TRIAL - WARM_UP)
            self.last = TRIAL + trainer.strategy.broadcast(max(5, math.ceil(SECONDS / a_step)))
        elif step == self.last:
            seconds = (time.perf_counter() - self.start) / (step - TRIAL)
            self.result = {"seconds": seconds, "memory": memory("VmHWM"), "mapped": mapped("images.u8")}
            trainer.should_stop = True


def work(setting: dict[str, int]) -> None:
    """Train with a setting, and write what was found; where `CORES` is set, each process on its own of them."""
    rank = int(os.environ.get(RANK, 0))  # Lightning starts the second process, with this command
    if cores := os.environ.get(CORES):
        os.sched_setaffinity(0, {int(cores.split(",")[rank])})
    stopwatch = Stopwatch()
    networks = ["-c", "conf/model/dcgan.yaml", "--model.reuse_fakes=true"]
    networks += [f"--model.{network}.width={setting['width']}" for network in ("generator", "discriminator")]
    data = ["--data=benchmarks.scaling.Noise", f"--data.rows={setting['images']}", f"--data.image_size={setting['resolution']}"]
    processes = ["--trainer.accelerator=cpu", f"--trainer.devices={setting.get('processes', 1)}"]
    length = [f"--data.batch_size={setting['batch']}", f"--max_images={FOREVER}"]
    train([*networks, *data, *processes, *length], stopwatch)
    if rank == 0:
        print(json.dumps(stopwatch.result))


def processes(turns: int) -> None:
    """Compare one process with two."""
    batch, cores = 128, sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("This process has one core alone, and two processes need two.")
        return
    first, second, *_ = map(str, cores)

    def rate(batch: int, number: int, cores: str) -> float:
        setting = BASE | {"width": 64, "batch": batch, "processes": number}
        result = in_fresh_process("benchmarks.scaling", setting, **{CORES: cores, "OMP_NUM_THREADS": "1"})
        return batch / float(result["seconds"])

    def separately() -> float:
        with ThreadPoolExecutor(2) as pool:
            return sum(pool.map(lambda core: rate(batch, 1, core), (first, second)))

    both = f"{first},{second}"
    ways = {
        f"1 process, batch {batch}": lambda: rate(batch, 1, first),
        f"2 processes, batch {batch} over both": lambda: rate(batch, 2, both),
        f"2 processes, batch {batch} each": lambda: rate(2 * batch, 2, both),
        f"2 runs at the same time, batch {batch} each": separately,
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            rates[name].append(way())
    one, *others = rates
    print("| | images/s | efficiency |\n|---|---|---|")
    print(f"| {one} | {statistics.median(rates[one]):,.0f} | 1 |")
    for name in others:
        efficiency = statistics.median(b / a / 2 for a, b in zip(rates[one], rates[name], strict=True))
        print(f"| {name} | {statistics.median(rates[name]):,.0f} | {efficiency:.2f} |", flush=True)


def cost() -> dict[str, dict[int, dict[str, float]]]:
    """Measure at each of `VALUES`: milliseconds an image, and MB of memory."""
    base = in_fresh_process("benchmarks.scaling", BASE)
    print("\n| | | ms an image | most memory, MB | mapped of the images, MB |\n|---|---|---|---|---|")
    found: dict[str, dict[int, dict[str, float]]] = {}
    for name, values in VALUES.items():
        found[name] = {}
        for value in values:
            setting = BASE | {name: value}
            at = dict(base) if setting == BASE else in_fresh_process("benchmarks.scaling", setting)
            at["ms"] = 1000 * at["seconds"] / setting["batch"]
            found[name][value] = at
            print(f"| {LABELS[name]} | {value:,} | {at['ms']:.3f} | {at['memory']:,.0f} | {at['mapped']:,.0f} |", flush=True)
    return found


def draw(found: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    import matplotlib.pyplot as plt  # not in the processes whose memory is measured

    plt.rcParams["font.size"] = 12
    figure, rows = plt.subplots(2, len(found), figsize=(13, 6), sharex="col", sharey="row")
    for column, (name, points) in zip(rows.T, found.items(), strict=True):
        values = list(points)
        upper, lower = column
        upper.plot(values, [at["ms"] for at in points.values()], "o-", color="#4c72b0")
        lower.plot(values, [at["memory"] for at in points.values()], "o-", color="#c44e52", label="all")
        without = [at["memory"] - at["mapped"] for at in points.values()]
        lower.plot(values, without, "o:", color="#c44e52", mfc="white", label="without the images' file")
        upper.set_xscale("log", base=2)
        upper.set_yscale("log", base=2)
        lower.set_xticks(values, labels=[f"{value // 1000}k" if value >= 1000 else str(value) for value in values])
        lower.set_xlabel(LABELS[name])
        for axes in column:
            axes.minorticks_off()
            axes.grid(alpha=0.3)
            axes.axvline(BASE[name], color="#888888", lw=1, ls=":")
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
    rows[0, 0].yaxis.set_major_formatter(lambda ms, _: f"{ms:g}")
    rows[0, 0].set_ylabel("ms an image")
    rows[1, 0].set_ylabel("most memory, MB")
    rows[1, 0].set_ylim(bottom=0)
    rows[1, -1].legend(frameon=False, fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", nargs="?", type=json.loads, help=argparse.SUPPRESS)  # what a process is started with
    parser.add_argument("--turns", type=int, default=3, help="of one process and two")
    parser.add_argument("--only", choices=["processes", "cost"])
    parser.add_argument("--picture", type=Path, default=Path("docs/images/scaling.png"))
    options = parser.parse_args()
    if options.setting:
        work(options.setting)
        return
    print(versions() + "\n", flush=True)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["LIGHTNING_GAN_CACHE"] = cache
        if options.only != "cost":
            processes(options.turns)
        if options.only != "processes":
            draw(cost(), options.picture)


if __name__ == "__main__":
    main()
