"""One page about a run, or about several beside each other, which needs nothing else to be looked at."""

import json
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import Any

from lightning_gan import __version__
from lightning_gan.artefacts import comparison
from lightning_gan.artefacts.run_record import RunRecord, read_run, score_of
from lightning_gan.artefacts.run_tables import Table, hours, mapping
from lightning_gan.errors import UserError
from lightning_gan.files import written_aside
from lightning_gan.options import CommandParser

PARTS = Path(__file__).with_name("report")
"""Where the page's template, style and script are."""
MARK = '<meta name="generator" content="lightning_gan report">'
"""By which a page is known as a report, which a later one may replace."""
MOST_RUNS = 20
MOST_ROWS = 1500
"""Of a table in a page; of what a longer run logged in training every so many rows are shown, and all its scores."""
MOST_EVENTS = 200
PICTURES = (3_000_000, 1_000_000)
"""Characters of the page that the grids of all runs may take, and those of one run in any case;"""
FILMS = (9_000_000, 1_500_000)
"""the same of walks, which are one for each run: of 64 x 64 pixels in colour they take 1.3 million."""


def report(runs: list[Path], output: Path = Path("report.html")) -> None:
    """Write one page about runs: curves, pictures, scores, options and what differs, speed, health, how to repeat them.

    Args:
        runs: run folders, be they done or still running.
        output: file for the page, which no network is needed to look at; only an older report is replaced.

    Raises:
        UserError: a folder is not a run's, or the page cannot be written.
    """
    check_output(output)
    folders = list({folder.resolve(): folder for folder in runs}.values())
    if len(folders) > MOST_RUNS:
        raise UserError(f"A report can hold at most {MOST_RUNS} runs, and these are {len(folders)}.")
    content = page(page_data(folders))
    try:
        with written_aside(output) as aside:
            aside.write_text(content, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{output} could not be written: {error.strerror}.") from error
    what = "1 run" if len(folders) == 1 else f"{len(folders)} runs"
    print(f"{what} in {output} ({len(content) / 1e6:.1f} MB); open it in a browser.")


def check_output(output: Path) -> None:
    """Refuse to write over anything but an older report.

    Raises:
        UserError: there is something else at the path.
    """
    try:
        if output.is_file():
            with output.open(encoding="utf-8", errors="replace") as file:
                if MARK in file.read(1000):
                    return
        taken = output.exists() or output.is_symlink()
    except OSError as error:
        raise UserError(f"{output} cannot be used: {error.strerror}.") from error
    if taken:
        raise UserError(f"{output} exists already, and is not a report. Name another --output, or remove it first.")


def page(data: dict[str, Any]) -> str:
    """Put data into the page. They are JSON in it, with no character that could end it: no text of a run becomes markup."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UserError("A report draws its diagrams with plotly, which is not installed: pip install plotly.") from error
    parts = {name: (PARTS / f"page.{name}").read_text(encoding="utf-8") for name in ("html", "css", "js")}
    embedded = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return Template(parts["html"]).substitute(
        mark=MARK, style=parts["css"], script=parts["js"], plotly=get_plotlyjs(), data=embedded
    )


def page_data(folders: Sequence[Path]) -> dict[str, Any]:
    """Read runs, and choose what a page shows of them.

    Raises:
        UserError: a folder is not a run's.
    """
    records = [read_run(folder) for folder in folders]
    called = comparison.names(folders)
    return {
        "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "version": __version__,
        "runs": [_run(name, record, len(records)) for name, record in zip(called, records, strict=True)],
        "panels": comparison.panels(records),
        "scores": comparison.scores_table(records),
        "differences": comparison.differences(records),
        "warnings": comparison.incomparable(called, records),
    }


def _run(name: str, run: RunRecord, runs: int) -> dict[str, Any]:
    """Choose what a page shows of a run, of which it has so many."""
    from lightning_gan.artefacts import run_pictures  # Pillow is not needed to say that a folder is not a run

    notes = list(run.notes)
    best = run.best
    grids, damaged = run_pictures.grids(run.pictures, best[2] if best else None, _share(PICTURES, runs))
    if damaged:
        listed = ", ".join(path.name for path in damaged[:5]) + (", ..." if len(damaged) > 5 else "")
        notes.append(f"Left out, as it cannot be read: {listed}.")
    walk = None
    for _, path in run.walks[-1:]:
        walk = run_pictures.address(path, most_bytes=_share(FILMS, runs) * 3 // 4)
        if walk is None:
            notes.append(f"walks/{path.name} is damaged, or too large for this page.")
    real = run.folder / "samples" / "real.png"
    record = next((scores.record for scores in run.scores), {})
    return {
        "name": name,
        "folder": str(run.folder),
        "state": run.state,
        "written": f"{run.written:%Y-%m-%d %H:%M} UTC",
        "command": f"python -m lightning_gan fit -c {shlex.quote(str(run.folder / 'config.yaml'))}",
        "resume": f"python -m lightning_gan fit --resume {shlex.quote(str(run.folder))}",
        "images_seen": run.images_seen,
        "max_images": run.config.get("max_images") if isinstance(run.config.get("max_images"), int) else None,
        "seconds": run.seconds,
        "images_per_second": run.images_per_second,
        "seed": _words(run.config.get("seed_everything")),
        "data": _words(record.get("data")),
        "device": _words(record.get("device")),
        "commit": _commit(run),
        "versions": {name: str(version) for name, version in mapping(record.get("versions")).items()},
        "best": best and {"name": best[0], "value": best[1], "images_seen": best[2]},
        "best_kept": (run.folder / "checkpoints" / "best.ckpt").is_file(),
        "metrics": _table(run.metrics, run.speed),
        "speed": _table(run.speed, run.speed),
        "events": _events(run),
        "events_in_all": len(run.events),
        "grids": grids,
        "grids_in_all": len(run.pictures),
        "real": run_pictures.address(real),
        "walk": walk,
        "walk_images_seen": run.walks[-1][0] if run.walks else None,
        "config": run.config_text,
        "notes": notes,
    }


def _table(table: Table, speed: Table) -> dict[str, Any]:
    """Choose rows and digits, so that a page does not grow without end."""
    of_scores = [values for column, values in table.columns.items() if score_of(column)]
    n = len(table.images)
    every = -(-n // MOST_ROWS)
    rows = [i for i in range(n) if i % every == 0 or i == n - 1 or any(values[i] is not None for values in of_scores)]
    elapsed = hours(table.images, speed)
    return {
        "images": [int(table.images[i]) for i in rows],
        "hours": elapsed and [round(elapsed[i], 6) for i in rows],
        "columns": {
            name: [None if (value := values[i]) is None else float(f"{value:.6g}") for i in rows]
            for name, values in table.columns.items()
        },
        "every": every,
    }


def _events(run: RunRecord) -> list[dict[str, Any]]:
    shown = run.events[-MOST_EVENTS:]
    elapsed = [hours([event.images_seen], run.speed) for event in shown]
    return [vars(event) | {"hours": found and round(found[0], 6)} for event, found in zip(shown, elapsed, strict=True)]


def _commit(run: RunRecord) -> str | None:
    code = mapping(run.provenance.get("code"))
    commit = code.get("commit")
    return f"{commit}{', and changes since' if code.get('dirty') else ''}" if isinstance(commit, str) else None


def _share(characters: tuple[int, int], runs: int) -> int:
    in_all, at_least = characters
    return max(in_all // runs, at_least)


def _words(value: Any) -> str | None:
    return None if value is None else str(value)


def run(options: Sequence[str]) -> None:
    """Call `report` with the options of `python -m lightning_gan report`."""
    what = str(report.__doc__).partition("\n")[0]
    parser = CommandParser(prog="python -m lightning_gan report", description=what, allow_abbrev=False)
    parser.add_argument("runs", nargs="*", metavar="RUN", type=Path, help="run folders, be they done or still running.")
    parser.add_function_arguments(report, skip={"runs"}, as_positional=False)
    parsed = parser.parse_args(list(options))
    if not parsed.runs:
        raise UserError("Name the run folders to report on, such as runs/digits-dcgan/0.")
    report(parsed.runs, parsed.output)
