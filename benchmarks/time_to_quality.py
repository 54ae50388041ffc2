"""How long training takes to reach a quality: `conf/mnist.yaml` beside the DCGAN of tutorials, on real MNIST.

Quality is `fid_classifier` of 10,000 images against the training set (`fit`'s own scores), at marks of training time; start-up
and the scoring itself are not counted. The plain one is `plain-dcgan.yaml`, trained by the same `fit`, which is as fast as a
hand-written loop (`step_time`): the difference is the recipe, its arithmetic and its networks. It has one seed and as many
minutes as it is given; `conf/mnist.yaml` is run to its end with several seeds, each of which is asked when it was first as good
as the plain one at its best, and how much longer that one had taken to get there.

    uv run --group benchmarks python -m benchmarks.time_to_quality --root FOLDER

It writes a table to standard output, and the curves to time_to_quality.csv and time-to-quality.png.
"""

import argparse
import csv
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from pytorch_lightning import Callback

from benchmarks.step_time import versions
from lightning_gan.callbacks import Evaluation
from lightning_gan.cli import CLI

SCORE = "fid_classifier"
PLAIN, OURS = "plain DCGAN", "conf/mnist.yaml"


class Point(NamedTuple):
    run: str
    seed: int
    seconds: float
    images: int
    score: float


class Marks(Callback):
    """Scores the averaged generator at marks of training time, and stops after the last.

    Args:
        marks: seconds of training.
        note: told of the seconds and of the training's `GAN` and `Trainer` at each of them; true = stop here.
        clock: seconds since whenever.
    """

    def __init__(
        self, marks: list[float], note: Callable[[float, Any, Any], bool], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.marks, self.note, self.clock = sorted(marks), note, clock
        self.seconds = 0.0

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if self.seconds == 0:
            self.started = self.clock()

    def on_train_batch_end(self, trainer: Any, gan: Any, *_: Any) -> None:
        self.seconds = self.clock() - self.started
        last = trainer.global_step == trainer.max_steps
        if self.marks and (last or self.seconds >= self.marks[0]):
            (evaluation,) = (callback for callback in trainer.callbacks if isinstance(callback, Evaluation))
            evaluation.act(trainer, gan)
            self.marks = [mark for mark in self.marks if mark > self.seconds]
            trainer.should_stop = self.note(self.seconds, gan, trainer) or not self.marks
            self.started = self.clock() - self.seconds  # scoring has taken no training time


class Marked(CLI):
    """`fit` that is scored at marks."""

    marks: Marks

    def before_fit(self) -> None:
        self.trainer.callbacks.append(self.marks)
        super().before_fit()


def train(options: list[str], marks: Marks) -> None:
    """Run `fit` silently, with scores at `marks` alone."""
    quiet = ["--trainer.accelerator=cpu", "--wandb=off", "--trainer.enable_progress_bar=false"]
    quiet += ["--samples.every_images=0", "--walks.rows=0", "--checkpoint.every_images=0"]
    scored = ["--evaluation.every_images=0", "--evaluation.num_samples=10000"]
    Marked.marks = marks
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        Marked.run(["fit", *options, *quiet, *scored, f"--run_dir={folder}/run"])


def curve(run: str, seed: int, options: list[str], marks: list[float]) -> list[Point]:
    points: list[Point] = []

    def note(seconds: float, gan: Any, trainer: Any) -> bool:
        points.append(Point(run, seed, seconds, gan.images_seen, trainer.callback_metrics[SCORE].item()))
        return False

    train([*options, f"--seed_everything={seed}"], Marks(marks, note))
    return points


def first_at(points: list[Point], level: float) -> float:
    """Seconds until a score was at or below a level."""
    return next((point.seconds for point in points if point.score <= level), float("inf"))


def draw(points: list[Point], level: float, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for run, colour in ((PLAIN, "#888888"), (OURS, "#c44e52")):
        seeds = sorted({point.seed for point in points if point.run == run})
        for seed in seeds:
            of_seed = [point for point in points if (point.run, point.seed) == (run, seed)]
            label = f"{run}{f', {len(seeds)} seeds' if len(seeds) > 1 else ''}" if seed == seeds[0] else None
            axes.plot([p.seconds for p in of_seed], [p.score for p in of_seed], "o-", ms=3, color=colour, label=label)
    axes.axhline(level, color="#888888", lw=1, ls=":")
    axes.set(xscale="log", yscale="log", xlabel="seconds of training on two CPU cores", ylabel=f"{SCORE} of 10,000 images")
    axes.set_xticks([5, 10, 20, 30, 60, 120, 300, 600, 1200], labels=["5", "10", "20", "30", "60", "120", "300", "600", "1200"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="where MNIST is")
    parser.add_argument("--minutes", type=float, default=20, help="how long the plain one is trained")
    parser.add_argument("--seeds", type=int, default=3, help="of conf/mnist.yaml")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    data = [f"--data.root={options.root}"]
    whole = [60 * options.minutes * share for share in (1 / 80, 1 / 40, *(number / 20 for number in range(1, 21)))]

    endless = ["-c", "benchmarks/plain-dcgan.yaml", "--max_images=1000000000"]
    plain = curve(PLAIN, 0, [*endless, *data], whole)
    level = min(point.score for point in plain)
    points = plain
    for seed in range(options.seeds):
        marks = [float(mark) for mark in (*range(5, 60, 5), *range(60, 1201, 10))]
        points = points + curve(OURS, seed, ["-c", OURS, *data], marks)

    with Path("time_to_quality.csv").open("w", newline="") as file:
        csv.writer(file).writerows([Point._fields, *points])
    draw(points, level, Path("time-to-quality.png"))
    best = next(point for point in plain if point.score == level)
    seen = f"{SCORE} {level:.4g} after {best.seconds:.0f} s and {best.images:,} images, its best in {plain[-1].seconds:.0f} s"
    print(f"{versions()}\n\nThe plain one: {seen}; {plain[-1].score:.4g} at the end, {plain[-1].images:,} images.\n")
    print(f"| {OURS}, seed | as good after, s | times as fast | at its end | after, s | images |\n|---|---|---|---|---|---|")
    times = []
    for seed in range(options.seeds):
        of_seed = [point for point in points if (point.run, point.seed) == (OURS, seed)]
        times.append(first_at(of_seed, level))
        end = of_seed[-1]
        speed = f"{best.seconds / times[-1]:.1f}"
        print(f"| {seed} | {times[-1]:.0f} | {speed} | {end.score:.4g} | {end.seconds:.0f} | {end.images:,} |")
    print(f"\nMedian: {best.seconds / statistics.median(times):.1f} times as fast.")


if __name__ == "__main__":
    main()
