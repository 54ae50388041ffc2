"""A first look at a command's files, before the seconds that it takes to import what reads them."""

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from lightning_gan.errors import UserError
from lightning_gan.run_folder import CONFIG

MISSING = {
    "--ckpt_path": "There is no checkpoint {}.",
    "--samples": "There are no samples {}: name a .npz or .npy file, or a folder of images.",
}


def look(command: str, options: Sequence[str]) -> None:
    """Look for files among the options of a command that are missing, and for configurations that are not YAML.

    Raises:
        UserError: there is one.
    """
    if {"-h", "--help"} & set(options):
        return
    if command == "fit" and (run := run_to_resume(options)) is not None:
        configuration_of(run)
    for file in _values(options, "-c", "--config"):
        if not os.path.lexists(file) or Path(file).is_file():  # what a pipe holds can be read only once
            from lightning_gan.configuration import expand

            expand(Path(file))
    for name in MISSING:
        for file in _values(options, name)[-1:]:  # the last one counts
            if file != "null":
                check_there(name, file)


def check_there(option: str, file: str | Path) -> None:
    """Look for a file that an option names.

    Raises:
        UserError: it is missing.
    """
    if not os.path.lexists(file):
        raise UserError(MISSING[option].format(file))


def _values(options: Sequence[str], *names: str) -> list[str]:
    """Find what an option was given, each time that it was."""
    values = []
    for option, following in pairwise([*options, "-"]):
        name, equals, value = option.partition("=")
        if name in names and (equals or not following.startswith("-")):
            values.append(value if equals else following)
    return values


def run_to_resume(options: Sequence[str]) -> Path | None:
    """Find `--resume RUN` among the options of a command, before they can be parsed: RUN's configuration goes before them.

    Raises:
        UserError: there are several.
    """
    runs = [Path(option.partition("=")[2]) for option in options if option.startswith("--resume=")]
    runs += [Path(value) for option, value in pairwise(options) if option == "--resume"]
    if len(runs) > 1:
        raise UserError("--resume takes one run at a time.")
    return runs[0] if runs else None


def configuration_of(run: Path) -> Path:
    """Find the configuration that a run has kept.

    Raises:
        UserError: there is no such run.
    """
    if not (run / CONFIG).is_file():
        known = "has no config.yaml in it" if run.is_dir() else "does not exist"
        raise UserError(f"--resume {run}: that folder {known}, so there is no run to go on with. Start one without --resume.")
    return run / CONFIG
