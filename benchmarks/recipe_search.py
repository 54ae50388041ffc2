"""Which values of a sweep give the best generator after so many seconds of training: its trials, drawn and run without W&B.

A trial is a `fit` of the sweep's command with values drawn for its parameters, as W&B's random search draws them. It is
scored when its training, without start-up and scoring, has taken the seconds of each mark, and is stopped there if it is worse
than the median of the trials so far. Seconds are those of CPU time in one thread, so that what else runs on the machine counts
for little. One line for each mark is added to the log.

    OMP_NUM_THREADS=1 uv run --group benchmarks python -m benchmarks.recipe_search --root FOLDER --trials 50
"""

import argparse
import csv
import math
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.time_to_quality import SCORE, Marks, train
from lightning_gan.errors import UserError
from lightning_gan.sweep_file import Sweep

COLUMNS = ["trial", "options", "seed", "mark", "images", SCORE]
ENOUGH = 4
"""Trials in the log before others are measured by them."""


class Log:
    """What all trials gave: one row for each trial and mark, in a file that is added to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="") as file:
                self.rows = list(csv.DictReader(file))

    @property
    def trials(self) -> int:
        return max((int(row["trial"]) + 1 for row in self.rows), default=0)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            writer.writerow(row)

    def median(self, mark: float) -> float:
        """The median of all trials at a mark, in which a trial that did not get there counts as bad."""
        last = {int(row["trial"]): row for row in self.rows}  # of each trial
        values = [float(row[SCORE]) for row in self.rows if float(row["mark"]) == mark]
        values += [math.inf for row in last.values() if float(row["mark"]) < mark]
        return statistics.median_low(values) if len(values) >= ENOUGH else math.inf


def run(options: list[str], seed: int, marks: list[float], log: Log) -> None:
    """Run one trial. One that diverges has an infinite score at its next mark."""
    row = {"trial": log.trials, "options": " ".join(options), "seed": seed}
    left = sorted(marks)

    def note(seconds: float, gan: Any, trainer: Any) -> bool:
        mark, score = left.pop(0), trainer.callback_metrics[SCORE].item()
        behind = score > log.median(mark)
        log.add(row | {"mark": mark, "images": gan.images_seen, SCORE: f"{score:.5g}"})
        line = f"{row['trial']:3} {mark:5.0f} s {gan.images_seen:9,} images {score:8.4f}  {row['options']}"
        print(line, file=sys.__stdout__, flush=True)  # training is silent
        return behind

    try:
        train([*options, f"--seed_everything={seed}"], Marks(marks, note, time.process_time))
    except UserError as error:
        print(error, flush=True)
        log.add(row | {"mark": left[0], "images": 0, SCORE: math.inf})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="where MNIST is")
    parser.add_argument("--sweep", type=Path, default=Path("sweeps/mnist-recipe.yaml"))
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the training of each trial")
    parser.add_argument("--marks", type=float, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--log", type=Path, default=Path("recipe_search.csv"))
    options, others = parser.parse_known_args()
    warnings.simplefilter("ignore")
    sweep, first = Sweep(options.sweep), Log(options.log).trials
    for number in range(first, first + options.trials):
        values = sweep.propose(number)
        if values is None:  # a grid's last one was the one before
            break
        for seed in options.seeds:
            run([*sweep.options(values), f"--data.root={options.root}", *others], seed, options.marks, Log(options.log))


if __name__ == "__main__":
    main()
