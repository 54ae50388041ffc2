"""Where the numbers of a run go: a CSV file always, Weights & Biases where it can be had."""

import csv
import os
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only, rank_zero_warn

from lightning_gan.errors import UserError
from lightning_gan.files import sync, write_text, written_aside
from lightning_gan.run_folder import Claim

WandbMode = Literal["auto", "online", "offline", "off"]


class MetricsCSV(Logger):
    """Writes `metrics.csv`, each row at once, so that a killed run loses none.

    (Lightning's CSVLogger keeps 100 rows back.)

    Args:
        run_dir: the run folder.
        rows: how many rows of what is in the folder count; later ones are of a part of the run that is trained again.
        claim: to the run folder, without which nothing is written.

    Attributes:
        rows: how many there are.
    """

    def __init__(self, run_dir: Path, rows: int = 0, claim: Claim | None = None) -> None:
        super().__init__()
        self.path = run_dir / "metrics.csv"
        self.rows = rows
        self._claim = claim
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
        if self._claim is not None:
            self._claim.check()
        size = None
        try:
            self.save()
            if new := sorted(set(row) - set(self._columns)):
                self._rewrite([*self._columns, *new])
            size = self.path.stat().st_size
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(row)
            self.rows += 1
        except OSError as error:  # a row less is no reason to stop
            with suppress(OSError):
                if size is not None:
                    os.truncate(self.path, size)  # half a row would be glued to the next
            rank_zero_warn(f"A row of {self.path} could not be written: {error.strerror}.")

    @rank_zero_only
    def save(self) -> None:
        """Make the file; Lightning calls this when training starts, too."""
        try:
            if not self.path.exists():
                self._rewrite(self._columns)
        except OSError as error:
            rank_zero_warn(f"{self.path} could not be written: {error.strerror}.")

    @rank_zero_only
    def cut_back(self) -> None:
        """Drop what is in the file beyond `rows`.

        Raises:
            UserError: it cannot be read or written.
        """
        try:
            if self.path.exists():
                with self.path.open(newline="") as file:
                    columns = next(csv.reader(file), self._columns)
                self._rewrite(columns)
            else:
                self.rows = 0
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{self.path} cannot be gone on with: {getattr(error, 'strerror', error)}.") from error

    def sync(self) -> int:
        """Bring the rows to the disk, for a checkpoint to rely on, and count them."""
        with suppress(OSError):  # there are none, or they cannot be written, which has been warned of
            sync(self.path)
        return self.rows

    def _rewrite(self, columns: list[str]) -> None:
        """Write the file, with the rows it has, under these columns."""
        rows = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = list(islice(csv.DictReader(file), self.rows))
        with written_aside(self.path) as aside, aside.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        self._columns, self.rows = columns, len(rows)


class TolerantWandbLogger(WandbLogger):
    """A WandbLogger that never stops a run: when W&B fails it says so once and is silent from then on."""

    _failed = False
    repeated = 0
    """Steps that rollbacks have taken training back by, all in all: W&B's own axis goes on."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log at a training step, which is W&B's own axis, too: it does not take a second time what a resumed run repeats."""
        self._log(lambda: dict(metrics), step)

    def go_back(self, steps: int) -> None:
        """Be told that training has gone back; what it does from there is other than before, and to be recorded."""
        self.repeated += steps

    def _log(self, values: Callable[[], dict[str, Any]], step: int | None) -> None:
        self._try(lambda: self.experiment.log(values(), step=None if step is None else step + self.repeated))

    def log_hyperparams(self, params: Any) -> None:
        self._try(super().log_hyperparams, params)

    def log_picture(self, key: str, path: Path, images_seen: int, step: int) -> None:
        """Log a picture file at its place on the axis."""
        import wandb

        self._log(lambda: {key: wandb.Image(str(path)), "images_seen": images_seen}, step)

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


def start_wandb(run_dir: Path, name: str, mode: WandbMode, repeated: int = 0) -> list[TolerantWandbLogger]:
    """Start or go on with the run folder's W&B run, without ever asking, blocking for long or failing.

    Its id is kept in the folder's file `wandb_id`; a sweep's, in the environment, is used where there is one.

    Args:
        run_dir: the run folder; the record is kept in its `wandb` folder.
        name: the run's name.
        mode: `auto` follows `WANDB_MODE` if that is set, and otherwise is online with an API key and offline without.
        repeated: steps that rollbacks have taken training back by.

    Returns:
        The logger, or nothing if it is off or cannot be had.
    """
    if mode == "auto":
        mode = _mode_of_environment()
    if mode == "off":
        return []
    import wandb  # half a second, which only runs that are recorded wait for

    for attempt in {"online": ["online", "offline"], "offline": ["offline"]}[mode]:
        try:
            run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "lightning_gan"),
                name=name,
                dir=run_dir,
                id=_wandb_id(run_dir),
                resume="allow",
                mode="online" if attempt == "online" else "offline",
                settings=wandb.Settings(silent=True, console="off", login_timeout=15, init_timeout=20, finish_timeout=60),
            )
            run.define_metric("images_seen")
            run.define_metric("*", step_metric="images_seen")
            logger = TolerantWandbLogger(experiment=run)
            logger.repeated = repeated
            return [logger]
        except Exception as error:  # whatever is wrong with it, training does not depend on it
            rank_zero_warn(f"W&B could not start {attempt} ({' '.join(str(error).split())}).")
    return []


def finish_wandb(failed: bool) -> None:
    """End what W&B has begun, if it has, in good time."""
    if (wandb := sys.modules.get("wandb")) is not None:
        with suppress(Exception):  # its service may have got the signal that ended us; what it has is on the disk
            wandb.finish(exit_code=int(failed))
            wandb.teardown()


def _wandb_id(run_dir: Path) -> str:
    file = run_dir / "wandb_id"
    if not (name := os.environ.get("WANDB_RUN_ID")):
        name = file.read_text().strip() if file.exists() else uuid.uuid4().hex[:8]
    write_text(file, name)
    return name


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
    import wandb

    try:
        wandb.setup(wandb.Settings(silent=True))
        return wandb.login(prompt=False, verify=False)
    except Exception:  # a key that is not even well-formed
        return False
