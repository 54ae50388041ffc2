"""The folder that a run owns."""

import os
import socket
import uuid
from contextlib import suppress
from itertools import count
from pathlib import Path

from lightning_gan.errors import UserError
from lightning_gan.files import write_text

RUNS = Path("runs")
CONFIG = "config.yaml"
PROVENANCE = "provenance.json"
"""Names the file that says with which data, code and machine a run was last started."""
CLAIM = ".claim"
DONE = "DONE"
"""Names the marker of a run that has come to its end."""
REQUEUE = "REQUEUE"
"""Names the marker of a run that was asked to stop, has saved everything, and is to be started again with `--resume`."""


class Claim:
    """A start's claim to its run folder, which ends where the run is started anew.

    A node that a cluster has given up may still train, while the run has gone on elsewhere. What it would write stops here.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / CLAIM
        self._claim = f"{uuid.uuid4()} on {socket.gethostname()} as process {os.getpid()}"

    def take(self, configuration: str) -> None:
        """Claim the folder, whoever holds it, and clear away the markers of an earlier start.

        Args:
            configuration: the run's, as it is now.

        Raises:
            UserError: the folder cannot be written to.
        """
        try:
            write_text(self._file, self._claim)
            write_text(self.folder / CONFIG, configuration)
            for left in (*self.folder.glob(".*.partial"), *self.folder.glob("*/.*.partial")):  # by starts that were killed
                left.unlink(missing_ok=True)
            for marker in (DONE, REQUEUE):
                (self.folder / marker).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"The run folder {self.folder} cannot be written to: {error.strerror}.") from error

    def check(self) -> None:
        """Look whether it still holds; called before anything is written.

        Raises:
            UserError: it does not.
        """
        try:
            holder = self._file.read_text()
        except OSError:  # nobody else, or a disk that is out of order for the moment
            return
        if holder and holder != self._claim:
            _, _, where = holder.partition(" ")
            raise UserError(f"{self.folder} was started anew, {where}, and this start of it ends.")

    def mark(self, marker: str) -> None:
        """Leave a marker for whoever watches the run.

        Raises:
            UserError: it cannot be written, or the claim has ended.
        """
        self.check()
        try:
            (self.folder / marker).touch()
        except OSError as error:
            raise UserError(f"The marker {self.folder / marker} could not be written: {error.strerror}.") from error


def remove_empty(folder: Path) -> None:
    """Remove a folder made by `make_run_folder` that a run did not get to use, and those above it if they are empty."""
    with suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()
        RUNS.rmdir()


def make_run_folder(name: str, chosen: str | None = None) -> Path:
    """Make the folder of a new run: the chosen one, which must be new or empty, or `runs/<name>/<number>`.

    A number is taken by making its folder, so that runs that start together do not share one.

    Raises:
        UserError: the folder cannot be made, or has something in it.
    """
    if Path(name).name != name or name == "..":
        raise UserError(f"--name {name} cannot name a folder.")
    try:
        if chosen is not None:
            folder = Path(chosen)
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / CONFIG).exists():
                raise UserError(f"The run folder {folder} has a run in it: --resume it, or name another with --run_dir.")
            if any(path for path in folder.iterdir() if path.suffix != ".partial" and path.name != CLAIM):  # of a start killed
                raise UserError(f"The run folder {folder} is not empty. Name another with --run_dir.")
            return folder
        parent = RUNS / name
        parent.mkdir(parents=True, exist_ok=True)
        taken = [int(path.name) for path in parent.iterdir() if path.name.isdecimal()]
        for number in count(max(taken, default=-1) + 1):
            try:
                (parent / str(number)).mkdir()
                break
            except FileExistsError:
                continue
        return parent / str(number)
    except OSError as error:
        raise UserError(
            f"The run folder {error.filename} cannot be made: {error.strerror}. Name another with --run_dir."
        ) from error
