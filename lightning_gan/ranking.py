"""Which trials of a sweep are the best, as far as its runs can tell."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_gan.files import write_text
from lightning_gan.sweep_folder import Run, SweepFolder, best_of

TABLE = "table.csv"
RANKING = "ranking.md"
COLUMNS = ("rank", "trial", "mean", "sd", "n", "floor", "images", "minutes")


@dataclass(frozen=True)
class Place:
    """A trial with the scores that its runs have reached, each at its best.

    Attributes:
        runs: one for each seed.
        scores: one for each run that has any.
    """

    trial: int
    values: dict[str, Any]
    runs: list[Run]
    scores: list[float]

    @property
    def state(self) -> str:
        """That of the run that has fared worst: a trial of which a seed diverged is not the mean of the others."""
        states = {run.state for run in self.runs}
        worst_first = ("diverged", "unfinished", "stopped early", "finished")
        return next(state for state in worst_first if state in states)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores) if self.scores else math.nan

    @property
    def deviation(self) -> float:
        """The standard deviation over seeds; NaN of one."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else math.nan

    @property
    def error(self) -> float:
        """The standard error of the mean; NaN of one seed."""
        return self.deviation / math.sqrt(len(self.scores)) if self.scores else math.nan


def is_tied(place: Place, best: Place) -> bool:
    """Tell whether the seeds do not tell a trial from the best: the means differ by a standard error or less."""
    return abs(place.mean - best.mean) <= math.hypot(place.error, best.error)


