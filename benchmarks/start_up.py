"""Seconds that commands take to answer, beside the bare imports that they cannot do without.

Each is a process of its own, from its start to its end; for `fit`, to the first training step of the default run on the
digits, whose pictures and reference are cached by then. All take turns, and the least of several counts: whatever else the
machine does only adds to it. A first turn, which is not counted, writes bytecode and brings files into memory. What commands
cannot do without is Python, torch where they compute, and pytorch_lightning where they have the trainer's options: its import
brings torchmetrics, and that torchvision, scipy and torch's compiler.

    OMP_NUM_THREADS=1 uv run python -m benchmarks.start_up
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

MAIN = ["-m", "lightning_gan"]
TO_FIRST_STEP = """
import os, sys
from lightning_gan.__main__ import main
from lightning_gan.gan import GAN
GAN.training_step = lambda *_: os._exit(0)
sys.exit(main(sys.argv[1:]) or 1)
"""
CKPT = ["--ckpt_path", "run/checkpoints/last.ckpt"]
FIT = ["fit", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
ROWS = {  # what is run, and with which exit status it ends
    "`python -c pass`": (["-c", "pass"], 0),
    "`import torch`": (["-c", "import torch"], 0),
    "`import pytorch_lightning`": (["-c", "import pytorch_lightning"], 0),
    "`--help`": ([*MAIN, "--help"], 0),
    "a command that is not there": ([*MAIN, "train"], 2),
    "`fit -c missing.yaml`": ([*MAIN, "fit", "-c", "missing.yaml"], 2),
    "`fit -c broken.yaml`": ([*MAIN, "fit", "-c", "broken.yaml"], 2),
    "`fit --resume missing`": ([*MAIN, "fit", "--resume", "missing"], 2),
    "`evaluate --samples missing.npz`": ([*MAIN, "evaluate", "--samples", "missing.npz"], 2),
    "`sample --help`": ([*MAIN, "sample", "--help"], 0),
    "`sample --nmu 3`": ([*MAIN, "sample", "--nmu", "3"], 2),
    "`sample --ckpt_path missing.ckpt`": ([*MAIN, "sample", "--ckpt_path", "missing.ckpt"], 2),
    "`interpolate --ckpt_path missing.ckpt`": ([*MAIN, "interpolate", "--ckpt_path", "missing.ckpt"], 2),
    "`sample` of a checkpoint, 64 images": ([*MAIN, "sample", *CKPT, "--output", "out.npz"], 0),
    "`interpolate` of a checkpoint": ([*MAIN, "interpolate", *CKPT, "--output", "out.png"], 0),
    "`fit --help`": ([*MAIN, "fit", "--help"], 0),
    "`fit --foo 3`": ([*MAIN, "fit", "--foo", "3"], 2),
    "`evaluate --foo 3`": ([*MAIN, "evaluate", "--foo", "3"], 2),
    "`fit`, to the first step, W&B off": (["-c", TO_FIRST_STEP, *FIT, "--wandb", "off"], 0),
    "`fit`, to the first step, W&B offline": (["-c", TO_FIRST_STEP, *FIT, "--wandb", "offline"], 0),
}


def seconds(args: list[str], status: int, folder: Path) -> float:
    for name in ("out.npz", "out.png"):
        (folder / name).unlink(missing_ok=True)
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *args], cwd=folder, capture_output=True, text=True)
    taken = time.perf_counter() - started
    if done.returncode != status:
        raise RuntimeError(f"{args} ended with status {done.returncode}:\n{done.stderr}")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    taken: dict[str, list[float]] = {name: [] for name in ROWS}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["LIGHTNING_GAN_CACHE"] = str(folder / "cache")
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
        (folder / "broken.yaml").write_text("model: {")
        seconds([*MAIN, *FIT, "--wandb", "off", "--max_images", "128", "--run_dir", "run"], 0, folder)
        for _ in range(options.turns + 1):
            for name, (args, status) in ROWS.items():
                taken[name].append(seconds(args, status, folder))
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "pytorch-lightning", "jsonargparse", "wandb"))
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores, {threads} threads, ", end="")
    print(f"Python {platform.python_version()}, {versions}\n")
    print("| | seconds, least | median |\n|---|---|---|")
    for name, (_, *each) in taken.items():  # the first turn does not count
        print(f"| {name} | {min(each):.2f} | {sorted(each)[len(each) // 2]:.2f} |")


if __name__ == "__main__":
    main()
