"""Runs that are killed, gone on with and compared with one that never was.

A run is a process that a server forks with everything imported, so that a start takes a fraction of a second.
"""

import ctypes
import io
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import reduce, wraps
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
import yaml
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from lightning_gan.__main__ import main
from lightning_gan.run_folder import CONFIG, DONE

PHASES = ("start", "step", "evaluation", "checkpoint", "end")
RUN = "run"
"""The run folder, within the folder that a run is started from."""


class Place(NamedTuple):
    """A place to be killed at.

    Attributes:
        name: in words.
        target: the function that is there, `module:qualified.name` within lightning_gan.
        when: `before` or `after` the function, or `amid` what it writes.
    """

    name: str
    target: str
    when: str = "before"


PLACES = [
    Place("before config.yaml", "run_folder:Claim.take"),
    Place("after config.yaml", "run_folder:Claim.take", "after"),
    Place("before metrics.csv is rewritten", "tracking:MetricsCSV._rewrite"),
    Place("between D's step and G's", "gan:GAN.generator_step"),
    Place("between G's step and its average's", "ema:AveragedGenerator.update"),
    Place("before a row of metrics.csv", "tracking:MetricsCSV.log_metrics"),
    Place("in a row of metrics.csv", "tracking:MetricsCSV.log_metrics", "amid"),
    Place("between metrics.csv's header and its rows", "tracking:csv.DictWriter.writerows"),
    Place("before a picture", "callbacks.samples:SampleGrid._write"),
    Place("between a picture and its name", "callbacks.samples:SampleGrid._write", "amid"),
    Place("before a film", "callbacks.walks:interpolation.drawn"),
    Place("while scoring", "metrics.suite:Suite.score"),
    Place("between scores and their row", "callbacks.evaluation:Evaluation.logged"),
    Place("between the row and scores.json", "scorecard:write"),
    Place("between scores.json and best.ckpt", "callbacks.evaluation:Evaluation._keep_best"),
    Place("after best.ckpt", "callbacks.evaluation:Evaluation._keep_best", "after"),
    Place("in a checkpoint", "callbacks.checkpoint:torch.save", "amid"),
    Place("before a file is on the disk", "files:sync"),
    Place("after a file is on the disk", "files:sync", "after"),
    Place("between previous.ckpt and its name", "callbacks.checkpoint:os.link", "after"),
    Place("between previous.ckpt and last.ckpt", "callbacks.checkpoint:_keep", "after"),
    Place("between the last step and DONE", "run_folder:Claim.mark"),
]
STARTING = ("lightning_gan.cli", "lightning_gan.evaluating", "sklearn.datasets", "wandb")
"""What the server imports: all that a run does."""


class Kill(NamedTuple):
    """When to kill a process: after so many seconds, or when it comes to a place for the n-th time."""

    seconds: float = 0.0
    place: Place | None = None
    n: int = 1

    def __str__(self) -> str:
        return f"{self.n}. time {self.place.name}" if self.place else f"after {self.seconds:.3f} s"


class Start(NamedTuple):
    """What became of a run's process, the first if there are several.

    Attributes:
        killed: whether it was.
        phase: what it was at when it ended.
        times: how often it came to each place.
        seconds: how long it lived.
    """

    killed: bool
    phase: str
    times: list[int]
    seconds: float


class Shared(NamedTuple):
    """What a process tells of itself as it goes on, in memory that outlives it."""

    phase: Any  # ctypes.c_int: index in PHASES
    times: Any  # array of ctypes.c_int: one for each of PLACES


