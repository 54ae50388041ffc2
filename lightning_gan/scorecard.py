"""What `test` and `evaluate` hand over: a table for people, and a file with all that it takes to get the same numbers again."""

import json
import math
import os
import platform
import textwrap
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lightning_gan import __version__
from lightning_gan.errors import UserError
from lightning_gan.files import written_aside
from lightning_gan.metrics.names import SCORES, Score, logged_name

WIDTH = 100
"""Characters in a line of the table."""


def table(scores: dict[str, float], floor: dict[str, float], record: dict[str, Any]) -> str:
    """Lay scores out for people, beside those of as many real images as were held out.

    Args:
        scores: by their base names. What is missing or not a number is left out.
        floor: the same of held-out real images; may be empty.
        record: what the scores were made with. Of its values are shown `data`, `real` (its `fingerprint`), `extractor` (its
            `name` and `digest`), `samples` and `floor_samples` (numbers of images), `num_classes`, `device`, `seconds`, and if
            they are there `source` (a file of samples or a checkpoint), `images_seen`, `seed`.

    Returns:
        Lines of up to `WIDTH` characters, but for very long names.
    """
    extractor = record["extractor"]["name"]
    rows = [(base, score) for base, score in SCORES.items() if math.isfinite(scores.get(base, math.nan))]
    floors = _column(rows, floor, {})
    columns = [
        ["", *(f"  {logged_name(base, extractor)}" for base, _ in rows)],
        ["generated", *_column(rows, scores, record)],
        *([["held-out real", *floors]] if any(text.strip() for text in floors) else []),
        ["better", *(score.better for _, score in rows)],
        ["", *(score.meaning for _, score in rows)],
    ]
    header, *lines = _joined(columns)
    body = []
    for i, (_, score) in enumerate(rows):
        if i == 0 or score.group != rows[i - 1][1].group:
            body.append(score.group)
        body.append(lines[i])
    return "\n".join([*_headings(floor, record), "", header, *body, *_footnotes(scores, floor, record)])


