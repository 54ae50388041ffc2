"""Files that are whole or not there."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning_gan.errors import UserError


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Give a file beside `path` to write, which takes its place if all goes well, and is gone if not.

    Once it has taken the place it is on the disk, and not only on its way there.
    """
    aside = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.partial")  # nobody else's, anywhere
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        sync(aside)
        aside.replace(path)
        with suppress(OSError):  # some file systems do not do that for folders
            sync(path.parent)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with written_aside(path) as aside:
        aside.write_text(text)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's names, is on the disk and would outlast a power cut.

    Raises:
        OSError: it cannot be.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def expanded(path: str) -> Path:
    """Put the home folder for a leading ~.

    Raises:
        UserError: nobody is called that.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"The home folder in {path} is not known. Write the whole path.") from error
