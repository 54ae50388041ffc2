"""Anyone's generated images, as they are kept on disk: an `.npz` or `.npy` file, or a folder of pictures."""

import io
import math
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from hashlib import file_digest, sha256
from itertools import islice
from lzma import LZMAError
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lightning_gan.data.decode import Preprocessing
from lightning_gan.data.parallel import in_parallel
from lightning_gan.data.pictures import SUFFIXES, list_images
from lightning_gan.errors import UserError
from lightning_gan.first_look import MISSING

Shape = tuple[int, int, int]

MAX_HEADER = 10_000
"""Bytes; that of an array of images has some hundred."""


class SampleFile(ABC):
    """Generated images on disk, which are read a batch at a time.

    Args:
        path: the file or folder.
        image_shape: (C, H, W) that the images must have.
    """

    def __init__(self, path: Path, image_shape: Shape) -> None:
        self.path = path
        self.image_shape = image_shape

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 of the file, or of the names and contents of the pictures; reads all of them once."""

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """Read all images in their order, grey ones that were saved in colour as grey.

        Yields:
            uint8 (n, C, H, W), with n = `batch_size` but for the last.

        Raises:
            UserError: the file is damaged, or an image has another size or other channels than it must have.
        """
        for pixels in self._read(batch_size):  # (n, H, W, C), or C = 3 where it should be 1
            if self.image_shape[0] == 1 and pixels.shape[3] == 3:
                if not (pixels == pixels[..., :1]).all():
                    raise UserError(f"{self.path} is in colour, and the data is grey: was it made from other data?")
                pixels = pixels[..., :1]
            yield torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())

    @abstractmethod
    def _read(self, batch_size: int) -> Iterator[NDArray[np.uint8]]: ...


def open_samples(path: Path, image_shape: Shape) -> SampleFile:
    """Open generated images to be compared with data, whose images have the shape (C, H, W).

    An array is uint8, (N, H, W, C) or (N, H, W). A picture has the right size, and any mode that can be told to be 8 bits.

    Raises:
        UserError: there is nothing, or nothing that can be used, at the path.
    """
    with _sentences(path):
        is_folder, is_file, is_there = path.is_dir(), path.is_file(), path.exists()
    if is_folder:
        return _Pictures(path, image_shape)
    if not is_there:
        raise UserError(MISSING["--samples"].format(path))
    if path.suffix.lower() not in (".npz", ".npy"):
        raise UserError(f"{path} is neither a .npz or .npy file nor a folder of images, which is how samples are given.")
    if not is_file:  # to read a pipe is to wait for somebody to write to it
        raise UserError(f"{path} is no regular file, and is read more than once: write the samples to one.")
    return _Array(path, image_shape)


class _Array(SampleFile):
    """The array of an `.npy` file, or of an `.npz`, compressed or not: read as a stream, never unpickled."""

    def __init__(self, path: Path, image_shape: Shape) -> None:
        super().__init__(path, image_shape)
        with self._open() as (file, size):
            shape = self._read_header(file)
            self.shape = shape if len(shape) == 4 else (*shape, 1)
            self._check_shape(shape)
            if size - file.tell() < math.prod(shape):
                raise UserError(f"{path} is cut short: it ends before its {shape[0]:,} images do. Copy or make it again.")

    def __len__(self) -> int:
        return self.shape[0]

    @cached_property
    def digest(self) -> str:
        with _sentences(self.path), self.path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()

    def _read(self, batch_size: int) -> Iterator[NDArray[np.uint8]]:
        with self._open() as (file, _):
            self._read_header(file)
            for start in range(0, len(self), batch_size):
                shape = (min(batch_size, len(self) - start), *self.shape[1:])
                content = file.read(math.prod(shape))
                if start + batch_size >= len(self):
                    file.read(1)  # the end, where a zip file's checksum is compared
                yield np.frombuffer(content, np.uint8).reshape(shape)

    @contextmanager
    def _open(self) -> Iterator[tuple[IO[bytes], int]]:
        """Open the array with its header before it, and say how many bytes there are."""
        with _sentences(self.path):
            if self.path.suffix.lower() == ".npy":
                with self.path.open("rb") as file:
                    yield file, self.path.stat().st_size
            else:
                with zipfile.ZipFile(self.path) as archive:
                    member = archive.getinfo(self._member(archive))
                    with archive.open(member) as file:
                        yield file, member.file_size

    def _member(self, archive: zipfile.ZipFile) -> str:
        arrays = [name for name in archive.namelist() if name.endswith(".npy")]
        if "arr_0.npy" in arrays:
            return "arr_0.npy"
        if not arrays:
            raise UserError(f"{self.path} holds no arrays: save the images with np.savez(path, images).")
        if len(arrays) > 1:
            names = ", ".join(name.removesuffix(".npy") for name in arrays)
            raise UserError(f"{self.path} holds several arrays ({names}): call the one with the images arr_0.")
        return arrays[0]

    def _read_header(self, file: IO[bytes]) -> tuple[int, ...]:
        shape, fortran_order, dtype = _read_npy_header(file)
        if dtype.hasobject:
            raise UserError(f"{self.path} holds pickled objects, which are never read: save one array of uint8.")
        if dtype != np.uint8:
            raise UserError(
                f"{self.path} holds {dtype} and must hold uint8: round to 0 to 255, from [-1, 1] with "
                "np.clip(np.rint((x + 1) * 127.5), 0, 255).astype(np.uint8)."
            )
        if fortran_order and len(shape) > 1:
            raise UserError(f"{self.path} is in Fortran order: save np.ascontiguousarray(images).")
        return shape

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        channels, height, width = self.image_shape
        needed = f"(N, {height}, {width}, {channels})"
        if shape[1:3] != (height, width) or len(shape) > 4:
            raise UserError(
                f"{self.path} holds an array of shape {shape}, and the data needs {needed}: generate at that size, or name "
                "data of the size of these images."
            )
        if channels == 3 and self.shape[3] == 1:
            raise UserError(f"{self.path} is grey, and the data is in colour: was it made from other data?")
        if self.shape[3] != channels and (channels, self.shape[3]) != (1, 3):
            raise UserError(f"{self.path} holds images with {self.shape[3]} channels, and those of the data have {channels}.")
        if shape[0] < 1:
            raise UserError(f"{self.path} holds 0 images.")


class _Pictures(SampleFile):
    """The image files below a folder, sorted by name."""

    def __init__(self, path: Path, image_shape: Shape) -> None:
        super().__init__(path, image_shape)
        channels, height, _ = image_shape
        if channels not in (1, 3):
            raise UserError(f"Images of {channels} channels are read from a .npz or .npy file, not from a folder as {path}.")
        self.names = list_images(path)
        if not self.names:
            raise UserError(f"{path} holds no images: nothing below it ends in .{', .'.join(sorted(SUFFIXES))}.")
        self.preprocessing = Preprocessing(height, 3)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def digest(self) -> str:
        def digest_one(name: str) -> bytes:
            with _sentences(self.path / name), (self.path / name).open("rb") as file:
                return os.fsencode(name) + b"\0" + file_digest(file, "sha256").digest()

        content = sha256()
        for part in in_parallel(digest_one, self.names, "Reading samples"):
            content.update(part)
        return content.hexdigest()

    def _read(self, batch_size: int) -> Iterator[NDArray[np.uint8]]:
        pictures = in_parallel(self._decode, self.names, "Reading samples")
        while batch := list(islice(pictures, batch_size)):
            yield np.stack(batch)

    def _decode(self, name: str) -> NDArray[np.uint8]:
        """Decode to (H, W, 3)."""
        path = self.path / name
        try:
            with Image.open(path) as image:
                self._check(path, image)
                return self.preprocessing(image).transpose(1, 2, 0)
        except UserError:
            raise
        except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to
            raise UserError(f"{path} cannot be read as an image: {error}. Repair or remove it.") from error

    def _check(self, path: Path, image: Image.Image) -> None:
        channels, height, width = self.image_shape
        if image.size != (width, height):
            raise UserError(
                f"{path} is {image.width} x {image.height} pixels, and the images of the data are {width} x {height}: nothing "
                "is resized here. If it is no sample, remove it."
            )
        if channels == 3 and image.mode.startswith(("1", "L", "I", "F")):
            raise UserError(f"{path} is grey, and the data is in colour: was it made from other data?")


def _read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    length = file.read(2 if version == (1, 0) else 4)
    if (size := int.from_bytes(length, "little")) > MAX_HEADER:  # compressed, a few bytes could be gigabytes
        raise ValueError(f"its header of {size:,} bytes is too long")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    header = io.BytesIO(length + file.read(size))
    try:
        return read(header)
    except Exception as error:  # it tokenizes and parses, which fails in as many ways
        raise ValueError(f"its header cannot be read: {error}") from error


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """Say in one sentence what is wrong with a file."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, LZMAError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path} is damaged, or not a {path.suffix} file ({error}). Copy or make it again.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
