"""What W&B's engine proposes for a sweep, and when it ends a run."""

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lightning_gan.errors import UserError
from lightning_gan.sweep_file import Known, Sweep
from tests.made_up_sweeps import GRID, UNIFORM, described


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def xs(sweep: Sweep, numbers: range) -> list[float]:
    proposed = [sweep.propose(number) for number in numbers]
    return [values["model.x"] for values in proposed if values is not None]


class TestProposals:
    def test_those_of_a_random_search_depend_on_their_number_alone(self) -> None:
        search = described(method="random", parameters=UNIFORM)
        forwards = xs(search, range(8))
        random.seed(5)
        assert xs(search, range(7, -1, -1)) == forwards[::-1]
        assert len(set(forwards)) == 8
        assert all(0 <= x <= 1 and type(x) is float for x in forwards)

    def test_a_grid_has_each_once_and_ends(self) -> None:
        assert sorted(xs(described(), range(10))) == [0.25, 0.5, 0.75]
        assert described().size() == 3
        assert described(method="random").size() is None
        assert described(method="random", run_cap=7).size() == 7

    def test_a_bayesian_search_goes_where_it_is_good(self) -> None:
        search = described(method="bayes", parameters=UNIFORM)
        known: list[Known] = []
        for number in range(12):
            values = search.propose(number, known)
            assert values is not None
            known.append(Known(values, (values["model.x"] - 0.3) ** 2, running=False))
        assert min(abs(values["model.x"] - 0.3) for values, _, _ in known) < 0.02

    def test_a_bayesian_search_keeps_away_from_what_runs_and_from_what_diverged(self) -> None:
        search = described(method="bayes", parameters=UNIFORM)
        known = [Known({"model.x": x}, (x - 0.3) ** 2, running=False) for x in (0.0, 0.2, 0.6, 1.0)]
        alone = search.propose(0, known)
        assert alone is not None
        beside = [search.propose(0, [*known, Known(alone, None, running)]) for running in (True, False)]
        found = [values["model.x"] for values in (alone, *beside) if values is not None]
        assert len(set(found)) == 3  # one that runs is taken to be as good as it looks, one that diverged to be the worst

    def test_the_global_generators_are_left_as_they_were(self) -> None:
        states = random.getstate(), str(np.random.get_state())
        described(method="random", parameters=UNIFORM).propose(3)
        assert (random.getstate(), str(np.random.get_state())) == states

    def test_seeds_are_no_parameter(self) -> None:
        sweep = described(parameters=GRID["parameters"] | {"seed_everything": {"values": [3, 5]}})  # type: ignore[operator]  # both dicts
        assert sweep.seeds == [3, 5]
        assert sweep.propose(0) == {"model.x": 0.5}

    def test_hyperband_lets_the_best_third_of_those_who_got_there_go_on(self) -> None:
        """By hand: of the four second scores the threshold is number int(4 / 3) = 1 from the best, from 0."""
        early = {"type": "hyperband", "min_iter": 2, "eta": 3}
        sweep = described(early_terminate=early)
        others = [[9.0, 1.0], [9.0, 2.0], [9.0, 3.0], [0.0]]
        assert not sweep.behind([9.0, 1.9], others)
        assert sweep.behind([0.0, 2.1], others)
        assert not sweep.behind([100.0], others)  # it has not come as far
        maximize = described(early_terminate=early, metric={"name": "f", "goal": "maximize"})
        assert maximize.behind([0.0, 1.9], others)
        assert not maximize.behind([0.0, 2.1], others)

    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({"method": "gird"}, r"s\.yaml is no sweep as W&B has them: 'gird' is not one of"),
            ({"metod": "grid"}, "'metod' was unexpected"),
            ({"parameters": {"model.x": {"vals": [1]}}}, "'vals'"),
            ({"parameters": {"model.x": 3}}, "no sweep as W&B has them"),
            ({"parameters": {"seed_everything": {"values": [0, 1]}}}, "over seeds alone"),
            ({"parameters": UNIFORM | {"seed_everything": {"min": 0, "max": 9}}}, "seed_everything must be given as `value`"),
            ({"parameters": UNIFORM, "early_terminate": {"type": "hyperband"}}, "no sweep as W&B has them"),
        ],
    )
    def test_a_file_that_is_none_is_told_in_a_sentence(self, changed: dict[str, Any], words: str) -> None:
        with pytest.raises(UserError, match=words):
            described(**changed)

    def test_a_file_without_a_metric_ranks_nothing(self) -> None:
        Path("s.yaml").write_text(yaml.safe_dump({name: value for name, value in GRID.items() if name != "metric"}))
        with pytest.raises(UserError, match="does not say by which `metric`"):
            Sweep(Path("s.yaml"))

    @pytest.mark.parametrize("changed", [{"method": "grid", "parameters": UNIFORM}, {"method": "custom"}])
    def test_a_search_that_the_engine_does_not_know_is_told_in_a_sentence(self, changed: dict[str, Any]) -> None:
        with pytest.raises(UserError, match=r"s\.yaml has no trials: (Parameter model\.x is a disallowed|Invalid search type)"):
            described(**changed).draw(0)

    @pytest.mark.parametrize(
        "command", [["python"], ["python", "train.py", "${args}"], ["${env}", "${interpreter}", "${program}"]]
    )
    def test_another_program_is_refused(self, command: list[str]) -> None:
        with pytest.raises(UserError, match=r"The command of s\.yaml is not python -m lightning_gan fit, but"):
            described(command=command).options({})

    def test_without_the_engine_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sweeps.config", None)
        with pytest.raises(UserError, match="pip install sweeps"):
            described()
