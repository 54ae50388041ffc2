"""Every random draw is a pure function of what it is for.

A draw is keyed by (seed, purpose, step, ...): nothing depends on what was drawn before, so a resumed run draws what the
uninterrupted one would have, and no random state needs to be saved.
"""

from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b

import torch
from torch import Tensor

BLOCK = 256
"""Latents are drawn in blocks of this many, so that the i-th latent does not depend on how many are asked for."""


def derive(*key: int | str) -> int:
    """Derive a 63-bit seed from a key such as `(seed, "latents", step)`; different keys give unrelated seeds."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "little") >> 1


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a generator on `device` that is seeded by the key alone."""
    return torch.Generator(device).manual_seed(derive(*key))


def reseed(*key: int | str) -> None:
    """Seed the global generators by the key, for what draws from them: dropout, noise inputs, random augmentation.

    Cheaper than `torch.manual_seed`, which also visits back ends that are not in use.
    """
    seed = derive(*key)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


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
    line = torch.cat([_epoch_order(seed, epoch, size) for epoch in epochs])
    offset = start - epochs.start * size
    return line[offset : offset + batch_size]


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
