"""A sweep as W&B's files describe it; its trials are proposed by W&B's own engine, the package `sweeps`, without a server."""

import json
import os
import random
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lightning_gan.configuration import expand
from lightning_gan.errors import UserError

SEED = "seed_everything"
MOST_TRIALS = 10_000


class Known(NamedTuple):
    """What is known of a trial when the next one is proposed.

    Attributes:
        values: of its parameters.
        score: its best, the mean over its seeds; None if it has none.
        running: whether it may get another.
    """

    values: dict[str, Any]
    score: float | None
    running: bool


class Sweep:
    """A sweep's file.

    The values of a swept seed are taken out of its parameters: each trial is run with all of them.

    Args:
        path: the file.

    Attributes:
        content: what is in it.
        metric: name of the score that tells its trials apart, as it is logged.
        sign: 1 if low scores are good, -1 if high ones are.
        seeds: of each trial's runs.
        run_cap: how many trials it asks for, if it does.
        method: `random`, `grid` or `bayes`.
        early: whether Hyperband ends runs that are behind.

    Raises:
        UserError: it is no sweep, or the engine is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = expand(path)[-1]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pydantic's, for those who wrote the engine
                from sweeps.config import SweepConfig, schema_violations_from_proposed_config
        except ImportError as error:
            raise UserError(f"`sweep` needs W&B's engine ({error}): pip install sweeps, or uv sync --extra sweeps.") from error
        try:
            for violation in schema_violations_from_proposed_config(self.content):
                raise UserError(f"{path} is no sweep as W&B has them: {violation.rstrip('.')}.")
            parameters = dict(self.content["parameters"])
            seeds = parameters.pop(SEED, {"value": 0})
            if not parameters:
                raise UserError(f"{path} sweeps over seeds alone: let it sweep something else, too.")
            self._config = SweepConfig(self.content | {"parameters": parameters})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no sweep as W&B has them: {' '.join(str(error).split())}.") from error
        if "metric" not in self.content:
            raise UserError(f"{path} does not say by which `metric` its trials are ranked.")
        self.metric: str = self._config["metric"]["name"]
        self.sign = -1 if self._config["metric"].get("goal") == "maximize" else 1
        self.seeds = seeds.get("values", [seeds.get("value")])
        if not all(isinstance(seed, int) and seed >= 0 for seed in self.seeds):
            raise UserError(f"{path}: {SEED} must be given as `value` or `values`, of whole numbers.")
        self.run_cap: int | None = self.content.get("run_cap")
        self.method: str = self.content["method"]
        self.early = "early_terminate" in self.content

    def options(self, values: dict[str, Any]) -> list[str]:
        """Say which options of `fit` a trial is, as W&B's agent puts its command together.

        Raises:
            UserError: the sweep's command is not `fit`.
        """
        macros = {"${env}": [], "${interpreter}": ["python"], "${program}": [str(self.content.get("program", ""))]}
        macros["${args}"] = [f"--{name}={value}" for name, value in values.items()]
        words: list[str] = []
        for word in map(str, self.content.get("command", [])):
            words += (
                macros[word]
                if word in macros
                else [re.sub(r"\$\{envvar:([A-Z0-9_]*)\}", lambda x: os.environ.get(x[1], x[1]), word)]
            )
        start = ["python", "-m", "lightning_gan", "fit"]
        if words[: len(start)] != start:
            raise UserError(f"The command of {self.path} is not {' '.join(start)}, but {' '.join(words) or 'left out'}.")
        return words[len(start) :]

    def propose(self, number: int, known: Sequence[Known] = ()) -> dict[str, Any] | None:
        """Propose the values of a trial; None where a grid has no more of them.

        Trials of random searches and grids depend on their number alone, whatever the order in which they are asked for.

        Args:
            number: the trial's, from 0.
            known: the other trials, which a Bayesian search goes by.
        """
        if self.method == "grid":
            return dict(zip(range(number + 1), self._grid(number + 1), strict=False)).get(number)
        from sweeps.run import RunState, SweepRun

        runs = []
        for values, score, running in known if self.method == "bayes" else ():
            state = RunState.running if running else RunState.failed if score is None else RunState.finished
            summary = {} if score is None else {self.metric: score}
            config = {name: {"value": value} for name, value in values.items()}
            runs.append(SweepRun(config=config, state=state, summaryMetrics=summary))
        with _seeded(number):
            return self._next(self._config, runs)[0]

    def draw(self, number: int) -> dict[str, Any] | None:
        """Propose a trial that a Bayesian search could, and that any other does."""
        if self.method != "bayes":
            return self.propose(number)
        with _seeded(number):
            return self._next(self._config | {"method": "random"}, [])[0]

    def _grid(self, size: int) -> list[dict[str, Any]]:
        return self._next(self._config, [], size)

    def _next(self, config: dict[str, Any], runs: list[Any], number: int = 1) -> list[dict[str, Any]]:
        """Ask the engine for so many trials; a grid may have fewer.

        Raises:
            UserError: its method is none for such parameters.
        """
        from sweeps.run import next_runs

        try:
            return [_values(run) for run in next_runs(config, runs, n=number) if run is not None]
        except ValueError as error:
            raise UserError(f"{self.path} has no trials: {' '.join(str(error).split()).rstrip('.')}.") from error

    def size(self) -> int | None:
        """Count the trials that the file asks for; None if it leaves that open."""
        return self.run_cap or (len(self._grid(MOST_TRIALS)) if self.method == "grid" else None)

    def behind(self, own: Sequence[float], others: Sequence[Sequence[float]]) -> bool:
        """Ask Hyperband whether a run is to end early.

        Args:
            own: its scores so far.
            others: those of the other runs.
        """
        from sweeps.run import RunState, SweepRun, stop_runs

        def run(state: RunState, scores: Sequence[float]) -> SweepRun:
            return SweepRun(state=state, history=[{self.metric: score} for score in scores])

        runs = [run(RunState.running, own), *(run(RunState.finished, scores) for scores in others)]
        return bool(stop_runs(self._config, runs))


def _values(run: Any) -> dict[str, Any]:
    """Take a proposal's values as W&B's server hands them out, which is in JSON."""
    values: dict[str, Any] = json.loads(json.dumps(run.config, default=lambda x: x.item()))
    return {name: value["value"] for name, value in values.items()}


@contextmanager
def _seeded(number: int) -> Iterator[None]:
    """Seed the global generators, which the engine draws from, and put them back."""
    import numpy as np

    states = random.getstate(), np.random.get_state()
    random.seed(number)
    np.random.seed(number)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of scikit-learn's, about the fit of few points
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
