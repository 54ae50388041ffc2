"""Sweeps and their runs, made up."""

import json
from pathlib import Path
from typing import Any

import yaml

from lightning_gan.sweep_file import Sweep

FIT = ["python", "-m", "lightning_gan", "fit"]
GRID = {
    "command": [*FIT, "${args}"],
    "method": "grid",
    "metric": {"name": "fid_random", "goal": "minimize"},
    "parameters": {"model.x": {"values": [0.5, 0.25, 0.75]}},
}
UNIFORM = {"model.x": {"distribution": "uniform", "min": 0.0, "max": 1.0}}


def described(**changed: Any) -> Sweep:
    path = Path("s.yaml")
    path.write_text(yaml.safe_dump(GRID | changed))
    return Sweep(path)


def make_run(
    trial: int, seed: int, scores: list[float], done: bool = True, digest: str = "d", files: dict[str, str] | None = None
) -> None:
    run = Path(f"out/{trial:03}/seed-{seed}")
    run.mkdir(parents=True)
    rows = [f"{100 * (i + 1)},{i},0,{score},0.5" for i, score in enumerate(scores)]
    (run / "metrics.csv").write_text("\n".join(["images_seen,step,epoch,fid_random,fid_floor_random", *rows, ""]))
    record = {
        "samples": 5000,
        "data": "Digits",
        "real": {"fingerprint": "f"},
        "extractor": {"name": "random", "digest": digest},
    }
    (run / "scores.json").write_text(json.dumps(record))
    if done:
        (run / "DONE").touch()
    for name, content in (files or {}).items():
        (run / name).write_text(content)