def start(arguments: Sequence[str], folder: Path, kill: Kill | None = None, processes: int = 1, timeout: float = 300) -> Start:
    """Start `python -m lightning_gan ARGUMENTS` in a folder, kill it or let it end, and wait for that.

    Its output is added to the folder's file `log`.

    Args:
        arguments: the command.
        folder: where to start it.
        kill: when to kill it. The first process is the one that comes to a place; the others go with it.
        processes: how many there are, started as `torchrun` does.
        timeout: seconds after which it counts as hanging.

    Raises:
        AssertionError: it ended as it should not.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(STARTING))
    shared = Shared(context.RawValue(ctypes.c_int, 0), context.RawArray(ctypes.c_int, len(PLACES)))
    mine: list[tuple[Kill | None, Shared | None]] = [(kill, shared), *[(None, None)] * (processes - 1)]
    environments = _environments(processes) if processes > 1 else [{}]
    started = time.monotonic()
    children = [
        context.Process(target=_run, args=(list(arguments), folder, *of_it, environment))
        for of_it, environment in zip(mine, environments, strict=True)
    ]
    try:
        for child in children:
            child.start()
        first = children[0]
        first.join(kill.seconds if kill is not None and kill.place is None else timeout)
        if kill is None or first.exitcode == 0:
            for child in children:
                child.join(timeout)
        codes = [child.exitcode for child in children]
    finally:
        for child in children:
            child.kill()
            child.join()
    seconds = time.monotonic() - started
    allowed = [0] if kill is None else [0, -signal.SIGKILL, None]
    if codes[0] not in allowed or (codes[0] == 0 and any(codes)) or seconds > timeout:
        raise AssertionError(f"{folder}: ended with {codes} after {seconds:.0f} s\n{_end(folder)}")
    return Start(codes[0] != 0, PHASES[shared.phase.value], list(shared.times), seconds)


def go_through(command: Sequence[str], folder: Path, kills: Sequence[Kill], processes: int = 1) -> list[tuple[Kill, str]]:
    """Take a run to its end, and kill it on the way.

    Args:
        command: starts the run in `RUN`.
        folder: where to start it; is made.
        kills: for each start the next one, as long as there are any.
        processes: how many there are in each.

    Returns:
        The kills that came to pass before the run's end, and the phase in which they fell.
    """
    folder.mkdir()
    fallen: list[tuple[Kill, str]] = []
    while not (folder / RUN / DONE).exists():
        known = (folder / RUN / CONFIG).exists()
        kill = kills[len(fallen)] if len(fallen) < len(kills) else None
        outcome = start(["fit", "--resume", RUN] if known else command, folder, kill, processes)
        if kill is not None and outcome.killed:
            fallen.append((kill, outcome.phase))
        elif not (folder / RUN / DONE).exists():
            raise AssertionError(f"{folder} has come to an end without DONE:\n{_end(folder)}")
    return fallen


def differences(expected: Path, found: Path) -> list[str]:
    """Compare two run folders bit for bit, but for what is of the moment: seconds, speed, events, paths, W&B's records."""
    unequal = []
    for name in ("last.ckpt", "previous.ckpt", "best.ckpt"):
        files = [run / "checkpoints" / name for run in (expected, found)]
        if [file.exists() for file in files] == [True, True]:
            unequal += [f"{name}: {path}" for path in _unequal(*(torch.load(file, weights_only=True) for file in files))]
        elif name != "previous.ckpt" and files[0].exists() != files[1].exists():  # a run may end before it has one
            unequal.append(f"{name} is there in one of them alone")
    for pattern in ("metrics.csv", "samples/*", "walks/*"):
        names = [sorted(str(path.relative_to(run)) for path in run.glob(pattern)) for run in (expected, found)]
        if names[0] != names[1]:
            unequal.append(f"{pattern}: {names}")
        both = set(names[0]) & set(names[1])
        unequal += [name for name in both if (expected / name).read_bytes() != (found / name).read_bytes()]
    configurations = [yaml.safe_load((run / "config.yaml").read_text()) for run in (expected, found)]
    if configurations[0] != configurations[1]:  # 0 and 0.0 are the same
        unequal.append("config.yaml")
    scores = [json.loads((run / "scores.json").read_text()) for run in (expected, found)]
    for score in scores:
        del score["seconds"], score["source"]
    return unequal + [f"scores.json: {path}" for path in _unequal(*scores)]


