"""What a run folder holds, for those who look at it: it may be of an older version, still being written, or damaged."""

import math
import os
import socket
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning_gan.artefacts.run_tables import Table, mapping, number, parsed, read_table, text_of, whole_lines
from lightning_gan.configuration import expand
from lightning_gan.errors import UserError
from lightning_gan.metrics.names import HIGHER_IS_BETTER, SCORES
from lightning_gan.run_folder import CLAIM, CONFIG, DONE, PROVENANCE, REQUEUE

RECENT = 600
"""Seconds since something was written, up to which a run on another machine is taken to be running."""
MOST_CHARACTERS = 1000
"""Of an event's text."""
LOGGED = {*SCORES, *(score.error for score in SCORES.values() if score.error), "fid_floor", "fid_floor_se"}
LONGEST_FIRST = sorted(LOGGED, key=len, reverse=True)


@dataclass(frozen=True)
class Event:
    time: str
    images_seen: int
    kind: str
    text: str


@dataclass(frozen=True)
class Scores:
    """A file of scores.

    Attributes:
        origin: "evaluation" for the last one of training, else the file's name.
        values: by base name.
        floor: the same of held-out real images.
        record: all the file says.
    """

    origin: str
    values: dict[str, float]
    floor: dict[str, float]
    record: dict[str, Any]

    @property
    def made_with(self) -> dict[str, str]:
        """What has to be the same for scores to compare."""
        extractor, real = mapping(self.record.get("extractor")), mapping(self.record.get("real"))
        return {
            "extractor": f"{extractor.get('name', 'unknown')} {extractor.get('digest', '')}".strip(),
            "data": str(real.get("fingerprint", "unknown"))[:16],
            "samples": str(self.record.get("samples", "unknown")),
        }


@dataclass(frozen=True)
class RunRecord:
    """What is known of a run.

    Attributes:
        config: by option, as on the command line without the dashes.
        metrics: what `metrics.csv` holds.
        speed: what `speed.csv` holds; nothing for runs of before.
        pictures: images seen, and the grid of generated images then.
        walks: the same for films.
        state: "done", "running", "stopped", or "waiting" to be started again.
        written: when something was, last.
        provenance: the data, code and environment that it was last started with; empty for runs of before.
        notes: what is there, but could not be read.
    """

    folder: Path
    config: dict[str, Any]
    config_text: str
    metrics: Table
    speed: Table
    events: list[Event]
    scores: list[Scores]
    pictures: list[tuple[int, Path]]
    walks: list[tuple[int, Path]]
    state: str
    written: datetime
    provenance: dict[str, Any]
    notes: list[str]

    @property
    def best(self) -> tuple[str, float, int] | None:
        """The best evaluation in `metrics.csv` as the run chooses it: the score's name, its value, the images seen."""
        base = str(self.config.get("evaluation.best", "fid"))
        for column, values in self.metrics.columns.items():
            if score_of(column) == base and "/" not in column:
                known = [
                    (value, images) for value, images in zip(values, self.metrics.images, strict=True) if value is not None
                ]
                value, images = (max if base in HIGHER_IS_BETTER else min)(known, key=lambda pair: pair[0])
                return column, value, int(images)
        return None

    @property
    def images_seen(self) -> int:
        return int(max([*self.metrics.images[-1:], *self.speed.images[-1:], *(n for n, _ in self.pictures[-1:])], default=0))

    @property
    def seconds(self) -> float | None:
        """Time spent training, as far as noted."""
        return next((value for value in reversed(self.speed.columns.get("seconds", [])) if value is not None), None)

    @property
    def images_per_second(self) -> float | None:
        """The median, which pauses do not change."""
        rates = [value for value in self.speed.columns.get("images_per_second", []) if value]  # 0 where it went back
        return statistics.median(rates) if rates else None


