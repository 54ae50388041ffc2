"""A run's record with Weights & Biases: it never asks, never makes training wait for long and never fails it."""

import json
import os
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from typing import Any, Literal

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from lightning_gan.files import write_text
from lightning_gan.wandb_artifacts import Artifacts, WandbArtifacts

WandbMode = Literal["auto", "online", "offline", "off"]
ID = "wandb_id"
"""Names the file with the run's id, in its folder."""
FOLDER = "wandb"
"""Names the folder of its records, one for each start."""
SECRET = re.compile(r"api_?key|token|password|passwd|secret|credential", re.IGNORECASE)
"""Tells the names of options whose values are nobody's business."""
INLINE_SECRET = re.compile(rf"({SECRET.pattern})\w*['\"]?\s*:", re.IGNORECASE)
"""Tells the same of options whose values are trees, as `--trainer.logger '{"init_args": {"api_key": "x"}}'`."""
HIDDEN = "(not recorded)"
FINISH_TIMEOUT = 60
"""Seconds that the end of a run waits for the server."""


class TolerantWandbLogger(WandbLogger):
    """A WandbLogger that never stops a run: when W&B fails it says so once and is silent from then on."""

    _failed = False
    repeated = 0
    """Steps that rollbacks have taken training back by, all in all: W&B's own axis goes on."""
    recorded = -1
    """The last of W&B's steps that parts of the run have which were recorded offline; its server sees to those that it has."""
    artifacts: Artifacts | None = None

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log at a training step, which is W&B's own axis, too: it does not take a second time what a resumed run repeats."""
        self._log(lambda: dict(metrics), step)

    def go_back(self, steps: int) -> None:
        """Be told that training has gone back; what it does from there is other than before, and to be recorded."""
        self.repeated += steps

    def _log(self, values: Callable[[], dict[str, Any]], step: int | None) -> None:
        if step is None:
            self._try(lambda: self.experiment.log(values()))
        elif step + self.repeated > self.recorded:
            self._try(lambda: self.experiment.log(values(), step=step + self.repeated))

    def log_hyperparams(self, params: Any) -> None:
        self._try(super().log_hyperparams, without_secrets(params))

    def log_picture(self, key: str, path: Path, images_seen: int, step: int) -> None:
        """Log a picture or a film from its file at its place on the axis."""
        import wandb

        kind = wandb.Video if path.suffix == ".gif" else wandb.Image
        self._log(lambda: {key: kind(str(path)), "images_seen": images_seen}, step)

    def summarize(self, values: Mapping[str, Any]) -> None:
        """Note what is true of the run as a whole."""
        self._try(lambda: self.experiment.summary.update(dict(values)))

    def saved(self, checkpoint: Path, images_seen: int) -> None:
        """Be told that a checkpoint has been saved."""
        if self.artifacts is not None:
            self._try(self.artifacts.saved, checkpoint, images_seen)

    def ended(self, checkpoints: Path) -> None:
        """Be told that training has come to its end, and where its checkpoints are."""
        if self.artifacts is not None:
            self._try(self.artifacts.ended, checkpoints)

    def alert(self, kind: str, text: str, images_seen: int) -> None:
        """Alert to something about the run's health, and note in its summary when that was."""
        self._try(lambda: self.experiment.alert(kind, text, level="WARN", wait_duration=0))
        self.summarize({f"health/{kind}": images_seen})

    def _try(self, log: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        if self._failed:
            return
        try:
            log(*args, **kwargs)
        except Exception as error:
            self._failed = True
            rank_zero_warn(f"W&B stopped recording ({error}); training goes on, and metrics.csv has everything.")


def tell_best(trainer: Trainer, name: str, value: float, images_seen: int, checkpoint: Path) -> None:
    """Tell W&B of a best checkpoint that has just been saved."""
    for logger in wandb_loggers(trainer):
        logger.summarize({f"best/{name}": value, "best/images_seen": images_seen})
        logger.saved(checkpoint, images_seen)


def wandb_loggers(trainer: Trainer) -> list[TolerantWandbLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TolerantWandbLogger)]


def start_wandb(
    run_dir: Path, name: str | None, mode: WandbMode, repeated: int = 0, artifacts: WandbArtifacts = "none"
) -> list[TolerantWandbLogger]:
    """Start or go on with the run folder's W&B run, without ever asking, blocking for long or failing.

    Its id is kept in the folder's file `wandb_id`; a sweep's, in the environment, is used where there is one. A run of which
    some part waits to be uploaded goes on offline, as its parts are to be uploaded in their order.

    Args:
        run_dir: the run folder; the record is kept in its `wandb` folder.
        name: the run's name; None = the one that it has.
        mode: `auto` follows `WANDB_MODE` if that is set, and otherwise is online with an API key and offline without.
        repeated: steps that rollbacks have taken training back by.
        artifacts: which checkpoints to upload.

    Returns:
        The logger, or nothing if it is off or cannot be had.
    """
    if mode == "auto":
        mode = _mode_of_environment()
    if mode == "off":
        return []
    import wandb  # half a second, which only runs that are recorded wait for

    attempts = ["online", "offline"] if mode == "online" else ["offline"]
    if mode == "online" and (waiting := _waiting(run_dir)):
        attempts = ["offline"]
        rank_zero_warn(f"W&B records offline, as {waiting} is not uploaded yet: {sync_command(run_dir / FOLDER)}")
    settings: dict[str, Any] = {"silent": True, "console": "off", "login_timeout": 15, "init_timeout": 20}
    settings |= {"finish_timeout": FINISH_TIMEOUT, "finish_timeout_raises": True}
    if (often := "x_transaction_log_flush_interval") in wandb.Settings.model_fields:
        settings[often] = 1.0  # second, after which a killed run's rows are on the disk; of its own accord it is fifteen
    for attempt in attempts:
        try:
            recorded = _last_step(run_dir) if attempt == "offline" else -1
            with _discretion():
                run = wandb.init(
                    project=os.environ.get("WANDB_PROJECT", "lightning_gan"),
                    name=name,
                    dir=run_dir,
                    id=_wandb_id(run_dir) if name else (run_dir / ID).read_text().strip(),
                    resume="allow",
                    mode="online" if attempt == "online" else "offline",
                    settings=wandb.Settings(**settings),
                )
            run.define_metric("images_seen")
            run.define_metric("*", step_metric="images_seen")
            logger = TolerantWandbLogger(experiment=run)
            logger.repeated = repeated
            logger.recorded = recorded
            logger.artifacts = Artifacts(run, run_dir / FOLDER, artifacts)
            return [logger]
        except Exception as error:  # whatever is wrong with it, training does not depend on it
            rank_zero_warn(f"W&B could not start {attempt} ({' '.join(str(error).split())}).")
    return []