class Ranking:
    """Ranks a sweep's trials: those whose runs have all come to their end, and apart those whose scores do not compare.

    Args:
        folder: the sweep's.

    Attributes:
        tables: for each thing that scores are measured by, its trials from the best on.
        others: trials that have no place, worst states last.
    """

    def __init__(self, folder: SweepFolder) -> None:
        self.folder, self.metric, self.sign = folder, folder.sweep.metric, folder.sweep.sign
        self.runs = folder.runs()
        self.trials = folder.trials()
        self.tables: dict[str, list[Place]] = {}
        self.others: list[Place] = []
        for number, values in sorted(self.trials.items()):
            runs = [run for run in self.runs if run.trial == number]
            scores = [best_of(run, self.sign)[1] for run in runs if run.scores]
            if not runs:
                continue
            place = Place(number, values, runs, scores)
            if place.state == "finished" and len(scores) == len(runs):
                self.tables.setdefault(" / ".join(sorted({run.compared for run in runs})), []).append(place)
            else:
                self.others.append(place)
        for places in self.tables.values():
            places.sort(key=lambda place: self.sign * place.mean)
        self.others.sort(key=lambda place: ("finished", "unfinished", "stopped early", "diverged").index(place.state))
        known = [values for number, values in self.trials.items() if any(run.trial == number for run in self.runs)]
        names = dict.fromkeys(name for values in known for name in values)
        self.swept = [name for name in names if len({repr(values.get(name)) for values in known}) > 1]

    def text(self) -> str:
        """Lay it out for a terminal."""
        lines: list[str] = []
        for compared, places in self.tables.items():
            header, *rows = self._cells(places)
            widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
            lines += ["", f"{self._title()}:", f"  {compared}" if compared else "", ""]
            lines += [
                "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                for row in (header, *rows)
            ]
        return "\n".join([*lines, *self._notes(), *self._again()])

    def markdown(self) -> str:
        """The same as Markdown."""
        lines = [f"# {self.folder.sweep.path.stem}", ""]
        for compared, places in self.tables.items():
            header, *rows = self._cells(places)
            lines += [f"{self._title()}" + (f": {compared}." if compared else "."), ""]
            table = [header, ["---"] * len(header), *rows]
            lines += [f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in table]
        indented = [f"    {line.strip()}" if line.startswith("  ") else line for line in [*self._notes(), *self._again()]]
        return "\n".join([*lines, *indented, ""])

    def write(self) -> None:
        """Write the ranking, and a table with a row for each run, into the sweep's folder.

        Raises:
            OSError: they cannot be written.
        """
        file = io.StringIO()
        names = list(dict.fromkeys(name for values in self.trials.values() for name in values))
        writer = csv.writer(file, lineterminator="\n")
        facts = ["trial", "seed", "state", self.metric, "at_images", "floor", "images", "minutes", "folder"]
        writer.writerow([*facts, *names])
        for run in self.runs:
            at, score = best_of(run, self.sign) if run.scores else ("", "")
            minutes = "" if run.minutes is None else f"{run.minutes:.2f}"
            row = [
                run.trial,
                run.seed,
                run.state,
                score,
                at,
                run.floor,
                run.images,
                minutes,
                run.folder.relative_to(self.folder.path),
            ]
            values = self.trials.get(run.trial, {})
            writer.writerow([*row, *(values.get(name) for name in names)])
        write_text(self.folder.path / TABLE, file.getvalue())
        write_text(self.folder.path / RANKING, self.markdown())

    def _title(self) -> str:
        better = "lower" if self.sign > 0 else "higher"
        return f"{self.metric}, {better} is better, of each run at its best"

    def _cells(self, places: Sequence[Place]) -> list[list[str]]:
        best = places[0]
        rows = [[*COLUMNS, *short_names(self.swept)]]
        for rank, place in enumerate(places, 1):
            tied = rank > 1 and is_tied(place, best)
            floors = [run.floor for run in place.runs if run.floor is not None]
            minutes = [run.minutes for run in place.runs if run.minutes is not None]
            rows.append(
                [
                    f"{rank}{' =' if tied else ''}",
                    str(place.trial),
                    f"{place.mean:.4g}",
                    "" if math.isnan(place.deviation) else f"{place.deviation:.2g}",
                    str(len(place.scores)),
                    f"{statistics.fmean(floors):.2g}" if floors else "",
                    f"{statistics.fmean(run.images for run in place.runs):,.0f}",
                    f"{statistics.fmean(minutes):.3g}" if minutes else "",
                    *(_short(place.values.get(name)) for name in self.swept),
                ]
            )
        return rows

    def _notes(self) -> list[str]:
        notes = []
        places = [place for table in self.tables.values() for place in table]
        if any(is_tied(place, table[0]) for table in self.tables.values() for place in table[1:]):
            notes += ["", "= within a standard error of the best: these seeds do not tell the two apart."]
        if any(len(place.scores) == 1 for place in places):
            notes += ["", "Of one seed it is not known how much a score owes to it: repeat the best few with more --seeds."]
        if self.others:
            notes += ["", "Without a place:", ""]
            notes += [f"  {self._why(place)}" for place in self.others]
        if len(self.tables) > 1:
            notes += ["", "Scores of different tables do not compare."]
        return notes

    def _why(self, place: Place) -> str:
        state = place.state if place.state != "finished" else f"without {self.metric}"
        seeds = [run.seed for run in place.runs if run.state == place.state]
        of = f" with {'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}" if len(place.runs) > 1 else ""
        images = max(run.images for run in place.runs if run.state == place.state)
        score = f", {self.metric} {place.mean:.4g}" if place.scores else ""
        names = zip(self.swept, short_names(self.swept), strict=True)
        values = " ".join(f"{short}={_short(place.values.get(name))}" for name, short in names)
        return f"trial {place.trial} {state}{of} after {images:,} images{score}: {values}"

    def _again(self) -> list[str]:
        """The command of the best trial's best run, for each table."""
        import shlex

        lines = []
        for places in self.tables.values():
            run = min(places[0].runs, key=lambda run: self.sign * best_of(run, self.sign)[1])
            options = [*self.folder.sweep.options(places[0].values), f"--seed_everything={run.seed}", *self.folder.options]
            lines += ["", f"The best again, trial {places[0].trial} with seed {run.seed}:", ""]
            lines += [f"  python -m lightning_gan fit {shlex.join(options)}"]
        return lines


def short_names(names: Sequence[str]) -> list[str]:
    """Shorten dotted names from the left as far as they stay different."""
    short = []
    for name in names:
        parts = name.split(".")
        ends = [".".join(parts[-length:]) for length in range(1, len(parts) + 1)]
        short.append(next(end for end in ends if sum(f".{other}".endswith(f".{end}") for other in names) == 1 or end == name))
    return short


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return Path(value).stem if isinstance(value, str) and value.endswith((".yaml", ".yml")) else str(value)
