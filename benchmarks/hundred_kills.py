"""Kill runs of all named recipes a hundred times with SIGKILL, go on with them, and compare them with runs that never were.

Each recipe of `conf/` is trained for 48 steps on enlarged digits, with slim networks: once undisturbed, and then with kills in
a row, half of them at any moment and half at chosen places, such as between two files that belong together. After each kill the
run is gone on with, by `fit --resume`, until it is complete. Weights, optimizers, averages, progress, scores, the best
checkpoint, pictures and `metrics.csv` must be those of the undisturbed run, bit for bit. At last, two processes that Lightning
starts itself are killed together, and what is left of them is gone on with by two and by one.

    OMP_NUM_THREADS=1 uv run python -m benchmarks.hundred_kills

It prints a table in Markdown, and a line for each run on standard error; its exit status is 1 if there are differences.
"""

import argparse
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytorch_lightning
import torch

from lightning_gan.run_folder import CONFIG, DONE
from tests.killing import PHASES, PLACES, RUN, Kill, Place, differences, go_through, start
from tests.test_conf import CONF, RUNS

SMALL = """
    --data Digits --data.held_out 0.8 --data.batch_size 16 --max_images 768 --checkpoint.every_images 160
    --evaluation.every_images 272 --samples.every_images 240 --samples.rows 1 --samples.columns 2 --trainer.log_every_n_steps 3
    --evaluation.num_samples 32 --evaluation.extractor Random --trainer.accelerator cpu --trainer.enable_progress_bar false
    --wandb off
"""
SIZES = {"digits": 16, "digits32": 32, "mnist": 28, "mnist32": 32, "celeba64": 64, "folder": 64}


def command(name: str) -> list[str]:
    """Fit a named run on digits of its own image size, with slim networks."""
    size = SIZES[name.removesuffix(".yaml").split("-")[0]]
    if "r3gan" in name:
        slim = {"channels": [16] * (5 if size == 64 else 3), "blocks": 1}
        networks = {"generator": slim, "discriminator": slim}
    elif "sngan" in name:
        networks = {"generator": {"width": 4}, "discriminator": {"width": 4}}
    elif "stylegan2" in name:
        slim = {"channel_base": 256}
        networks = {"generator": slim | {"latent_dim": 16, "style_dim": 16}, "discriminator": slim}
    elif any(kind in name for kind in ("mlp", "lsgan", "pooling")):
        networks = {"generator": {"hidden": [32, 32]}}
    else:
        networks = {"generator": {"channels": [16] * (3 if size == 64 else 2)}, "discriminator": {"channels": [16, 16]}}
    options = [f"--model.{network}.{key}={value}" for network, values in networks.items() for key, value in values.items()]
    return ["fit", "-c", str(CONF / name), *SMALL.split(), f"--run_dir={RUN}", f"--data.image_size={size}", *options]


def kill_all(names: list[str], kills: int, rng: random.Random, folder: Path) -> tuple[list[str], int]:
    """Kill each recipe's runs so often that it makes so many kills in all.

    Returns:
        The rows of the table, and the number of differences.
    """
    rows, unequal, places = [], 0, cycle(rng.sample(PLACES, len(PLACES)))
    everywhere: Counter[str] = Counter()
    for i, name in enumerate(names):
        mine = folder / Path(name).stem
        (mine / "whole").mkdir(parents=True)
        known = start(command(name), mine / "whole")
        wanted = kills * (i + 1) // len(names) - kills * i // len(names)
        phases: Counter[str] = Counter()
        found: list[str] = []
        for run in range(100):
            if phases.total() == wanted:
                break
            plan = [planned(known.times, known.seconds, places, rng) for _ in range(wanted - phases.total())]
            fallen = go_through(command(name), mine / str(run), plan)
            phases.update(phase for _, phase in fallen)
            different = differences(mine / "whole" / RUN, mine / str(run) / RUN)
            found += different
            told = ", ".join(f"{kill} ({phase})" for kill, phase in fallen) or "not killed"
            print(f"{name}: {told}: {different or 'equal'}", file=sys.stderr, flush=True)
        rows.append(row(Path(name).stem, phases, len(found)))
        everywhere += phases
        unequal += len(found)
    return [*rows, row("**all**", everywhere, unequal)], unequal


