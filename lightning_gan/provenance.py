"""What a run was made of, for loggers and its folder: its configuration, data, code and machine."""

import json
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import Trainer
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from lightning_gan import scorecard
from lightning_gan.callbacks.speed import Speed
from lightning_gan.files import write_text
from lightning_gan.run_folder import PROVENANCE as FILE
from lightning_gan.tracking import MetricsCSV


class LogConfig(SaveConfigCallback):
    """Tells the loggers the whole configuration of a training run, and its provenance."""

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if not trainer.loggers:
            return
        found = provenance(trainer)
        try:
            write_text(Path(trainer.default_root_dir, FILE), json.dumps(found, indent=2) + "\n")
        except OSError as error:  # no reason not to train
            rank_zero_warn(f"{FILE} could not be written: {error.strerror}.")
        ours = MetricsCSV, Speed  # which leave it to config.yaml
        if loggers := [logger for logger in trainer.loggers if not isinstance(logger, ours)]:
            config = yaml.safe_load(self.parser.dump(self.config)) | {"provenance": found}
            for logger in loggers:
                logger.log_hyperparams(config)


def provenance(trainer: Trainer) -> dict[str, Any]:
    """Say what data, code and machine a run is made with."""
    data = trainer.datamodule  # type: ignore[attr-defined]  # a connector sets it
    device = trainer.strategy.root_device
    return {
        "data": {"description": data.description, "fingerprint": data.fingerprint},
        "code": _code(),
        "environment": {
            **scorecard.versions(),
            "pytorch-lightning": version("pytorch-lightning"),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "processes": trainer.world_size,
            "precision": str(trainer.precision),
        },
    }


def _code() -> dict[str, Any]:
    """Name the commit of this package's own code, and say whether it was changed since, if it is in a repository."""
    package = Path(__file__).parent

    def git(*command: str) -> str:
        done = subprocess.run(["git", "-C", str(package), *command], capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # or it is some other repository that the package is installed within
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):  # there is no git, or no repository
        return {"commit": None, "dirty": None}
