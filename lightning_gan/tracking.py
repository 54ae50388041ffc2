"""The numbers of a run, in files of its own."""

import csv
import os
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only, rank_zero_warn

from lightning_gan.errors import UserError
from lightning_gan.files import sync, written_aside
from lightning_gan.run_folder import Claim


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


def append(path: Path, line: str) -> None:
    """Add a line to a file, whole or not at all, in place of half a line that a kill may have left.

    Raises:
        OSError: it cannot be written.
    """
    size = None
    try:
        with path.open("a+b") as file:
            if size := file.tell():
                file.seek(size - 1)
                if file.read() != b"\n":
                    file.seek(0)
                    size = file.read().rfind(b"\n") + 1
                    file.truncate(size)
            file.write(line.encode())
    except OSError:
        with suppress(OSError):
            if size is not None:
                os.truncate(path, size)  # half a line would be glued to the next
        raise
