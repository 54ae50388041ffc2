"""A sweep without an account: its trials one after another on this machine, or one in each job of an array."""

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from jsonargparse.typing import NonNegativeInt

from lightning_gan.errors import UserError
from lightning_gan.options import CommandParser
from lightning_gan.run_folder import RUNS

if TYPE_CHECKING:
    from lightning_gan.sweep_file import Sweep
    from lightning_gan.sweep_folder import Run, SweepFolder

PYTHON = [sys.executable]
MOST_CHECKED = 50
"""Trials that are parsed before the first one is run; each is parsed again before its own."""
FAILURES = 3
"""Runs in a row that may fail before any has come to its end: what they have in common is what is wrong."""


def sweep(
    file: Path,
    trials: NonNegativeInt | None = None,
    seeds: str | None = None,
    output: Path | None = None,
    task: NonNegativeInt | None = None,
    options: Sequence[str] = (),
) -> None:
    """Run the trials of a sweep and rank them, without an account: `sweep FILE [options] [-- options of fit, for all runs]`.

    The same command again goes on where it was stopped; given twice at once, as on two GPUs, the two share the trials.

    Args:
        file: such as sweeps/learning-rates.yaml, in W&B's format; or the folder of a sweep to go on with.
        trials: how many; by default the file's run_cap, or the whole grid. 0 = only rank those that are there.
        seeds: with which each trial is run, such as 0,1,2; by default those of the file, or 0.
        output: the sweep's folder, by default runs/sweeps/NAME.
        task: print the folder and the options of one run instead, as slurm/sweep.sbatch wants them: the first trial's seeds are
            tasks 0, 1, ..., those of the second follow.
        options: of `fit`, for all runs.
    """
    from lightning_gan.sweep_folder import FILE

    if file.is_dir():
        if output is not None:
            raise UserError(f"{file} is a sweep's folder, and stays that: leave out --output.")
        file, output = file / FILE, file
    if not file.exists():
        raise UserError(f"There is no sweep {file}.")
    output = output or RUNS / "sweeps" / file.stem
    begun = (output / FILE).exists()
    if trials == 0 and not begun:
        raise UserError(f"There is no sweep in {output} to rank.")
    chosen = None if seeds is None else _seeds(seeds)
    from lightning_gan.sweep_file import Sweep
    from lightning_gan.sweep_folder import SweepFolder

    described = Sweep(file)
    _check_apart(described, options)
    chosen = chosen or described.seeds
    trials = described.size() if trials is None else trials
    if trials is None and task is None:
        raise UserError(f"How many trials? {file} does not say: --trials 20.")
    folder = SweepFolder(described, output, list(options)) if begun else None
    numbers = [task // len(chosen)] if task is not None else range(min(trials or 0, MOST_CHECKED))
    _check(described, numbers, folder.options if folder else options)
    folder = folder or SweepFolder(described, output, list(options))
    if task is not None:
        _print_task(folder, task // len(chosen), chosen[task % len(chosen)])
    elif trials:
        _Search(folder, chosen).run(trials)
    else:
        _rank(folder)


class _Search:
    """Runs trials one after another.

    Args:
        folder: the sweep's.
        seeds: with which each is run.
    """

    def __init__(self, folder: "SweepFolder", seeds: Sequence[int]) -> None:
        self.folder, self.seeds = folder, seeds
        self.failed: list[Path] = []
        self.ended = False

    def run(self, trials: int) -> None:
        """Run so many trials, but for what has come to its end, and rank them.

        Raises:
            UserError: all runs fail.
        """
        with _heeding_signals() as heeded:
            try:
                for number, seed in product(range(trials), self.seeds):
                    values = self.folder.trial(number)
                    if values is None:  # a grid's last one was the one before
                        break
                    self._run_alone(number, values, seed, trials, heeded)
                    if heeded.received is not None:
                        break
            finally:
                _rank(self.folder)
        if heeded.received is not None:
            print(f"\nStopped by {heeded.received.name}, with everything saved: the same command goes on.", flush=True)
            raise SystemExit(128 + heeded.received)

    def _run_alone(self, number: int, values: dict[str, Any], seed: int, trials: int, heeded: "_Heeded") -> None:
        """Run a trial with a seed, unless it has ended or somebody else does that."""
        from lightning_gan.sweep_folder import read_run

        path, metric = self.folder.run(number, seed), self.folder.sweep.metric
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(path.with_suffix(".lock"), timeout=0):
                if path.exists() and read_run(path, metric).state != "unfinished":
                    self.ended = True
                    return
                shown = " ".join(f"--{name}={value}" for name, value in values.items())
                print(f"trial {number} ({number + 1} of {trials}), seed {seed}: {shown}", flush=True)
                status = self._fit(path, values, seed, heeded)
                self._note(path, read_run(path, metric), status, heeded)
        except Timeout:
            print(f"trial {number}, seed {seed}: another command runs it", flush=True)

    def _fit(self, path: Path, values: dict[str, Any], seed: int, heeded: "_Heeded") -> int:
        from lightning_gan.sweep_folder import begun

        options = ["--resume", str(path)] if begun(path) else [*self.folder.fit(values, seed), f"--run_dir={path}"]
        with path.with_suffix(".log").open("ab") as log:
            log.write(f"fit {shlex.join(options)}\n".encode())
            log.flush()
            return heeded.call([*PYTHON, "-m", "lightning_gan", "fit", *options], log)

    def _note(self, path: Path, run: "Run", status: int, heeded: "_Heeded") -> None:
        """Say how a run ended.

        Raises:
            UserError: it is not the first that failed, and nothing has worked, or there is no score to rank by.
        """
        from lightning_gan.sweep_folder import best_of

        if heeded.received is not None:
            return
        log = path.with_suffix(".log")
        sweep, after = self.folder.sweep, f"after {run.images:,} images"
        if run.state == "unfinished":
            self.failed.append(log)
            print(f"  failed with status {status} {after}: {last_error(log)} ({log})", flush=True)
            if len(self.failed) == FAILURES and not self.ended:
                raise UserError(f"The first {FAILURES} runs of the sweep have failed, the last one so: {last_error(log)}")
            return
        self.ended = True
        if run.state != "diverged" and not run.scores:
            raise UserError(
                f"The run {path} has no {sweep.metric}, by which {sweep.path} ranks its trials: let its metric name a score "
                f"that is in {path / 'metrics.csv'}."
            )
        score = f", {sweep.metric} {best_of(run, sweep.sign)[1]:.4g} at its best" if run.scores else ""
        print(f"  {run.state} {after}{score}", flush=True)


class _Heeded:
    """Signals that have been received, and are handed on to the run that is going on."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def note(self, number: int, _: Any) -> None:
        self.received = signal.Signals(number)
        if self._process is not None:
            self._process.send_signal(self._for_run(self.received))

    def call(self, command: list[str], log: Any) -> int:
        # In a session of its own it gets Ctrl-C from here alone: a second one would stop it without saving.
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        if self.received is not None:
            self._process.send_signal(self._for_run(self.received))
        try:
            return self._process.wait()
        finally:
            self._process = None

    @staticmethod
    def _for_run(received: signal.Signals) -> signal.Signals:
        return signal.SIGTERM if received == signal.SIGHUP else received  # on which it saves; SIGHUP would just end it


@contextmanager
def _heeding_signals() -> Iterator[_Heeded]:
    heeded = _Heeded()
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup: a terminal that closes ends nothing
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, heeded.note) for number in numbers}
    try:
        yield heeded
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def last_error(log: Path) -> str:
    """Find the sentence by which a run's last start has ended, or else the last thing that it said."""
    *_, start = re.split(r"^(?=fit )", log.read_text(errors="replace"), flags=re.MULTILINE)
    lines = [line.strip() for line in start.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines)[-1]


def _check_apart(described: "Sweep", options: Sequence[str]) -> None:
    """See that no option for all runs takes the place of what tells them apart: then they would be the same run many times.

    Raises:
        UserError: one does.
    """
    from lightning_gan.sweep_file import SEED

    swept = {name for name, values in described.content["parameters"].items() if "value" not in values}
    swept = swept - {"config"} | {SEED, "run_dir", "resume"}  # a further file may say where the data are
    for name in (option.partition("=")[0] for option in options):
        if name.startswith("--") and name[2:] in swept:
            way_out = "choose seeds by --seeds, before the --" if name == f"--{SEED}" else "leave it out"
            raise UserError(f"{name} cannot be given for all runs of {described.path}, which chooses it for each: {way_out}.")


def _check(described: "Sweep", numbers: Sequence[int], options: Sequence[str]) -> None:
    """Parse trials, as `fit` would.

    Raises:
        UserError: one has an option that is none, or a value that an option cannot take.
    """
    drawn = {number: values for number in numbers if (values := described.draw(number)) is not None}
    fits = {number: [*described.options(values), *options] for number, values in drawn.items()}
    from lightning_gan.first_look import look
    from lightning_gan.parsed import Parsed

    parsed = None
    for number, fit in fits.items():
        look("fit", fit)
        try:
            if parsed is None:
                parsed = Parsed.run(["fit", *fit])
            else:
                parsed.parse(fit)
        except UserError as error:
            raise UserError(f"Trial {number} of {described.path} cannot be run. {error}") from error


def _print_task(folder: "SweepFolder", number: int, seed: int) -> None:
    from lightning_gan.sweep_folder import begun, read_run

    values = folder.trial(number)
    if values is None:
        raise UserError(f"The grid of {folder.sweep.path} ends before trial {number}.")
    path = folder.run(number, seed)
    if path.exists() and read_run(path, folder.sweep.metric).state != "unfinished":
        return
    options = [] if begun(path) else folder.fit(values, seed)  # a run that has begun has them in its configuration
    sys.stdout.write("".join(f"{word}\0" for word in [str(path), *options]))


def _rank(folder: "SweepFolder") -> None:
    from lightning_gan.ranking import RANKING, TABLE, Ranking

    ranking = Ranking(folder)
    print(ranking.text() if ranking.runs else f"{folder.path} has no runs yet.", flush=True)
    try:
        ranking.write()
    except OSError as error:
        raise UserError(f"The ranking could not be written into {folder.path}: {error.strerror}.") from error
    print(f"\n{folder.path / TABLE}, {folder.path / RANKING}", flush=True)


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(seed) for seed in text.strip("[]").split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {text}: whole numbers with commas between them, each once, such as 0,1,2.")
    return seeds


def run(options: Sequence[str]) -> None:
    """Call `sweep` with the options of `python -m lightning_gan sweep`."""
    words = list(options)
    own, of_fit = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    what = str(sweep.__doc__).partition("\n\n    Args")[0]
    parser = CommandParser(prog="python -m lightning_gan sweep", description=what, allow_abbrev=False)
    parser.add_argument(
        "file", metavar="FILE", nargs="?", type=Path, help="a sweep in W&B's format, or a sweep's folder to go on with."
    )
    parser.add_function_arguments(sweep, skip={"file", "options"}, as_positional=False)
    parsed = parser.parse_args(own)
    if parsed.file is None:
        raise UserError("Which sweep? Name its file, such as sweeps/learning-rates.yaml, or its folder.")
    sweep(**parsed, options=of_fit)
