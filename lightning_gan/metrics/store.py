"""Tensors computed once and kept on disk, for all runs and processes that need the same."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, uint8

SCHEMA = 2
"""Part of the key: to be raised whenever the same spec would give other tensors."""

Content = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors, and facts about them that JSON can hold."""

logger = logging.getLogger(__name__)


def stored(folder: Path, name: str, spec: dict[str, Any], make: Callable[[], Content]) -> Content:
    """Return what `make` does, from `folder` if it is there. Of any number of processes that ask at once, one computes.

    Args:
        folder: Where to keep it. If that cannot be written to, it is computed each time, with a warning.
        name: What it is, as part of the file's name.
        spec: All that decides what `make` returns, of values that JSON can hold.
        make: Called while other processes wait, so it must not wait for them.

    Returns:
        The tensors, on the CPU, and the facts.
    """
    described = json.dumps({"schema": SCHEMA, "spec": spec}, sort_keys=True)
    path = folder / f"{name}-{sha256(described.encode()).hexdigest()[:20]}.safetensors"
    content = _load(path, described)
    if content is None:
        with _alone(path):
            content = _load(path, described)
            if content is None:
                if path.exists():
                    logger.warning("%s is damaged and is computed again.", path)
                content = _portable(*make())
                _save(path, described, *content)
    return content


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in hexadecimal; independent of order, device and memory layout."""
    total = sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(uint8).numpy().data)
    return total.hexdigest()


def _portable(tensors: dict[str, Tensor], facts: dict[str, Any]) -> Content:
    """Bring content to the form in which it comes from disk, so that the first to ask gets what all others do."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, json.loads(json.dumps(facts))


def _load(path: Path, described: str) -> Content | None:
    """Read a file, or return None if it is not there, not whole or of something else."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
        if metadata.get("described") != described or metadata.get("digest") != digest(tensors):
            return None
        return tensors, json.loads(metadata["facts"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _save(path: Path, described: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    metadata = {"described": described, "digest": digest(tensors), "facts": json.dumps(facts)}
    aside = path.with_name(f".{path.name}.partial")  # the lock is held: what is left of a killed writer may be overwritten
    try:
        with aside.open("wb") as file:
            file.write(save(tensors, metadata))
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        logger.warning("%s cannot be kept, so that it will be computed again: %s.", path, error.strerror)
        with suppress(OSError):
            aside.unlink()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process in at a time, where that can be had."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("Waiting for another process that computes %s.", path)
            lock.acquire()
    except OSError:
        pass  # `_save` will say so
    try:
        yield
    finally:
        lock.release()
