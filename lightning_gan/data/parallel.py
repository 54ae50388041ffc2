"""Long work on many items: on all cores, in order, with a progress bar."""

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import islice
from queue import SimpleQueue
from signal import Signals
from typing import IO, Generic, Self, TypeVar

from tqdm import tqdm

from lightning_gan.errors import UserError

T = TypeVar("T")
R = TypeVar("R")

CHUNK = 16
"""Items handed over at a time, so that handing over costs little even for the smallest images."""

MANY = 4096
"""Items for which it pays to start processes, which takes a few tenths of a second."""

MAX_PROCESSES = 32
"""More than this, and the process that takes their results could not keep up."""


def in_parallel(function: Callable[[T], R], items: Sequence[T], label: str, chunk: int = CHUNK) -> Iterator[R]:
    """Yield `function(item)` for each item, in the order of the items, from threads.

    Few results wait to be taken at any time, so memory stays flat however many items there are.

    Threads suit what is done without the interpreter's lock (hashing, decoding large images), and what is known to this process
    only. Opening a small image is Python: a fifth of the time that a JPEG of 178x218 takes, for which threads wait in turn.
    """
    number = _cores()
    with ThreadPoolExecutor(number) as pool:
        yield from _in_order(pool, number, lambda part: [function(item) for item in part], items, label, chunk)


def in_processes(function: Callable[[T], R], items: Sequence[T], label: str, chunk: int = CHUNK) -> Iterator[R]:
    """Do as `in_parallel` does, but from processes where there are many items and several cores.

    Args:
        function: A module's, or a `partial` of such, since it is pickled. Each process imports that module, so it should import
            little; and it should return what it fails at, since nobody is there to handle what it raises.
        items: They are pickled, and so are the results.
        label: Says what is done, in front of the progress bar and in messages.
        chunk: Items handed over at a time.

    Raises:
        UserError: a process was killed.
    """
    number = min(_cores(), MAX_PROCESSES)
    if number == 1 or len(items) < MANY:
        yield from in_parallel(function, items, label, chunk)
        return
    idle: SimpleQueue[_Worker[T, R]] = SimpleQueue()

    def call(part: Sequence[T]) -> list[R]:
        worker = idle.get()
        try:
            return worker(part)
        finally:
            idle.put(worker)

    # The processes end before the threads, which wait for their answers.
    with ThreadPoolExecutor(number) as pool, ExitStack() as workers:
        for _ in range(number):
            idle.put(workers.enter_context(_Worker(function, label)))
        yield from _in_order(pool, number, call, items, label, chunk)


def _cores() -> int:
    """Count the cores that this process may use; not every cluster binds a task to its own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, int(os.environ.get("SLURM_CPUS_PER_TASK", cores)))


def _in_order(
    pool: ThreadPoolExecutor,
    number: int,
    call: Callable[[Sequence[T]], list[R]],
    items: Sequence[T],
    label: str,
    chunk: int,
) -> Iterator[R]:
    # The bar appears only where there is something to wait for.
    with tqdm(total=len(items), desc=label, unit="image", delay=1) as bar:
        futures = (pool.submit(call, items[start : start + chunk]) for start in range(0, len(items), chunk))
        window = deque(islice(futures, 4 * number))
        try:
            while window:
                results = window.popleft().result()
                window.extend(islice(futures, 1))
                bar.update(len(results))
                yield from results
        finally:
            for future in window:
                future.cancel()


class _Worker(Generic[T, R]):
    """A process that calls a function of items.

    Neither forked, since torch has threads, nor started by `multiprocessing`, which would run the script of a user again who
    does not guard it by `if __name__ == "__main__"`.
    """

    def __init__(self, function: Callable[[T], R], label: str) -> None:
        self.label = label
        self.function: bytes | None = pickle.dumps(function)
        work = "import sys; sys.path[:] = sys.argv[1:]; from lightning_gan.data.worker import work; work()"
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", work, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"OMP_NUM_THREADS": "1"},  # or NumPy would start a thread for each core, in each process
                process_group=0,  # Ctrl-C is for this process, which kills the others
            )
        except OSError as error:
            raise UserError(
                f"{label}: no further process can be started ({error.strerror}). Start again with fewer cores (taskset -c 0)."
            ) from error
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.calls: IO[bytes] = self.process.stdin
        self.answers: IO[bytes] = self.process.stdout

    def __call__(self, items: Sequence[T]) -> list[R]:
        try:
            if self.function is not None:
                self.calls.write(self.function)
                self.function = None
            self.calls.write(pickle.dumps(items))
            self.calls.flush()
            answer: list[R] = pickle.load(self.answers)
        except (OSError, EOFError, pickle.UnpicklingError, ValueError):  # the last if another call has seen its end
            self._hang_up()
            status = self.process.wait()
            if status >= 0:
                raise UserError(f"{self.label}: a process failed, with the error above.") from None
            raise UserError(
                f"{self.label}: a process was killed ({Signals(-status).name}), perhaps for want of memory. "
                "Start again with more of it or fewer cores."
            ) from None
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._hang_up()

    def _hang_up(self) -> None:
        for pipe in (self.calls, self.answers):
            with suppress(BrokenPipeError):  # what was not sent any more
                pipe.close()