def planned(times: list[int], seconds: float, places: Iterator[Place], rng: random.Random) -> Kill:
    """Choose a moment, or the next place and one of the times that the undisturbed run came to it."""
    if rng.random() < 0.5:
        return Kill(seconds=rng.uniform(0, seconds))
    place = next(places)
    return Kill(place=place, n=rng.randint(1, max(1, times[PLACES.index(place)])))


def row(name: str, phases: Counter[str], different: int) -> str:
    cells = [name, phases.total(), *(phases[phase] for phase in PHASES), different]
    return f"| {' | '.join(map(str, cells))} |"


def together(kills: int, rng: random.Random, folder: Path) -> tuple[list[str], int]:
    """Kill two processes, which Lightning starts as a user does, together.

    Returns:
        What happened, and the number of differences.
    """
    two = [*command("digits-dcgan.yaml"), "--trainer.devices=2", "--max_images=6_000"]  # long beside the time to start
    whole, killed, alone = (folder / name for name in ("whole", "killed", "alone"))
    for place in (whole, killed, alone):
        place.mkdir(parents=True)
    began = time.monotonic()
    launch(two, whole)
    seconds = time.monotonic() - began
    times = 0
    while not (killed / RUN / DONE).exists():
        moment = rng.uniform(seconds / 2, seconds) if times < kills else None  # before that nothing is saved
        times += launch(["fit", "--resume", RUN] if (killed / RUN / CONFIG).exists() else two, killed, moment)
        if (killed / RUN / "checkpoints" / "last.ckpt").exists() and not (alone / RUN).exists():
            shutil.copytree(killed / RUN, alone / RUN)
    found = differences(whole / RUN, killed / RUN)
    launch(["fit", "--resume", RUN, "--trainer.devices=1"], alone)
    said = [line for line in (alone / "log").read_text().splitlines() if line.startswith("resumed")]
    lines = [
        f"Two processes, killed together {times} times and gone on with by two: {len(found)} differences.",
        *found,
        f"What one of them had left, gone on with by one process: `{said[0]}`.",
    ]
    return lines, len(found)


def launch(arguments: list[str], folder: Path, moment: float | None = None) -> bool:
    """Run the command line as a user does, and kill all its processes after some seconds. Returns whether it came to that."""
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lightning_gan", *arguments], cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
        try:
            code = process.wait(moment or 600)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if moment is None:
                raise
            return True
    if code:
        raise SystemExit(f"{folder}: exit status {code}\n{(folder / 'log').read_text()[-3000:]}")
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of the recipes' runs")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and places")
    parser.add_argument("--recipes", nargs="*", default=RUNS, metavar="NAME.yaml")
    parser.add_argument("--folder", help="where to train; by default a temporary folder")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary).resolve()
        os.environ["LIGHTNING_GAN_CACHE"] = str(folder / "cache")
        rows, unequal = kill_all(options.recipes, options.kills, rng, folder)
        lines, unequal_together = together(3, rng, folder / "two processes")
    versions = (
        f"Python {platform.python_version()}, torch {torch.__version__}, pytorch-lightning {pytorch_lightning.__version__}"
    )
    print(f"{versions}; {(time.monotonic() - began) / 60:.0f} minutes, seed {options.seed}\n")
    print(f"| recipe | kills | {' | '.join(f'in: {phase}' for phase in PHASES)} | differences |")
    print("|" + "---|" * (len(PHASES) + 3))
    print("\n".join([*rows, "", *lines]))
    return int(unequal + unequal_together > 0)


if __name__ == "__main__":
    sys.exit(main())
