"""The folder of a sweep: a copy of its file, the trials that were proposed, and their runs, told by what they have left."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from lightning_gan.artefacts.run_record import read_events
from lightning_gan.artefacts.run_tables import read_table
from lightning_gan.configuration import expand
from lightning_gan.errors import UserError
from lightning_gan.files import write_text
from lightning_gan.run_folder import CONFIG, DONE
from lightning_gan.sweep_file import Known, Sweep

FILE = "sweep.yaml"
RECORD = "sweep.json"
STOPPED = "STOPPED_EARLY"
"""Names the marker of a run that Hyperband has ended."""

State = Literal["finished", "stopped early", "diverged", "unfinished"]


@dataclass(frozen=True)
class Run:
    """A run of a sweep, as far as it has come.

    Attributes:
        trial: number of its trial.
        seed: of its training.
        scores: its scores and the images seen at each, in their order.
        compared: what its scores are measured by: those of others compare with them only if it is the same for them.
        floor: the score of real images.
        images: that D has seen.
        minutes: of training.
    """

    folder: Path
    trial: int
    seed: int
    state: State
    scores: list[tuple[int, float]] = field(default_factory=list)
    compared: str = ""
    floor: float | None = None
    images: int = 0
    minutes: float | None = None


class SweepFolder:
    """Begins a sweep's folder, or goes on with it.

    Args:
        sweep: the sweep.
        folder: its folder.
        options: further options of all its runs; those that it was begun with if there are none.

    Raises:
        UserError: the folder is of another sweep, or cannot be written to.
    """

    def __init__(self, sweep: Sweep, folder: Path, options: list[str]) -> None:
        self.sweep, self.path = sweep, folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._locked() as record:
                if not (folder / FILE).exists():
                    if run_folders(folder):
                        raise UserError(f"{folder} has runs in it, but no {FILE}: name another --output.")
                    write_text(folder / FILE, sweep.path.read_text())
                elif expand(folder / FILE)[-1] != sweep.content:
                    raise UserError(f"{folder} is of another sweep, or {sweep.path} has changed: name another --output.")
                begun = record.setdefault("options", options)
        except OSError as error:
            raise UserError(f"The sweep's folder {folder} cannot be used: {error.strerror}. Name another --output.") from error
        if options and options != begun:
            raise UserError(f"{folder} was begun with the options {begun}: leave out {options}, or name another --output.")
        self.options: list[str] = begun

    def fit(self, values: dict[str, Any], seed: int) -> list[str]:
        """Say which options of `fit` a trial's run is, but for its folder."""
        early = []
        if self.sweep.early:
            hyperband = "--trainer.callbacks+=lightning_gan.callbacks.hyperband.Hyperband"
            early = [hyperband, f"--trainer.callbacks.sweep={self.path.absolute()}"]
        return [*self.sweep.options(values), f"--seed_everything={seed}", "--wandb=off", *early, *self.options]

    def trial(self, number: int) -> dict[str, Any] | None:
        """Give a trial's values, which are proposed the first time and kept; None where a grid has no more.

        Raises:
            UserError: they cannot be kept.
        """
        with self._locked() as record:
            trials = record.setdefault("trials", {})
            if str(number) not in trials:
                known = self._known(trials) if self.sweep.method == "bayes" else []
                if (values := self.sweep.propose(number, known)) is None:
                    return None
                trials[str(number)] = values
            found: dict[str, Any] = trials[str(number)]
            return found

    def trials(self) -> dict[int, dict[str, Any]]:
        """Give the values of all trials so far."""
        return {int(number): values for number, values in self._read().get("trials", {}).items()}

    def run(self, number: int, seed: int) -> Path:
        return self.path / f"{number:03}" / f"seed-{seed}"

    def runs(self) -> list[Run]:
        """Look at all runs so far."""
        return [read_run(folder, self.sweep.metric) for folder in run_folders(self.path)]

    def _known(self, trials: dict[str, dict[str, Any]]) -> list[Known]:
        runs = self.runs()
        known = []
        for number, values in trials.items():
            own = [run for run in runs if run.trial == int(number)]
            best = [best_of(run, self.sweep.sign)[1] for run in own if run.scores and run.state != "diverged"]
            running = not own or any(run.state == "unfinished" for run in own)
            known.append(Known(values, sum(best) / len(best) if best else None, running))
        return known

    @contextmanager
    def _locked(self) -> Iterator[dict[str, Any]]:
        """Hold the record, which others may be about to change, and keep what is changed in it.

        Raises:
            UserError: it cannot be kept.
        """
        try:
            with FileLock(self.path / ".lock"):
                record = self._read()
                before = json.dumps(record)
                yield record
                if json.dumps(record) != before:
                    write_text(self.path / RECORD, json.dumps(record, indent=1))
        except OSError as error:
            raise UserError(f"The sweep's folder {self.path} cannot be written to: {error.strerror}.") from error

    def _read(self) -> dict[str, Any]:
        try:
            record = json.loads((self.path / RECORD).read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{self.path / RECORD} cannot be read: {error}. Name another --output.") from error
        if not isinstance(record, dict):
            raise UserError(f"{self.path / RECORD} is not of a sweep. Name another --output.")
        return record


def run_folders(sweep: Path) -> list[Path]:
    """Find the runs of a sweep; a folder that somebody has named 000-before is none."""
    found = [path for path in sweep.glob("*/seed-*/") if re.fullmatch(r"\d+/seed-\d+", path.relative_to(sweep).as_posix())]
    return sorted(found)


def read_run(folder: Path, metric: str) -> Run:
    """Look at what a run has left so far: its markers, `metrics.csv`, `speed.csv`, `events.jsonl` and `scores.json`."""
    table, speed = read_table(folder / "metrics.csv"), read_table(folder / "speed.csv")
    scores = zip(table.images, table.columns.get(metric, []), strict=False)
    floors, seconds = _present(table.columns.get(floor_of(metric), [])), _present(speed.columns.get("seconds", []))
    state: State = "unfinished"
    images = int(max(table.images[-1:], default=0))
    if (folder / DONE).exists():
        state = "stopped early" if (folder / STOPPED).exists() else "finished"
    elif (diverged_after := _diverged(folder)) is not None:
        state, images = "diverged", max(images, diverged_after)
    return Run(
        folder=folder,
        trial=int(folder.parent.name),
        seed=int(folder.name.removeprefix("seed-")),
        state=state,
        scores=[(int(seen), score) for seen, score in scores if score is not None],
        compared=_compared(folder / "scores.json"),
        floor=floors[-1] if floors else None,
        images=images,
        minutes=seconds[-1] / 60 if seconds else None,
    )


def best_of(run: Run, sign: int) -> tuple[int, float]:
    """Choose the best of a run's scores, with the images seen at it."""
    return min(run.scores, key=lambda point: sign * point[1])


def floor_of(metric: str) -> str:
    """Name the score of real images that belongs to a score."""
    base, _, extractor = metric.partition("_")
    return f"{base}_floor" + (f"_{extractor}" if extractor else "")


def begun(folder: Path) -> bool:
    """Tell whether a run can be gone on with."""
    return (folder / CONFIG).exists()


def _present(values: list[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _diverged(folder: Path) -> int | None:
    """Tell after how many images a run has diverged, if that is its last event."""
    events, _ = read_events(folder / "events.jsonl")
    return events[-1].images_seen if events and events[-1].kind == "divergence" else None


def _compared(path: Path) -> str:
    try:
        record = json.loads(path.read_text())
        extractor, real = record["extractor"], record["real"]
        images = f"{record['samples']:,} images against {record['data']} (fingerprint {real['fingerprint'][:16]})"
        return f"{images} by {extractor['name']} (digest {extractor['digest']})"
    except (OSError, ValueError, LookupError, TypeError):
        return ""
