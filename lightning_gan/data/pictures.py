"""Images that are yet to be decoded: files in a folder, or arrays in memory."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_gan.data.parallel import in_parallel
from lightning_gan.errors import UserError

SUFFIXES = frozenset("avif bmp gif jfif jpe jpeg jpg pbm pgm png pnm ppm tif tiff webp".split())  # noqa: SIM905  # easier to read than a list of quoted words


class Pictures(Protocol):
    """A numbered collection of images."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Name an image, for messages."""

    def open(self, index: int) -> Image.Image:
        """Open an image with Pillow."""

    def digest(self, memory: Path) -> str:
        """Digest the names, the order and every byte; what is costly may be remembered in the folder `memory`."""


@dataclass(frozen=True)
class Arrays:
    """Images in memory, (N, H, W) or (N, H, W, 3) uint8."""

    array: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.array)

    def name(self, index: int) -> str:
        return f"image {index}"

    def open(self, index: int) -> Image.Image:
        return Image.fromarray(self.array[index])

    def digest(self, memory: Path) -> str:
        return sha256(repr(self.array.shape).encode() + self.array.tobytes()).hexdigest()


@dataclass(frozen=True)
class Files:
    """Image files, by their paths relative to `root`."""

    root: Path
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def open(self, index: int) -> Image.Image:
        return Image.open(self.root / self.names[index])

    def digest(self, memory: Path) -> str:
        """Digest names and contents; the contents are read only if a name, size or time of change is new since last time."""
        remembered = memory / self._listing()
        if remembered.is_file() and len(content := remembered.read_text(errors="replace")) == len(sha256().hexdigest()):
            return content
        content = self._content()
        # Forgetting costs only another reading; that nothing can be written, the cache will say.
        with contextlib.suppress(OSError):
            memory.mkdir(parents=True, exist_ok=True)
            temporary = remembered.with_suffix(f".{os.getpid()}")
            temporary.write_text(content)
            temporary.replace(remembered)
        return content

    def _listing(self) -> str:
        listing = sha256(os.fsencode(self.root.resolve()))
        for name in self.names:
            try:
                status = (self.root / name).stat()
            except OSError:  # a broken link, say: decoding will name and skip it
                listing.update(os.fsencode(name) + b"\0unreadable\0")
                continue
            listing.update(os.fsencode(name) + f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        return listing.hexdigest()

    def _content(self) -> str:
        def digest(name: str) -> bytes:
            try:
                with (self.root / name).open("rb") as file:
                    return os.fsencode(name) + b"\0" + file_digest(file, "sha256").digest()
            except OSError:
                return os.fsencode(name) + b"\0unreadable"

        content = sha256()
        for part in in_parallel(digest, self.names, "Reading"):
            content.update(part)
        return content.hexdigest()


def list_images(root: Path) -> list[str]:
    """List the image files below a folder by their relative paths, sorted; hidden files and other kinds are passed over."""
    return sorted(walk(root))


def walk(folder: Path | str, prefix: str = "", above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Yield the image files below a folder; links are followed, except back to a folder `above`, which would never end."""
    entries = visible(folder)
    status = Path(folder).stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    for entry in entries:
        if is_folder(entry):
            yield from walk(entry.path, f"{prefix}{entry.name}/", above | {identity})
        elif is_image(entry):
            yield prefix + entry.name


def is_image(entry: os.DirEntry[str]) -> bool:
    """Say whether this is an image by its name, be it a broken link; a pipe or a device could be read for ever."""
    return entry.name.rpartition(".")[2].lower() in SUFFIXES and _is_regular(entry)


def _is_regular(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file() or not Path(entry.path).exists()  # the former needs no look at the disk
    except OSError:  # a link to itself: broken
        return True


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def holds_images(entry: os.DirEntry[str]) -> bool:
    """Say whether there is an image anywhere below, looking no further than the first."""
    return is_folder(entry) and any(True for _ in walk(entry.path))


def visible(folder: Path | str) -> list[os.DirEntry[str]]:
    """List what is in a folder, without what file managers and archivers leave behind (`.DS_Store`, `._a.jpg`, `__MACOSX`)."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be read: {error.strerror}.") from None
