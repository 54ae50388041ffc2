"""What runs have in common and what not: their names, options, scores and curves beside each other."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from lightning_gan.artefacts.run_record import RunRecord, Scores, score_of
from lightning_gan.artefacts.run_tables import mapping
from lightning_gan.metrics.names import SCORES
from lightning_gan.scorecard import shown

NOT_COMPARED = ("name", "run_dir", "wandb", "wandb_artifacts", "ckpt_path", "weights_only", "trainer.default_root_dir")
"""Options that say where and as what a run is kept, not what it does."""
KINDS = {
    "loss": "Losses",
    "logits": "Logits, on average",
    "penalty": "Penalties on D, weighted",
    "generator_penalty": "Penalties on G, weighted",
    "grad_norm": "Norms of gradients",
    "lr": "Learning rates",
    "augment": "Augmentation",
}
"""Of curves, by the first part of their names; in the order in which they are shown."""
SMOOTHED = ("loss", "logits", "penalty", "generator_penalty", "grad_norm")


def names(folders: Sequence[Path]) -> list[str]:
    """Call each run by the end of its path, as long as it takes to tell them apart. A mere number tells too little."""
    paths = [folder.resolve().parts for folder in folders]
    lengths = [2 if parts[-1].isdecimal() else 1 for parts in paths]
    while True:
        called = ["/".join(parts[-length:]) for parts, length in zip(paths, lengths, strict=True)]
        if len(set(called)) == len(called):
            return called
        lengths = [length + (called.count(name) > 1) for length, name in zip(lengths, called, strict=True)]


def differences(runs: Sequence[RunRecord]) -> list[tuple[str, list[str | None]]]:
    """Find the options that are not the same in all runs, and their values; None where a run has no such option."""
    absent = object()
    rows = []
    for option in dict.fromkeys(option for run in runs for option in run.config):
        values = [run.config.get(option, absent) for run in runs]
        if option not in NOT_COMPARED and any(value != values[0] for value in values):
            rows.append((option, [None if value is absent else _in_words(value) for value in values]))
    return rows


def scores_of(run: RunRecord) -> list[Scores]:
    """Collect what is known of a run's scores: its last evaluation, its best one, and those of `test`."""
    last = next((scores for scores in run.scores if scores.origin == "evaluation"), None)
    if last is None:  # a run of before, or one whose file is damaged
        columns = {column: values for column, values in run.metrics.columns.items() if score_of(column) and "/" not in column}
        last_values = {
            str(score_of(column)): value for column, values in columns.items() if (value := _last(values)) is not None
        }
        last = Scores("evaluation", last_values, {"fid": last_values["fid_floor"]} if "fid_floor" in last_values else {}, {})
    found = [last, *(scores for scores in run.scores if scores.origin != "evaluation")]
    if run.best is not None and run.best[2] != last.record.get("images_seen", run.images_seen):
        row = run.metrics.columns[run.best[0]].index(run.best[1])
        at_best = {
            str(score_of(column)): values[row]
            for column, values in run.metrics.columns.items()
            if score_of(column) and "/" not in column
        }
        known = {base: value for base, value in at_best.items() if value is not None}
        found.insert(0, replace(last, origin="best", values=known, record=last.record | {"images_seen": run.best[2]}))
    return [scores for scores in found if scores.values]


