"""MNIST, in the files that torchvision downloads."""

import gzip
import math
import socket
import tempfile
import zlib
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_gan.data.base import DataModule
from lightning_gan.data.cache import Source
from lightning_gan.data.decode import Preprocessing, Resample
from lightning_gan.data.pictures import Arrays
from lightning_gan.errors import UserError
from lightning_gan.files import expanded

FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))

MAX_BYTES = 2**30
"""Read of a file at most: a few bytes of gzip could be any number."""


class MNIST(DataModule):
    """60,000 handwritten digits of 28x28 pixels, and 10,000 held out.

    Args:
        root: Folder that holds `MNIST/raw/train-images-idx3-ubyte` and its three companions (or that `MNIST` or `raw` folder
            itself); if they are not there, they are downloaded to it.
        image_size: Height and width: 28 as they are, 32 with a black margin of 2 pixels as is usual, or resized to any other.
        resample: How they are resized; each choice is antialiased.
        **options: As for every data set.
    """

    def __init__(self, root: str = "data", image_size: int = 28, resample: Resample = "bilinear", **options: Any) -> None:
        super().__init__("MNIST", Preprocessing(image_size, channels=1, resample=resample), **options)
        self.root = expanded(root)

    @cached_property
    def class_names(self) -> list[str]:
        return [str(digit) for digit in range(10)]

    def source(self) -> Source:
        raw = _find(self.root) or _download(self.root)
        images, labels, held_out = [], [], []
        for part in ("train", "t10k"):
            images.append(_read_idx(raw, f"{part}-images-idx3-ubyte", dimensions=3))  # (N, 28, 28)
            labels.append(_read_idx(raw, f"{part}-labels-idx1-ubyte", dimensions=1))  # (N,)
            held_out.append(np.full(len(images[-1]), part == "t10k"))
            if len(images[-1]) != len(labels[-1]):
                raise UserError(
                    f"The {part}-* files in {raw} do not belong together: {len(images[-1])} images, {len(labels[-1])} labels. "
                    "Delete them, and they are downloaded again."
                )
        if images[0].shape[1:] != images[1].shape[1:] or max(y.max(initial=0) for y in labels) >= len(self.class_names):
            raise UserError(f"The files in {raw} have images of two sizes or labels above 9: let --data.root name MNIST's.")
        pixels = np.concatenate(images)
        if self.preprocessing.size == 32:
            pixels = np.pad(pixels, ((0, 0), (2, 2), (2, 2)))  # (N, 32, 32)
        return Source(self.name, Arrays(pixels), np.concatenate(held_out), np.concatenate(labels).tolist(), self.class_names)


def _find(root: Path) -> Path | None:
    """Return the folder with the four files, each plain or with .gz, if there is one."""
    for folder in (root / "MNIST" / "raw", root / "raw", root):
        if all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in FILES):
            return folder
    return None


def _download(root: Path) -> Path:
    from torchvision import datasets  # seconds of import that only this needs

    raw = root / "MNIST" / "raw"
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)  # where a firewall swallows packets, waiting would take minutes
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Beside its place, and moved there when whole: torchvision takes a file for good if it is there.
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as temporary:
            datasets.MNIST(temporary, download=True)
            raw.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                (Path(temporary) / "MNIST" / "raw" / name).replace(raw / name)
    except (OSError, HTTPException, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"MNIST is not in {root} and could not be downloaded to it ({reason}). "
            f"Connect to the network, or let --data.root name a folder whose MNIST/raw holds {', '.join(FILES)}."
        ) from None
    finally:
        socket.setdefaulttimeout(patience)
    return raw


def _read_idx(folder: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    """Read a file of the format that http://yann.lecun.com/exdb/mnist describes: two zeros, type, dimensions, sizes, bytes."""
    path = folder / name
    try:
        with path.open("rb") if path.is_file() else gzip.open(path := folder / f"{name}.gz") as file:
            content = file.read(MAX_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it, and it is downloaded again.") from None
    head = 4 + 4 * dimensions
    shape = [int.from_bytes(content[start : start + 4]) for start in range(4, head, 4)]
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) != head + math.prod(shape):
        raise UserError(
            f"{path} is damaged: it is not an idx file of the length it announces; delete it, and it is downloaded again."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=head).reshape(shape)
