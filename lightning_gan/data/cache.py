"""Images decoded once into a memory-mapped cache.

A cache is a folder `<name>-<key>` with the bytes of images (`images.u8`) and labels (`labels.i64`) and a `meta.json`. The key
digests the content of the source and the preprocessing, so a cache is never out of date: other data have another key. It is
built under a lock in a temporary folder that is renamed when complete, so a folder of that name is whole, unless damaged later.
"""

import errno
import json
import logging
import math
import os
import re
import shutil
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lightning_gan.data.decode import Preprocessing, pixels
from lightning_gan.data.parallel import CHUNK, in_parallel, in_processes
from lightning_gan.data.pictures import Files, Pictures
from lightning_gan.errors import UserError
from lightning_gan.files import expanded

SCHEMA = 1
"""Part of the key: to be raised whenever the same source and preprocessing would give other files."""

CHECKED_BYTES = 2**28
"""Images of up to this many bytes are compared with their digest at every start; of more, only the size is checked."""

CHUNK_BYTES = 2**22
"""Of images that wait together for being written; at least one does."""

Split = Literal["train", "test"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """What a data set knows before anything is decoded.

    Args:
        name: What to call it, in messages and as part of the cache's folder name.
        pictures: The images.
        held_out: Which of them are kept from training, (N,) bool.
        labels: The class of each image, where there are classes.
        class_names: Their names.
        max_corrupt: Which share of the images may be unusable; one image always may, unless this is 0.
    """

    name: str
    pictures: Pictures
    held_out: NDArray[np.bool_]
    labels: list[int] | None = None
    class_names: list[str] = field(default_factory=list)
    max_corrupt: float = 0


@dataclass(frozen=True)
class Prepared:
    """A data set that is ready to be used.

    Attributes:
        images: (N, C, H, W) uint8, memory-mapped: read from disk where and when it is touched.
        labels: (N,) int64, where there are classes.
        training: The first so many images are the training split, the rest is held out.
        skipped: One line for each file that could not be used, with the reason.
        fingerprint: Digest of the images, labels, class names and splits.
    """

    images: Tensor
    labels: Tensor | None
    training: int
    skipped: list[str]
    fingerprint: str

    def split(self, name: Split) -> tuple[Tensor, Tensor | None]:
        rows = slice(self.training) if name == "train" else slice(self.training, None)
        return self.images[rows], None if self.labels is None else self.labels[rows]


def default_folder() -> Path:
    """Say where caches are kept if nobody chooses: `$LIGHTNING_GAN_CACHE`, or what the XDG convention says."""
    if chosen := os.environ.get("LIGHTNING_GAN_CACHE"):
        return expanded(chosen)
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "lightning_gan"


def prepare(source: Source, preprocessing: Preprocessing, folder: Path) -> Prepared:
    """Map the source's cache, building it if it is not there. Of any number of processes that ask at once, one builds.

    Args:
        source: What to prepare.
        preprocessing: What is done to each image.
        folder: Where caches are kept.

    Raises:
        UserError: Too many images are unusable, or the cache cannot be written.
    """
    target = folder / f"{re.sub(r'[^A-Za-z0-9_]+', '-', source.name)}-{_key(source, preprocessing, folder)[:16]}"
    prepared = _load(target)
    if prepared is None:
        with _alone(folder, source.name):
            prepared = _load(target)
            if prepared is None:
                if os.path.lexists(target):
                    logger.warning("%s is damaged and is built again.", target)
                    shutil.rmtree(target) if target.is_dir() and not target.is_symlink() else target.unlink()
                _build(source, preprocessing, target)
                prepared = _load(target)
                assert prepared is not None
    _check_skipped(prepared.skipped, source)
    return prepared


def _key(source: Source, preprocessing: Preprocessing, folder: Path) -> str:
    content = source.pictures.digest(folder / "contents")
    facts = [SCHEMA, content, asdict(preprocessing), source.class_names, source.labels, source.held_out.tolist()]
    return sha256(json.dumps(facts).encode()).hexdigest()


def _fingerprint(meta: dict[str, Any]) -> str:
    facts = {name: meta[name] for name in ("shape", "training", "class_names", "images_sha256", "labels_sha256")}
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _load(target: Path) -> Prepared | None:
    """Map a cache, or return None if it is not there or not whole."""
    images_file, labels_file = target / "images.u8", target / "labels.i64"
    try:
        meta = json.loads((target / "meta.json").read_text())
        shape, labelled = meta["shape"], meta["labels_sha256"] is not None
        size = math.prod(shape)
        if meta["fingerprint"] != _fingerprint(meta) or images_file.stat().st_size != size:
            return None
        # A digest that its author can compute proves nothing: whoever made this, it must not be taken for what it is not.
        if len(shape) != 4 or min(shape) < 1 or not 0 < meta["training"] <= shape[0] or not isinstance(meta["skipped"], list):
            return None
        if labelled and labels_file.stat().st_size != 8 * shape[0]:
            return None
        if size <= CHECKED_BYTES and _digest(images_file) != meta["images_sha256"]:
            return None
        if labelled and _digest(labels_file) != meta["labels_sha256"]:
            return None
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, KeyError, TypeError):
        return None
    except OSError as error:
        raise UserError(
            f"The prepared images in {target} cannot be read: {error.strerror}. Remove them, or choose another folder with "
            "--data.cache_dir."
        ) from error
    # Not shared: whatever is done to the tensor, the file stays as it is.
    images = torch.from_file(str(images_file), shared=False, size=size, dtype=torch.uint8).view(shape)
    labels = torch.from_file(str(labels_file), shared=False, size=shape[0], dtype=torch.int64) if labelled else None
    return Prepared(images, labels, meta["training"], meta["skipped"], meta["fingerprint"])


@contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    """Let one process in at a time; the lock is the folder's, not the cache's, since one build already uses all cores."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("Waiting for another process that prepares images in %s.", folder)
            lock.acquire()
    except OSError as error:
        raise _cannot_be_kept(name, folder, error) from None
    try:
        # Whoever was building while holding the lock has ended: these are left from builds that were killed.
        for stale in folder.glob(_temporary(folder / "*").name):
            shutil.rmtree(stale, ignore_errors=True)
        yield
    finally:
        lock.release()


def _temporary(target: Path) -> Path:
    """Name the folder that becomes `target`; nobody else's folder has such a name, so leftovers may be removed."""
    return target.with_name(f".lightning_gan-{target.name}.tmp")


def _build(source: Source, preprocessing: Preprocessing, target: Path) -> None:
    needed = len(source.pictures) * preprocessing.channels * preprocessing.size**2
    if shutil.disk_usage(target.parent).free < needed:
        raise _disk_full(source.name, needed, target)
    temporary = _temporary(target)
    try:
        temporary.mkdir()
        _write(source, preprocessing, temporary)
        temporary.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(source.name, needed, target) from None
        raise _cannot_be_kept(source.name, target.parent, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _disk_full(name: str, needed: int, target: Path) -> UserError:
    return UserError(
        f"Preparing {name} needs {needed:,} bytes in {target.parent}, where there is not so much room. "
        "Make room, or choose another folder with --data.cache_dir."
    )


def _cannot_be_kept(name: str, folder: Path, error: OSError) -> UserError:
    return UserError(
        f"The prepared images of {name} cannot be kept in {folder}: {error.strerror}. "
        "Choose a folder that can be written to with --data.cache_dir or the environment variable LIGHTNING_GAN_CACHE."
    )


def _decoded(source: Source, preprocessing: Preprocessing, order: list[int]) -> Generator[bytes | str, None, None]:
    """Yield the pixels of each image, in order, or the reason why there are none."""
    pictures, label = source.pictures, f"Preparing {source.name}"

    def decode(index: int) -> bytes | str:
        try:
            with pictures.open(index) as image:
                return preprocessing(image).tobytes()
        except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to
            return f"{pictures.name(index)}: {error}"

    chunk = max(1, min(CHUNK, CHUNK_BYTES // (preprocessing.channels * preprocessing.size**2)))
    if type(pictures) is not Files:  # opened in a way that other processes may not know
        yield from in_parallel(decode, order, label, chunk)
        return
    names = [pictures.names[index] for index in order]
    decode_file = partial(pixels, pictures.root, preprocessing, Image.MAX_IMAGE_PIXELS)
    for index, found in zip(order, in_processes(decode_file, names, label, chunk), strict=True):
        # Not before this process has tried: a user may have taught its Pillow other formats, or to bear with cut-off files.
        yield decode(index) if found is None else found


def _write(source: Source, preprocessing: Preprocessing, folder: Path) -> None:
    order = np.argsort(source.held_out, kind="stable").tolist()  # training images first
    kept, skipped = [], []
    images_digest = sha256()
    decoded = _decoded(source, preprocessing, order)
    with (folder / "images.u8").open("wb") as file, warnings.catch_warnings(), closing(decoded):
        warnings.simplefilter("ignore")  # Pillow's grumbling at oddities that it can read
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for index, result in zip(order, decoded, strict=True):
            if isinstance(result, str):
                skipped.append(result)
            else:
                file.write(result)
                images_digest.update(result)
                kept.append(index)
        file.flush()
        os.fsync(file.fileno())
    if skipped:
        logger.warning("Skipped %d of %d images of %s:\n%s", len(skipped), len(order), source.name, _first(skipped))
    training = len(kept) - int(source.held_out[kept].sum())
    if training == 0:
        raise UserError(
            f"There is nothing to train on: no training image of {source.name} can be used. Give it others, or hold out fewer."
            f"\n{_first(skipped)}"
        )

    labels_digest = None
    if source.labels is not None:
        labels = np.array(source.labels, dtype=np.int64)[kept].tobytes()
        labels_digest = sha256(labels).hexdigest()
        _save(folder / "labels.i64", labels)
    meta = {
        "source": source.name,
        "shape": [len(kept), preprocessing.channels, preprocessing.size, preprocessing.size],
        "training": training,
        "class_names": source.class_names,
        "skipped": skipped,
        "preprocessing": asdict(preprocessing),
        "images_sha256": images_digest.hexdigest(),
        "labels_sha256": labels_digest,
    }
    _save(folder / "meta.json", json.dumps(meta | {"fingerprint": _fingerprint(meta)}, indent=1).encode())


def _save(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _first(skipped: list[str], count: int = 10) -> str:
    more = [f"  ... and {len(skipped) - count} more"] if len(skipped) > count else []
    return "\n".join([f"  {line}" for line in skipped[:count]] + more)


def check_share_of_corrupt(max_corrupt: float) -> float:
    """Refuse a share that is none.

    Raises:
        UserError: it is not between 0 and 1.
    """
    if not 0 <= max_corrupt <= 1:
        raise UserError(f"--data.max_corrupt must be at least 0 and at most 1, not {max_corrupt}.")
    return max_corrupt


def _check_skipped(skipped: list[str], source: Source) -> None:
    total = len(source.pictures)
    allowed = max(1, int(source.max_corrupt * total)) if source.max_corrupt > 0 else 0
    if len(skipped) > allowed:
        raise UserError(
            f"{len(skipped)} of {total} images of {source.name} cannot be used, more than --data.max_corrupt="
            f"{source.max_corrupt} allows. Repair or remove them, or raise that share.\n{_first(skipped)}"
        )