def _unequal(a: Any, b: Any, path: str = "") -> Iterator[str]:
    """Say where two trees of plain data and tensors differ, if only in a bit or in the order of their keys."""
    if type(a) is not type(b):
        yield f"{path}: {type(a).__name__} and {type(b).__name__}"
    elif isinstance(a, dict):
        if list(a) != list(b):
            yield f"{path}: {list(a)} and {list(b)}"
        for key in a.keys() & b.keys():
            yield from _unequal(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        if len(a) != len(b):
            yield f"{path}: {len(a)} and {len(b)} items"
        for i, pair in enumerate(zip(a, b, strict=False)):
            yield from _unequal(*pair, f"{path}[{i}]")
    elif isinstance(a, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape or _bytes(a) != _bytes(b):
            yield f"{path}: tensors"
    elif repr(a) != repr(b):  # which tells -0.0 from 0.0, and not NaN from NaN
        yield f"{path}: {a!r} and {b!r}"


def _bytes(x: torch.Tensor) -> bytes:
    return x.contiguous().flatten().view(torch.uint8).numpy().tobytes() if x.numel() else b""


def _end(folder: Path) -> str:
    return (folder / "log").read_text()[-4000:]


def _environments(processes: int) -> list[dict[str, str]]:
    """Say what `torchrun` tells its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "kill", "GROUP_RANK": "0"}
    common |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def _run(arguments: list[str], folder: Path, kill: Kill | None, shared: Shared | None, environment: dict[str, str]) -> NoReturn:
    """Be the process."""
    os.chdir(folder)
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    torch.set_num_threads(1)
    os.environ |= environment
    setattr(rank_zero_only, "rank", int(environment.get("RANK", 0)))  # noqa: B010  # read when Lightning was imported; untyped
    if shared is not None:
        print("$", *arguments, "#", kill, flush=True)
        _follow(shared)
        for i, place in enumerate(PLACES):
            n = kill.n if kill is not None and kill.place == place else 0
            _watch(place, lambda i=i, n=n: _count(shared, i) == n)  # type: ignore[misc]  # bound here, used later
    sys.exit(main(arguments))


def _count(shared: Shared, i: int) -> int:
    shared.times[i] += 1
    return int(shared.times[i])


def _follow(shared: Shared) -> None:
    """Note the phase in which the process is."""

    def follow(target: str, phase: str, then: str | None = None) -> None:
        def around(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            before, shared.phase.value = shared.phase.value, PHASES.index(phase)
            result = function(*args, **kwargs)
            shared.phase.value = PHASES.index(then) if then else before
            return result

        _wrap(target, around)

    follow("gan:GAN.training_step", "step", "step")
    follow("callbacks.evaluation:Evaluation.act", "evaluation")
    follow("callbacks.checkpoint:AtomicCheckpointIO.save_checkpoint", "checkpoint")
    follow("cli:fit_with_rollbacks", "start", "end")


def _watch(place: Place, is_due: Callable[[], bool]) -> None:
    """Let the process kill itself at a place when it is due."""

    def around(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if place.when == "before" and is_due():
            _die()
        if place.when == "amid" and is_due():
            _amid(function, *args, **kwargs)
        result = function(*args, **kwargs)
        if place.when == "after" and is_due():
            _die()
        return result

    _wrap(place.target, around)


def _amid(function: Callable[..., Any], *args: Any, **kwargs: Any) -> NoReturn:
    """Die with half of it written."""
    if function.__name__ == "save":
        checkpoint, file = args
        function(checkpoint, whole := io.BytesIO())
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
        file.flush()
    elif function.__name__ == "log_metrics":
        path = args[0].path
        function(*args, **kwargs)
        os.truncate(path, path.stat().st_size - 9)
    else:
        Path.replace = lambda *_: _die()  # type: ignore[method-assign]  # this process has no further use for it
        function(*args, **kwargs)
    _die()


def _wrap(target: str, around: Callable[..., Any]) -> None:
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    owner = reduce(getattr, owners, import_module(f"lightning_gan.{module}"))
    function = getattr(owner, name)
    setattr(owner, name, wraps(function)(lambda *args, **kwargs: around(function, *args, **kwargs)))


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nobody survives that")