def add_scores(run_dir: Path, mode: WandbMode, scores: Mapping[str, Any]) -> list[TolerantWandbLogger]:
    """Add scores to the summary of a run's W&B run, if it has one and W&B is not off.

    Returns:
        Its logger, as of `start_wandb`.
    """
    loggers = start_wandb(run_dir, None, mode) if (run_dir / ID).is_file() else []
    for logger in loggers:
        logger.summarize(scores)
    return loggers


def where(run: Any) -> str:
    """Say where a W&B run can be looked at, or how it gets there."""
    return str(run.url) if not run.offline else f"recorded offline; upload with: {sync_command(Path(run.dir).parents[1])}"


def sync_command(records: Path, options: str = "") -> str:
    """Say how to upload all parts of a run that wait for it; W&B takes them one after the other, by the time they began."""
    return f"{'uv run ' if 'UV' in os.environ else ''}wandb sync {options}{shlex.quote(str(records))}"


def finish_wandb(failed: bool) -> None:
    """End what W&B has begun, if it has, in good time."""
    if (wandb := sys.modules.get("wandb")) is None:
        return
    run, late = wandb.run, False

    def give_up() -> None:  # with artifacts on their way W&B does not heed `finish_timeout`; what it has is on the disk
        nonlocal late
        late = True
        with suppress(Exception):
            wandb.setup()._connection._proc._process.kill()

    watch = Timer(FINISH_TIMEOUT + 10, give_up)
    watch.daemon = True
    watch.start()
    try:
        wandb.finish(exit_code=int(failed))
    except TimeoutError:
        late = True
    except Exception:  # its service may have got the signal that ended us
        pass
    with suppress(Exception):
        wandb.teardown()
    watch.cancel()
    if late and run is not None:
        print(
            f"W&B could not be sent everything. Send the rest with: {sync_command(Path(run.dir).parent, '--include-online ')}"
        )


def without_secrets(options: Any) -> Any:
    """Leave out what is said of passwords and the like in a tree of options, or in a command line."""
    match options:
        case Mapping():
            return {
                name: HIDDEN if isinstance(value, str) and SECRET.search(str(name)) else without_secrets(value)
                for name, value in options.items()
            }
        case [*items]:
            hidden = [without_secrets(item) for item in items]
            for i, option in enumerate(items):
                name, equals, value = option.partition("=") if isinstance(option, str) else ("", "", "")
                if not name.startswith("--"):
                    if isinstance(option, str) and INLINE_SECRET.search(option):
                        hidden[i] = HIDDEN
                elif equals and (SECRET.search(name) or INLINE_SECRET.search(value)):
                    hidden[i] = f"{name}={HIDDEN}"
                elif SECRET.search(name) and i + 1 < len(items):
                    hidden[i + 1] = HIDDEN
            return hidden
    return options


@contextmanager
def _discretion() -> Iterator[None]:
    """Keep secrets out of what W&B finds out by itself: it records the command, and all variables of SLURM."""
    argv, sys.argv = sys.argv, without_secrets(sys.argv)
    secrets = {name: os.environ.pop(name) for name in list(os.environ) if re.match("SLURM_.*(JWT|TOKEN|SECRET|KEY)", name)}
    try:
        yield
    finally:
        sys.argv = argv
        os.environ.update(secrets)


def _waiting(run_dir: Path) -> Path | None:
    """Find a part of the run that was recorded offline and is not uploaded yet."""
    records = sorted(run_dir.glob(f"{FOLDER}/offline-run-*/run-*.wandb"))
    return next((record.parent for record in records if not Path(f"{record}.synced").exists()), None)


def _last_step(run_dir: Path) -> int:
    """Ask W&B up to which step the offline parts of a run go; -1 if there are none, or it does not tell."""
    for record in sorted(run_dir.glob(f"{FOLDER}/offline-run-*/run-*.wandb"), reverse=True):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(record)]
        offline = os.environ | {"WANDB_MODE": "offline"}
        with suppress(OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError):
            done = subprocess.run(command, env=offline, capture_output=True, check=True, timeout=60)
            return int(json.loads(done.stdout)["step"])  # that of a part that only added scores is null
    return -1


def _wandb_id(run_dir: Path) -> str:
    file = run_dir / ID
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
        with _discretion():  # it starts W&B's service, which is told the environment
            wandb.setup(wandb.Settings(silent=True))
        return wandb.login(prompt=False, verify=False)
    except Exception:  # a key that is not even well-formed
        return False
