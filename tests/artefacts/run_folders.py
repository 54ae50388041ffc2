"""Run folders made by hand."""

import json
import os
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

HEADER = "images_seen,step,epoch,loss/discriminator,loss/generator,fid_classifier,fid_se_classifier,fid_floor_classifier"
ROWS = """\
100,0,0,1.5,0.5,,,
200,1,0,1.25,0.75,,,
200,1,0,,,4.5,0.25,0.125
300,2,0,1.0,1.0,,,
300,2,0,,,3.5,0.125,0.125
400,3,0,0.75,1.25,,,
400,3,0,,,3.75,0.5,0.125
"""
CONFIG = {
    "seed_everything": 3,
    "name": "digits",
    "max_images": 1000,
    "model": {"generator": {"class_path": "lightning_gan.networks.DCGANGenerator", "init_args": {"width": 64}}},
    "evaluation": {"best": "fid"},
    "run_dir": None,
}
SCORES: dict[str, Any] = {
    "scores": {"fid_classifier": 3.75, "fid_se_classifier": 0.5, "recall_classifier": 0.5, "kid_classifier": None},
    "held_out_real": {"fid_classifier": 0.125, "recall_classifier": 0.75},
    "images_seen": 400,
    "samples": 1000,
    "floor_samples": 500,
    "num_classes": 10,
    "extractor": {"name": "classifier", "digest": "00ff"},
    "real": {"fingerprint": "ab" * 32},
    "data": "Digits: 1725 training images",
    "device": "cpu",
    "versions": {"lightning_gan": "0.1.0"},
}


def make_run(folder: Path, config: dict[str, Any] | None = None, rows: str = ROWS, header: str = HEADER) -> Path:
    """Make what a run left behind before it noted its speed and events, and before there were walks and scores."""
    (folder / "samples").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG | (config or {}), sort_keys=False, width=1000))
    (folder / "metrics.csv").write_text(f"{header}\n{rows}")
    for name, grey in {"real": 255, "000000200": 50, "000000300": 100, "000000400": 150}.items():
        Image.new("L", (16, 16), grey).save(folder / "samples" / f"{name}.png")
    return folder


def make_full_run(folder: Path, config: dict[str, Any] | None = None, **scores: Any) -> Path:
    """Make the same with all that a run leaves behind now."""
    make_run(folder, config)
    (folder / "speed.csv").write_text("images_seen,seconds,images_per_second\n100,36,2.5\n200,72,2.75\n400,144,3.0\n")
    events = [
        {"time": "2026-11-21T10:00:00+00:00", "images_seen": 300, "kind": "collapse", "text": "G has collapsed: <b>see</b>."}
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (folder / "scores.json").write_text(json.dumps(SCORES | scores))
    (folder / "walks").mkdir()
    frames = [Image.new("L", (8, 8), grey) for grey in (0, 255)]
    frames[0].save(folder / "walks" / "000000400.gif", save_all=True, append_images=frames[1:])
    (folder / "DONE").touch()
    return folder


def make_old(folder: Path) -> None:
    """Let everything in a folder be of long ago."""
    for path in folder.iterdir():
        os.utime(path, (0, 0))