def scores_table(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Lay out all scores: a column for each set of them, a row for each score, and what held-out real images reach."""
    columns = [(number, scores) for number, run in enumerate(runs) for scores in scores_of(run)]
    rows = []
    for base, score in SCORES.items():
        cells = [" ".join(shown(base, score, scores.values, _facts(scores))).strip() for _, scores in columns]
        floors = [" ".join(shown(base, score, scores.floor, {})).strip() for _, scores in columns]
        if any(cells):
            facts = {"group": score.group, "name": base, "meaning": score.meaning, "better": score.better}
            rows.append(facts | {"cells": cells, "floors": floors})
    heads = [
        {
            "run": number,
            "origin": scores.origin,
            "images_seen": seen if isinstance(seen := scores.record.get("images_seen"), int) else None,
            "floor_samples": str(scores.record.get("floor_samples", "")),
            "made_with": scores.made_with if scores.record else {},
        }
        for number, scores in columns
    ]
    return {"columns": heads, "rows": rows}


def incomparable(called: Sequence[str], runs: Sequence[RunRecord]) -> list[str]:
    """Say why the scores of runs do not compare, where they do not: those of their last evaluations, or else of `test`."""
    last = {name: run.scores[0] if run.scores else None for name, run in zip(called, runs, strict=True)}
    warnings = []
    with_scores = {name: scores.made_with for name, scores in last.items() if scores is not None}
    words = {"extractor": "extractors", "data": "data", "samples": "numbers of samples"}
    for fact, plural in words.items():
        by_value = {name: made_with[fact] for name, made_with in with_scores.items()}
        if len(set(by_value.values())) > 1:
            listed = "; ".join(f"{name}: {value}" for name, value in by_value.items())
            warnings.append(f"Scores of these runs do not compare, as they were made with different {plural} ({listed}).")
    unknown = [name for name, run in zip(called, runs, strict=True) if last[name] is None and scores_of(run)]
    if unknown and len(runs) > 1:
        warnings.append(
            f"How the scores of {', '.join(unknown)} were made was not recorded, so they may not compare with others."
        )
    return warnings


def panels(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Choose the diagrams: one for each score, and one for each kind of what else is in `metrics.csv` and `speed.csv`.

    Each has a `title`, a `group` ("scores" or "training"), the `table` that its numbers are in, and `series`: their column, a
    label, and the column of their standard errors. Scores have, by run, their `floors` and errors of these.
    """
    columns = list(dict.fromkeys(column for run in runs for column in run.metrics.columns))
    return [*_score_panels(columns, runs), *_training_panels(columns), *_speed_panels(runs)]


def _score_panels(columns: list[str], runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    found = []
    for base, score in SCORES.items():
        for title in dict.fromkeys(column.partition("/")[0] for column in columns if score_of(column) == base):
            better = {"": "", "lower": ", lower is better", "higher": ", higher is better", "near 1": ", best near 1"}[
                score.better
            ]
            series = [
                {
                    "column": column,
                    "label": column.partition("/")[2].replace("half_life_", "half-life "),
                    "error": column.replace(base, score.error, 1) if score.error else None,
                }
                for column in sorted(columns)
                if column.partition("/")[0] == title and score_of(column) == base
            ]
            floors = [_floor(run, base, title.removeprefix(base)) for run in runs]
            facts = {"title": title, "note": score.meaning + better, "group": "scores", "table": "metrics", "smooth": False}
            found.append(facts | {"series": series, "floors": floors})
    return found


def _floor(run: RunRecord, base: str, suffix: str) -> dict[str, float | None] | None:
    """Find what held-out real images reach, and the error of that."""
    if base == "fid" and f"fid_floor{suffix}" in run.metrics.columns:
        value, error = (_last(run.metrics.columns.get(f"{name}{suffix}", [])) for name in ("fid_floor", "fid_floor_se"))
        return {"value": value, "error": error}
    for scores in run.scores:
        extractor = mapping(scores.record.get("extractor")).get("name")
        if scores.origin == "evaluation" and base in scores.floor and suffix in (f"_{extractor}", ""):
            return {"value": scores.floor[base], "error": scores.floor.get(SCORES[base].error or "")}
    return None


def _last(values: list[float | None]) -> float | None:
    return next((value for value in reversed(values) if value is not None), None)


def _training_panels(columns: list[str]) -> list[dict[str, Any]]:
    order = list(KINDS)
    kind = {column: column.partition("/")[0] for column in columns if score_of(column) is None}
    ranked = sorted(kind, key=lambda column: (order.index(kind[column]) if kind[column] in order else len(order), kind[column]))
    found = []
    for name, members in groupby(ranked, key=lambda column: kind[column]):
        series = [{"column": column, "label": column.partition("/")[2] or column, "error": None} for column in sorted(members)]
        facts = {
            "title": KINDS.get(name, name),
            "note": "",
            "group": "training",
            "table": "metrics",
            "smooth": name in SMOOTHED,
        }
        found.append(facts | {"series": series, "floors": []})
    return found


def _speed_panels(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    if not any("images_per_second" in run.speed.columns for run in runs):
        return []
    series = [{"column": "images_per_second", "label": "", "error": None}]
    facts = {"title": "Images a second", "note": "without scoring", "group": "training", "table": "speed", "smooth": True}
    return [facts | {"series": series, "floors": []}]


def _facts(scores: Scores) -> dict[str, Any]:
    """What `shown` needs to know."""
    classes = scores.record.get("num_classes")
    return {"num_classes": classes} if isinstance(classes, int) else {}


def _in_words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
