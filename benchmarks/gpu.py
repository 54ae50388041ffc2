"""What one NVIDIA GPU makes of `fit`: DCGAN, SNGAN and R3GAN at 64x64, StyleGAN2 at 128x128.

Each row adds one thing to the row above: bfloat16, channels last, compiled code, CUDA graphs. The quickest then has its images
in memory instead of on the GPU (`--data.device_bytes 0`), from where each batch is sent. Each is a process of its own, several
times in turn; medians are given. What fails says why.

- *images/s* of the training step, Lightning and all, by a clock that waits for the device at both ends. W&B, evaluation,
  pictures and checkpoints are left out. Steps are whole cycles: of D's steps for one of G's, and of lazy penalties.
- *TFLOP/s*: floating-point operations of matrix products and convolutions, counted by torch in a cycle of the first row and
  over the row's own time. *Of matmul's*: over the rate measured for a large matrix product in the row's type. torch computes
  float32's convolutions in TF32 where there is that, so its product is measured so, too. Penalties are in float32 always.
- *Idle*: 1 - the time in which any kernel runs (the union of the profiler's intervals), over the time of as many steps without
  the profiler, which slows the host down but not the kernels. Less than 3 % is asked for.

    uv run python -m benchmarks.gpu

`--device cpu --quick` goes the same way with tiny networks, to see that it can be gone; nothing it prints means anything.
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.roofline import busy_seconds, flop_counter, matmul_rate, wait
from benchmarks.scaling import in_fresh_process, train
from benchmarks.step_time import versions

WARM_UP, PROFILED = 20, 10
"""Steps at least, in whole cycles."""
MATRIX = 8192


class Setup(NamedTuple):
    """What is trained.

    Attributes:
        options: of `fit`.
        size: of the images, in pixels.
        batch_size: images in a step.
        cycle: steps after which training does the same again.
        steps: how many are timed in a turn, in whole cycles.
        quick: further options, which make it tiny.
    """

    options: list[str]
    size: int
    batch_size: int
    cycle: int
    steps: int
    quick: str


SMALL_STYLES = "--model.generator.latent_dim=16 --model.generator.style_dim=16 --model.generator.mapping_layers=2 "
SETUPS = {
    "DCGAN-64": Setup(
        ["-c", "conf/model/dcgan.yaml", "--model.reuse_fakes=true"],
        64,
        128,
        1,
        500,
        "--model.generator.width=8 --model.discriminator.width=8",
    ),
    "SNGAN-64": Setup(
        ["-c", "conf/celeba64-sngan.yaml"], 64, 64, 5, 500, "--model.generator.width=4 --model.discriminator.width=4"
    ),
    "StyleGAN2-128": Setup(
        ["-c", "conf/celeba64-stylegan2.yaml", "--model.penalties.r1.weight=0.1"],
        128,
        32,
        16,
        160,
        SMALL_STYLES + "--model.generator.channel_base=256 --model.discriminator.channel_base=256",
    ),
    "R3GAN-64": Setup(
        ["-c", "conf/celeba64-r3gan.yaml"], 64, 256, 1, 40, "--model.generator.width=32 --model.discriminator.width=32"
    ),
}
BFLOAT16 = "--trainer.precision=bf16-mixed"
CHANNELS_LAST = [BFLOAT16, "--acceleration.channels_last=true"]
ROWS = {
    "float32": ["--trainer.precision=32-true", "--acceleration.channels_last=false"],
    "bfloat16": [BFLOAT16, "--acceleration.channels_last=false"],
    "+ channels last": CHANNELS_LAST,
    "+ compile": [*CHANNELS_LAST, "--acceleration.compile=default"],
    "+ graphs": [*CHANNELS_LAST, "--acceleration.compile=reduce-overhead"],
}


class Phases(Callback):
    """Times steps after others that are not; then profiles some, and counts the operations of a cycle.

    Args:
        cycle: steps after which training does the same again.
        steps: how many are timed.
        count: whether to count operations, which those of compiled code escape.
        device: where it trains.
    """

    def __init__(self, cycle: int, steps: int, count: bool, device: torch.device) -> None:
        self.device = device
        self.timed = cycle * math.ceil(WARM_UP / cycle)
        self.profiled = self.timed + steps
        self.counted = self.profiled + cycle * math.ceil(PROFILED / cycle)
        self.last = self.counted + cycle * count
        on_gpu = device.type == "cuda"
        self.profiler = profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU])
        self.category = "kernel" if on_gpu else "cpu_op"
        self.counter: FlopCounterMode = flop_counter()
        self.result: dict[str, float] = {}

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        step = trainer.global_step
        if step == self.timed:
            wait(self.device)
            self.start = time.perf_counter()
        elif step == self.profiled:
            self.profiler.start()
        elif step == self.counted:
            self.counter.__enter__()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        step = trainer.global_step
        if step == self.profiled:
            wait(self.device)
            self.result["seconds"] = (time.perf_counter() - self.start) / (step - self.timed)
        elif step == self.counted:
            wait(self.device)
            self.profiler.stop()
            with tempfile.TemporaryDirectory() as folder:
                trace = Path(folder, "trace.json")
                self.profiler.export_chrome_trace(str(trace))
                self.result["busy"] = busy_seconds(trace, self.category) / (step - self.profiled)
        elif step == self.last:
            self.counter.__exit__(None, None, None)
            self.result["operations"] = self.counter.get_total_flops() / (step - self.counted)


def work(row: dict[str, Any]) -> None:
    """Train as a row says, and write what was found, or the first line of what went wrong."""
    setup = Setup(*row["setup"])
    on_gpu = row["device"] == "cuda"
    eager = not any("acceleration.compile" in option for option in row["options"])
    phases = Phases(setup.cycle, setup.steps, eager, torch.device(row["device"]))
    data = ["--data=benchmarks.scaling.Noise", f"--data.image_size={setup.size}", f"--data.batch_size={setup.batch_size}"]
    device = [f"--trainer.accelerator={'gpu' if on_gpu else 'cpu'}", f"--max_images={phases.last * setup.batch_size}"]
    try:
        train([*setup.options, *data, *device, *row["options"]], phases)
        result: dict[str, Any] = phases.result
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
    print(json.dumps(result))


def measure(setup: Setup, options: list[str], device: str) -> dict[str, Any]:
    row = {"setup": setup, "options": options, "device": device}
    try:
        return in_fresh_process("benchmarks.gpu", row)
    except RuntimeError as error:  # it was killed, or a fault of the GPU's ended it
        return {"error": str(error)}


def small(setup: Setup) -> Setup:
    return setup._replace(options=[*setup.options, *setup.quick.split()], size=16, batch_size=8, steps=2 * setup.cycle)


def median(turns: list[dict[str, Any]]) -> dict[str, Any]:
    for turn in turns:
        if "error" in turn:
            return turn
    return {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}


def report(name: str, setup: Setup, device: str, rates: dict[str, float], turns: int) -> None:
    """Measure a setup's rows, and print them."""
    found: dict[str, list[dict[str, Any]]] = {row: [] for row in ROWS}
    for _ in range(turns):
        for row, options in ROWS.items():
            found[row].append(measure(setup, options, device))
    results = {row: median(of_row) for row, of_row in found.items()}
    if not (complete := [row for row in results if "error" not in results[row]]):
        print(f"| {name} | all fail: {results['float32']['error']} | | | | | |", flush=True)
        return
    quickest = min(complete, key=lambda row: results[row]["seconds"])
    in_memory = [measure(setup, [*ROWS[quickest], "--data.device_bytes=0"], device) for _ in range(turns)]
    results[f"{quickest}, images in memory"] = median(in_memory)
    first = results["float32"]
    for row, at in results.items():
        if "error" in at:
            print(f"| {name} | {row} | failed: {at['error']} | | | | |", flush=True)
            continue
        times = f"{first['seconds'] / at['seconds']:.2f}" if "seconds" in first else ""
        arithmetic = " | "
        if "operations" in first:
            rate = first["operations"] / at["seconds"]
            arithmetic = f"{rate / 1e12:,.1f} | {rate / rates['float32' if row.startswith('float32') else 'bfloat16']:.1%}"
        idle = 1 - at["busy"] / at["seconds"]
        print(f"| {name} | {row} | {setup.batch_size / at['seconds']:,.0f} | {times} | {arithmetic} | {idle:.1%} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="?", type=json.loads, help=argparse.SUPPRESS)  # what a process is started with
    parser.add_argument("--only", default="", help="the setups with this in their name")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny networks, one turn")
    options = parser.parse_args()
    if options.row:
        work(options.row)
        return
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("There is no NVIDIA GPU here that torch can use, so there is nothing to measure.")
        return
    print(versions() + (f", {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}" if device.type == "cuda" else ""))
    n = 256 if options.quick else MATRIX
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    rates = {name: matmul_rate(dtype, device, n) for name, dtype in types.items()}
    print("Matrix products: " + ", ".join(f"{rate / 1e12:,.1f} TFLOP/s in {name}" for name, rate in rates.items()) + ".\n")
    print("| | | images/s | times float32's | TFLOP/s | of matmul's | idle |\n|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["LIGHTNING_GAN_CACHE"] = cache
        for name, setup in SETUPS.items():
            if options.only in name:
                chosen = small(setup) if options.quick else setup
                report(name, chosen, options.device, rates, 1 if options.quick else options.turns)


if __name__ == "__main__":
    main()
