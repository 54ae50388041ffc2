"""Long work on many items: on all cores, in order, with a progress bar."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
R = TypeVar("R")

CHUNK = 16
"""Items handed to a thread at a time, so that handing over costs little even for the smallest images."""


def in_parallel(function: Callable[[T], R], items: Sequence[T], label: str) -> Iterator[R]:
    """Yield `function(item)` for each item, in the order of the items.

    Few results wait to be taken at any time, so memory stays flat however many items there are.

    Threads do, because Pillow decodes and resizes and hashlib hashes without the interpreter lock. Processes would be slower to
    start (each imports torch), must not be forked (torch has threads) and, spawned, would run a user's script again.
    """
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def work(start: int) -> list[R]:
        return [function(item) for item in items[start : start + CHUNK]]

    # The bar appears only where there is something to wait for.
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(items), desc=label, unit="image", delay=1) as bar:
        futures = (pool.submit(work, start) for start in range(0, len(items), CHUNK))
        window = deque(islice(futures, 4 * workers))
        while window:
            results = window.popleft().result()
            window.extend(islice(futures, 1))
            bar.update(len(results))
            yield from results