def read_run(folder: Path) -> RunRecord:
    """Read what a run folder holds. What is missing is left out; what is damaged, too, and noted.

    Raises:
        UserError: it is not a run folder.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. Name run folders, such as runs/digits-dcgan/0.")
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is not a run folder: it has no {CONFIG}. Name run folders, such as runs/digits-dcgan/0.")
    notes: list[str] = []
    try:
        config = flattened(expand(folder / CONFIG)[-1])
    except UserError as error:
        config = {}
        notes.append(str(error))
    metrics, speed = (read_table(folder / name) for name in ("metrics.csv", "speed.csv"))
    events, damaged = read_events(folder / "events.jsonl")
    for name, n in {"metrics.csv": metrics.damaged, "speed.csv": speed.damaged, "events.jsonl": damaged}.items():
        if n:
            notes.append(f"{n:,} damaged {'line' if n == 1 else 'lines'} of {name} left out.")
    written = max(_modified(folder / name) for name in (CONFIG, "metrics.csv", "speed.csv", "events.jsonl"))
    return RunRecord(
        folder=folder,
        config=config,
        config_text=text_of(folder / CONFIG) or "",
        metrics=metrics,
        speed=speed,
        events=events,
        scores=list(_all_scores(folder, notes)),
        pictures=_numbered(folder / "samples", ".png"),
        walks=_numbered(folder / "walks", ".gif"),
        state=_state(folder, written, finished=_images(metrics) >= (number(config.get("max_images")) or math.inf)),
        written=datetime.fromtimestamp(written, UTC),
        provenance=parsed(text_of(folder / PROVENANCE) or ""),
        notes=notes,
    )


def score_of(column: str) -> str | None:
    """Find the base name of a score, error or floor in that of a column, where an extractor's name may follow it."""
    name = column.partition("/")[0]
    return next((base for base in LONGEST_FIRST if name == base or name.startswith(f"{base}_")), None)


def flattened(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Bring nested options into one level, called as on the command line: `model.generator` is its class."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = prefix.removesuffix(".") if key in ("class_path", "init_args") else f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat |= flattened(value, f"{name}.")
        elif key != "init_args":
            flat[name] = value
    return flat


def read_events(path: Path) -> tuple[list[Event], int]:
    """Read events, and count the lines that are none."""
    lines = whole_lines(path)
    events = []
    for content in map(parsed, lines):
        seen, kind, text = number(content.get("images_seen")), content.get("kind"), str(content.get("text", ""))
        if seen is not None and seen >= 0 and isinstance(kind, str):
            text = text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"
            events.append(Event(str(content.get("time", ""))[:40], int(seen), kind[:40], text))
    return events, len(lines) - len(events)


def _all_scores(folder: Path, notes: list[str]) -> Iterator[Scores]:
    """Read the last evaluation's scores and those of `test`."""
    for path in (folder / "scores.json", *sorted(folder.glob("checkpoints/*.scores.json"))):
        if (text := text_of(path)) is None:
            continue
        record = parsed(text)
        values, floor = (_by_base(mapping(record.get(key))) for key in ("scores", "held_out_real"))
        if values:
            yield Scores("evaluation" if path.parent == folder else path.name, values, floor, record)
        else:
            notes.append(f"{path.name} is damaged and was left out.")


def _by_base(values: dict[str, Any]) -> dict[str, float]:
    named = {score_of(name): number(value) for name, value in values.items()}
    return {base: value for base, value in named.items() if base is not None and value is not None}


def _numbered(folder: Path, suffix: str) -> list[tuple[int, Path]]:
    """List the files of a folder that are called by a number of images, in order."""
    return sorted((int(path.stem), path) for path in folder.glob(f"*{suffix}") if path.stem.isdecimal() and path.is_file())


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _images(table: Table) -> float:
    return max(table.images[-1:], default=0.0)


def _state(folder: Path, written: float, finished: bool) -> str:
    """Tell how a run is doing from its markers, its process and its files; it has `finished` if it saw all its images."""
    if (folder / DONE).exists():
        return "done"
    if (folder / REQUEUE).exists():
        return "waiting"
    ended = "done" if finished else "stopped"  # runs of before left no marker
    _, _, where = (text_of(folder / CLAIM) or "").partition(" on ")
    host, _, process = where.partition(" as process ")
    if host == socket.gethostname() and process.isdecimal():
        return "running" if _is_alive(int(process)) else ended
    return "running" if datetime.now(UTC).timestamp() - written < RECENT else ended


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:  # somebody else's
        return True
    except (OSError, OverflowError):
        return False
    return True