def write(path: Path, scores: dict[str, float], floor: dict[str, float], record: dict[str, Any]) -> None:
    """Write scores and record as JSON, whole or not at all; what is not a number becomes null.

    The file has the record's keys, and `scores` and `held_out_real`: the arguments under their logged names.

    Raises:
        UserError: it cannot be written.
    """
    extractor = record["extractor"]["name"]
    named = {
        key: {logged_name(base, extractor): value for base, value in values.items()}
        for key, values in (("scores", scores), ("held_out_real", floor))
    }
    content = json.dumps(_finite(named | record), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        with written_aside(path) as aside, aside.open("w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror}.") from error


def line(scores: dict[str, float], floor: dict[str, float], record: dict[str, Any]) -> str:
    """Say the most important in a line, while a run goes on."""
    extractor = record["extractor"]["name"]
    value, error = shown("fid", SCORES["fid"], scores, record)
    reached, of_floor = shown("fid", SCORES["fid"], floor, {})
    facts = [f"{logged_name('fid', extractor)} {value} {error}" + (f" (real images {reached} {of_floor})" if reached else "")]
    for base in ("precision", "recall", "coverage", "copy_rate"):
        if base in scores:
            facts.append(f"{base} {shown(base, SCORES[base], scores, record)[0]}")
    return ", ".join(facts)


def publish(path: Path, scores: dict[str, float], floor: dict[str, float], record: dict[str, Any]) -> None:
    """Write the file and print the table, which is printed even if the file cannot be written.

    Raises:
        UserError: that.
    """
    try:
        write(path, scores, floor, record)
    finally:
        print(table(scores, floor, record), flush=True)
    print(f"\n{path}", flush=True)


def versions() -> dict[str, str]:
    """Name the versions of what has a part in the scores."""
    found = {"lightning_gan": __version__, "python": platform.python_version()}
    for package in ("torch", "torchvision", "torchmetrics", "torch-fidelity"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _finite(value: Any) -> Any:
    """Replace what JSON has no word for, at any depth."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _column(rows: list[tuple[str, Score]], values: dict[str, float], record: dict[str, Any]) -> list[str]:
    """Write values and their errors below each other."""
    pairs = [shown(base, score, values, record) for base, score in rows]
    aligned = _aligned([value for value, _ in pairs])
    return [f"{value} {error}" for value, (_, error) in zip(aligned, pairs, strict=True)]


def shown(base: str, score: Score, values: dict[str, float], record: dict[str, Any]) -> tuple[str, str]:
    """Write a value and its error with the digits that mean something; two empty strings where there is none."""
    value, error = values.get(base, math.nan), values.get(score.error or "", math.nan)
    if not math.isfinite(value):
        return "", ""
    if base == "modes":
        return f"{value:.0f}" + (f" of {record['num_classes']}" if record else ""), ""
    if math.isfinite(error) and error > 0:
        decimals = _decimals(error, significant=2, least=0)
        if round(error, decimals) > 0:
            return f"{value:.{decimals}f}", f"± {error:.{decimals}f}"
    return f"{value:.{_decimals(value, significant=3, least=3 if abs(value) < 10 else 2)}f}", ""


def _decimals(x: float, significant: int, least: int) -> int:
    """Count the decimals that show so many significant digits, but at least `least` and at most 6."""
    if x == 0:
        return least
    return min(max(significant - 1 - math.floor(math.log10(abs(x))), least), 6)


def _aligned(numbers: list[str]) -> list[str]:
    """Put decimal points below each other."""
    parts = [(number[: len(number) - len(rest)], rest) for number in numbers for rest in [number.lstrip("-0123456789")]]
    before = max((len(whole) for whole, _ in parts), default=0)
    after = max((len(rest) for _, rest in parts), default=0)
    return [f"{whole:>{before}}{rest:<{after}}" for whole, rest in parts]


def _joined(columns: list[list[str]]) -> list[str]:
    """Set columns side by side; the last one only if there is room for it."""
    widths = [max(map(len, column)) for column in columns]
    if sum(widths) + 2 * (len(columns) - 1) > WIDTH:
        columns = columns[:-1]
    padded = [[cell.ljust(width) for cell in column] for column, width in zip(columns, widths, strict=False)]
    return ["  ".join(row).rstrip() for row in zip(*padded, strict=True)]


def _headings(floor: dict[str, float], record: dict[str, Any]) -> list[str]:
    """Say what was compared with what, and by what."""
    origin = record.get("source")
    seen, seed, extractor = record.get("images_seen"), record.get("seed"), record["extractor"]
    lines = [
        f"{record['samples']:,} images"
        + (f" of {origin}" if origin else "")
        + (f", seed {seed}" if seed is not None else "")
        + (f", after {seen:,} images seen" if seen else ""),
        f"compared with {record['data']} (fingerprint {record['real']['fingerprint'][:16]})",
        f"by features of {extractor['name']} (digest {extractor['digest']})",
        *([f"beside {record['floor_samples']:,} held-out real images"] if floor else []),
        f"in {record['seconds']:,.0f} s on {record['device']}",
    ]
    return [part for line in lines for part in _wrapped(line)]


def _footnotes(scores: dict[str, float], floor: dict[str, float], record: dict[str, Any]) -> list[str]:
    return [
        line
        for note in (_on_floor(scores, floor, record), _on_copies(scores, record))
        if note
        for line in ["", *_wrapped(note)]
    ]


def _on_copies(scores: dict[str, float], record: dict[str, Any]) -> str:
    searched, train = record["copies"]["train"], record["real"]["train"]
    if searched >= train or "copy_rate" not in scores:
        return ""
    return f"Copies were looked for among {searched:,} of the {train:,} training images only."


def _on_floor(scores: dict[str, float], floor: dict[str, float], record: dict[str, Any]) -> str:
    num = record["floor_samples"]
    if num >= record["samples"] or not {"fid"} & scores.keys() & floor.keys():
        return ""
    note = (
        f"There are only {num:,} held-out images. Their Fréchet distance is corrected to what {record['samples']:,} of them "
        "would have."
    )
    if num < min(record["samples"], record["bank"]):
        note += " Their coverage and inception score are lower for being so few."
    return note


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
