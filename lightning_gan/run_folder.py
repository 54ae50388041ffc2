"""The folder that a run owns."""

from itertools import count
from pathlib import Path

from lightning_gan.errors import UserError

RUNS = Path("runs")


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
            if any(folder.iterdir()):
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
