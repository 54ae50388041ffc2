"""Where the numbers of a run go: a CSV file always, Weights & Biases where it can be had."""

import csv
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import wandb
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only, rank_zero_warn

WandbMode = Literal["auto", "online", "offline", "off"]


class MetricsCSV(Logger):
    """Writes `metrics.csv`, each row at once, so that a killed run loses none.

    (Lightning's CSVLogger keeps 100 rows back.)

    Args:
        run_dir: the run folder.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.path = run_dir / "metrics.csv"
        self._columns = ["images_seen", "step", "epoch"]

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Leave these to `config.yaml`."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {**metrics, "step": step}
        try:
            self.save()
            if new := sorted(set(row) - set(self._columns)):
                self._rewrite([*self._columns, *new])
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        except OSError as error:  # a row less is no reason to stop
            rank_zero_warn(f"A row of {self.path} could not be written: {error.strerror}.")

    @rank_zero_only
    def save(self) -> None:
        """Make the file; Lightning calls this when training starts, too."""
        try:
            if not self.path.exists():
                self._rewrite(self._columns)
        except OSError as error:
            rank_zero_warn(f"{self.path} could not be written: {error.strerror}.")

    def _rewrite(self, columns: list[str]) -> None:
        """Write the file, with the rows it has, under these columns."""
        rows = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = list(csv.DictReader(file))
        aside = self.path.with_name(".metrics.csv.partial")
        aside.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        aside.replace(self.path)
        self._columns = columns


class TolerantWandbLogger(WandbLogger):
    """A WandbLogger that never stops a run: when W&B fails it says so once and is silent from then on."""

    _failed = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._try(super().log_metrics, metrics, step)

    def log_hyperparams(self, params: Any) -> None:
        self._try(super().log_hyperparams, params)

    def log_picture(self, key: str, path: Path, images_seen: int) -> None:
        """Log a picture file at its place on the axis."""
        self._try(lambda: self.experiment.log({key: wandb.Image(str(path)), "images_seen": images_seen}))

    def alert(self, kind: str, text: str, images_seen: int) -> None:
        """Alert to something about the run's health, and note in its summary when that was."""

        def send() -> None:
            self.experiment.alert(kind, text, level="WARN", wait_duration=0)
            self.experiment.summary[f"health/{kind}"] = images_seen

        self._try(send)

    def _try(self, log: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        if self._failed:
            return
        try:
            log(*args, **kwargs)
        except Exception as error:
            self._failed = True
            rank_zero_warn(f"W&B stopped recording ({error}); training goes on, and metrics.csv has everything.")


def start_wandb(run_dir: Path, name: str, mode: WandbMode) -> list[TolerantWandbLogger]:
    """Start a W&B run in the run folder, without ever asking, blocking for long or failing.

    Args:
        run_dir: the run folder; the record is kept in its `wandb` folder.
        name: the run's name.
        mode: `auto` follows `WANDB_MODE` if that is set, and otherwise is online with an API key and offline without.

    Returns:
        The logger, or nothing if it is off or cannot be had.
    """
    if mode == "auto":
        mode = _mode_of_environment()
    for attempt in {"online": ["online", "offline"], "offline": ["offline"], "off": []}[mode]:
        try:
            run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "lightning_gan"),
                name=name,
                dir=run_dir,
                mode="online" if attempt == "online" else "offline",
                settings=wandb.Settings(silent=True, console="off", login_timeout=15, init_timeout=20, finish_timeout=60),
            )
            run.define_metric("images_seen")
            run.define_metric("*", step_metric="images_seen")
            return [TolerantWandbLogger(experiment=run)]
        except Exception as error:  # whatever is wrong with it, training does not depend on it
            rank_zero_warn(f"W&B could not start {attempt} ({' '.join(str(error).split())}).")
    return []


def _mode_of_environment() -> WandbMode:
    match os.environ.get("WANDB_MODE"):
        case "disabled":
            return "off"
        case "online" | "run":
            return "online"
        case None | "":
            return "online" if _has_api_key() else "offline"
        case _:
            return "offline"


def _has_api_key() -> bool:
    try:
        wandb.setup(wandb.Settings(silent=True))
        return wandb.login(prompt=False, verify=False)
    except Exception:  # a key that is not even well-formed
        return False
