"""W&B's record of a run, read back with W&B's own reader."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


class Record:
    """What the file of one start of a run holds.

    Attributes:
        rows: of the history, in their order, by name; a media file is `name._type`, `name.path` and so on.
        summary: as it is at last.
    """

    def __init__(self, file: Path) -> None:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        done = subprocess.run(
            command, env=os.environ | {"WANDB_MODE": "offline"}, capture_output=True, text=True, check=True, timeout=120
        )
        self.records: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
        self.rows = [row["item"] for row in self.of("history")]
        self.summary: dict[str, Any] = {}
        for change in self.of("summary"):
            self.summary |= change["update"]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [record[kind] for record in self.records if record["type"] == kind]

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = {}
        for change in self.of("config"):
            config |= change["update"]
        return config


def records_of(run_dir: Path) -> list[Record]:
    """Read the records of all starts, in their order."""
    return [Record(file) for file in sorted(run_dir.glob("wandb/*run-*/run-*.wandb")) if not file.parent.is_symlink()]
