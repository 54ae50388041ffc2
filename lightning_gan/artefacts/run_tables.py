"""The numbers and lines in a run folder's files, read with care: they may be still being written, or damaged."""

import json
import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any


@dataclass
class Table:
    """A CSV file of numbers, by column; None where a row has none.

    Attributes:
        images: images seen, of each row.
        damaged: rows that could not be read.
    """

    images: list[float] = field(default_factory=list)
    columns: dict[str, list[float | None]] = field(default_factory=dict)
    damaged: int = 0


def read_table(path: Path) -> Table:
    """Read a CSV file of numbers, of which one column is `images_seen`. One that is missing is empty."""
    header, *rows = [line.rstrip("\r").split(",") for line in whole_lines(path)] or [[""]]
    if "images_seen" not in header:
        return Table(damaged=len(rows))
    table, columns = Table(), {name: list[float | None]() for name in header}
    for row in rows:
        try:
            values = dict(zip(header, [None if cell == "" else float(cell) for cell in row], strict=True))
        except ValueError:
            values = {}
        seen = number(values.get("images_seen"))
        if seen is None or seen < 0:
            table.damaged += 1
            continue
        table.images.append(seen)
        for name, value in values.items():
            columns[name].append(number(value))
    for name in ("images_seen", "step", "epoch"):
        columns.pop(name, None)
    table.columns = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    return table


def hours(images: list[float], speed: Table) -> list[float] | None:
    """Tell after how many hours of training so many images had been seen; None if that was not noted.

    Between the rows of `speed.csv` it is interpolated. A run that went back saw some numbers of images twice, and is followed
    attempt by attempt.

    Args:
        images: of the rows of a table, in their order.
        speed: what `speed.csv` holds.
    """
    noted = zip(speed.images, speed.columns.get("seconds", []), strict=False)
    clock = [(seen, seconds) for seen, seconds in noted if seen > 0 and seconds is not None and seconds > 0]
    if not clock:
        return None
    clock = [(0.0, 0.0), *clock]
    attempts, clocks = list(_rising([(seen, 0.0) for seen in images])), list(_rising(clock))
    if len(attempts) != len(clocks):  # the last word on each number of images
        clocks = [sorted(dict(clock).items())] * len(attempts)
    return [_at(seen, points) / 3600 for attempt, points in zip(attempts, clocks, strict=True) for seen, _ in attempt]


def text_of(path: Path) -> str | None:
    """Read a file, if it is one."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    except OSError:
        return None


def whole_lines(path: Path) -> list[str]:
    """Read the lines of a file, but for a last one without its end, which is still being written."""
    return [line for line in (text_of(path) or "").rpartition("\n")[0].split("\n") if line.strip()]


def number(value: Any) -> float | None:
    """Take what is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def mapping(value: Any) -> dict[str, Any]:
    """Take what is a mapping; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def parsed(text: str) -> dict[str, Any]:
    """Read a JSON object; an empty one from anything else."""
    try:
        return mapping(json.loads(text))
    except (ValueError, RecursionError):
        return {}


def _rising(points: list[tuple[float, float]]) -> Iterator[list[tuple[float, float]]]:
    """Divide points where the first of their numbers falls."""
    falls = (i for i, (before, after) in enumerate(pairwise(points), 1) if after[0] < before[0])
    return (points[first:last] for first, last in pairwise([0, *falls, len(points)]))


def _at(x: float, points: list[tuple[float, float]]) -> float:
    """Read a piecewise linear function, which goes on beyond its ends as it does on average from the origin."""
    i = bisect_left(points, x, key=lambda point: point[0])
    if 0 < i < len(points):
        (x0, y0), (x1, y1) = points[i - 1 : i + 1]
        return y0 + (x - x0) * (y1 - y0) / (x1 - x0)
    last_x, last_y = points[-1]
    end_x, end_y = points[0] if i == 0 else points[-1]
    return max(0.0, end_y + (x - end_x) * last_y / last_x)
