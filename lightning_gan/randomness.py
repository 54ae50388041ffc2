"""Every random draw is a pure function of what it is for.

A draw is keyed by (seed, purpose, step, ...): nothing depends on what was drawn before, so a resumed run draws what the
uninterrupted one would have, and no random state needs to be saved.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from torch.distributed import get_rank, get_world_size

from lightning_gan.processes import several

BLOCK = 256
"""Latents are drawn in blocks of this many, so that the i-th latent does not depend on how many are asked for."""


def derive(*key: int | str) -> int:
    """Derive a 63-bit seed from a key such as `(seed, "latents", step)`; different keys give unrelated seeds."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "little") >> 1


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a generator on `device` that is seeded by the key alone."""
    return torch.Generator(device).manual_seed(derive(*key))


def reseed(*key: int | str, rank: int) -> None:
    """Seed all further draws by the key.

    `rand`, `randn` and `randint` draw alike in all processes; torch's global generators, for dropout and the like, are seeded
    by the rank, too. A single process draws everything from the global ones.

    Cheaper than `torch.manual_seed`, which also visits back ends that are not in use.
    """
    seed = derive(*key, rank)
    for manual_seed in _manual_seeds():
        manual_seed(seed)
    _common.seed(derive(*key, 0))


@cache  # to ask for a GPU takes longer than to seed one
def _manual_seeds() -> list[Callable[[int], Any]]:
    """Find what seeds torch's global generators on this machine."""
    on_gpu = [torch.cuda.manual_seed] * torch.cuda.is_available() + [torch.mps.manual_seed] * torch.backends.mps.is_available()
    return [torch.default_generator.manual_seed, *on_gpu]


class _Common:
    """One generator for each device, in the same state in all processes."""

    def __init__(self) -> None:
        self.seed(0)

    def seed(self, seed: int) -> None:
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def on(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]


_common = _Common()


def rand(n: int, *shape: int, device: torch.device) -> Tensor:
    """Draw uniformly from [0, 1) for each of this process' n images of a batch: (n, ...).

    What `rand`, `randn` and `randint` draw for the processes' images, one process after the other, is what a single process
    draws that has all these images.
    """
    return _own_rows(n, lambda n, rng: torch.rand(n, *shape, device=device, generator=rng), device)


def randn(n: int, *shape: int, device: torch.device) -> Tensor:
    """Draw from a standard normal distribution for each image: (n, ...)."""
    return _own_rows(n, lambda n, rng: torch.randn(n, *shape, device=device, generator=rng), device)


def randint(low: int, high: int, n: int, *shape: int, device: torch.device) -> Tensor:
    """Draw integers from `low` to `high - 1` for each image: int64 (n, ...)."""
    return _own_rows(n, lambda n, rng: torch.randint(low, high, (n, *shape), device=device, generator=rng), device)


def _own_rows(n: int, draw: Callable[[int, torch.Generator | None], Tensor], device: torch.device) -> Tensor:
    """Draw for the images of all processes, and take this one's."""
    if not several():
        return draw(n, None)
    first = get_rank() * n
    return draw(n * get_world_size(), _common.on(device))[first : first + n]


@lru_cache(maxsize=2)  # a batch may straddle two epochs
def _epoch_order(seed: int, epoch: int, size: int) -> Tensor:
    return torch.randperm(size, generator=generator(seed, "order", epoch))


def batch_order(seed: int, step: int, batch_size: int, size: int) -> Tensor:
    """Say which of `size` images make up the batch of a step.

    The epochs' shuffled orders stand one after the other, and batch `step` is the window `[step * batch_size,
    (step + 1) * batch_size)` of that line: every image is seen once an epoch, none is dropped, every batch is full, and a set
    may be smaller than a batch.

    Returns:
        int64 indices, (batch_size,).
    """
    start, stop = step * batch_size, (step + 1) * batch_size
    epochs = range(start // size, (stop - 1) // size + 1)
    return torch.cat([_epoch_order(seed, epoch, size)[max(0, start - epoch * size) : stop - epoch * size] for epoch in epochs])


def numbered_latents(draw: Callable[[int, torch.Generator], Tensor], seed: int, start: int, stop: int) -> Tensor:
    """Draw latents number `start` to `stop - 1` of an endless numbered sequence.

    Latent i is a function of (seed, i): neither the batch size nor the number of processes or of latents changes it.

    Args:
        draw: `draw(n, generator) -> (n, ...)`, a generator network's `latents` method.

    Returns:
        (stop - start, ...), on the CPU.
    """
    first = start // BLOCK
    blocks = [draw(BLOCK, generator(seed, "numbered", block)) for block in range(first, (stop - 1) // BLOCK + 1)]
    return torch.cat(blocks)[start - first * BLOCK : stop - first * BLOCK]
