"""Which trials are the best, and what cannot be told."""

from pathlib import Path
from typing import Any

import pytest

from lightning_gan.ranking import Ranking, short_names
from lightning_gan.sweep_folder import SweepFolder, floor_of, read_run
from tests.made_up_sweeps import UNIFORM, described, make_run


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ranking(trials: int, method: str = "random", **changed: Any) -> Ranking:
    folder = SweepFolder(described(method=method, parameters=UNIFORM, **changed), Path("out"), [])
    for number in range(trials):
        folder.trial(number)
    return Ranking(folder)


class TestRanking:
    def test_means_deviations_and_ties_are_those_worked_out_by_hand(self) -> None:
        """Means 3, 4, 4.2; deviations of 1, so errors of 1 / sqrt(2), and of two together 1: 4 is tied with 3, 4.2 is not."""
        ranking(3)
        for trial, (low, high) in enumerate([(3.7, 4.7), (2.5, 3.5), (3.5, 4.5)]):
            spread = 2**-0.5 - 0.5  # so that the deviation of two values at the mean plus and minus half their distance is 1
            make_run(trial, 0, [99.0, low - spread, 50.0])
            make_run(trial, 1, [high + spread])
        found = ranking(3)
        (places,) = found.tables.values()
        assert [place.trial for place in places] == [1, 2, 0]
        assert [place.mean for place in places] == pytest.approx([3, 4, 4.2])
        assert [place.deviation for place in places] == pytest.approx([1, 1, 1])
        lines = [line.split() for line in found.text().splitlines()]
        assert [line[:2] for line in lines if line[:1] in (["1"], ["2"], ["3"])] == [["1", "1"], ["2", "="], ["3", "0"]]
        assert "= within a standard error of the best" in found.text()
        assert "Of one seed" not in found.text()

    def test_high_scores_come_first_where_they_are_good(self) -> None:
        ranking(2, metric={"name": "fid_random", "goal": "maximize"})
        make_run(0, 0, [1.0, 3.0, 2.0])
        make_run(1, 0, [2.5])
        found = ranking(2, metric={"name": "fid_random", "goal": "maximize"})
        (places,) = found.tables.values()
        assert [(place.trial, place.mean) for place in places] == [(0, 3.0), (1, 2.5)]
        assert "Of one seed it is not known" in found.text()
        assert "higher is better" in found.text()

    def test_a_trial_of_which_a_seed_diverged_is_not_the_mean_of_the_others(self) -> None:
        ranking(4)
        make_run(0, 0, [0.1])
        make_run(
            0,
            1,
            [7.0],
            done=False,
            files={"events.jsonl": '{"kind": "collapse"}\n{"kind": "divergence", "images_seen": 130}\n'},
        )
        make_run(1, 0, [2.0])
        make_run(2, 0, [1.0, 5.0], files={"STOPPED_EARLY": ""})
        make_run(3, 0, [1.0], done=False, files={"events.jsonl": '{"kind": "divergence"}\n{"kind": "rollback"}\n'})
        found = ranking(4)
        (places,) = found.tables.values()
        assert [place.trial for place in places] == [1]
        assert [(place.trial, place.state) for place in found.others] == [
            (3, "unfinished"),
            (2, "stopped early"),
            (0, "diverged"),
        ]
        assert "trial 0 diverged with seed 1 after 130 images" in found.text()

    def test_scores_that_do_not_compare_have_tables_of_their_own(self) -> None:
        ranking(3)
        for trial, digest in enumerate("aba"):
            make_run(trial, 0, [3.0 - trial], digest=digest)
        found = ranking(3)
        assert [[place.trial for place in places] for places in found.tables.values()] == [[2, 0], [1]]
        assert "Scores of different tables do not compare." in found.text()
        assert found.text().count("The best again") == 2
        assert "| rank | trial | mean |" in found.markdown()

    def test_floor_images_and_minutes_stand_beside(self) -> None:
        ranking(1)
        make_run(0, 0, [3.0, 2.0], files={"speed.csv": "images_seen,seconds,images_per_second\n100,30,3\n200,90,3\n"})
        run = read_run(Path("out/000/seed-0"), "fid_random")
        assert (run.floor, run.images, run.minutes, run.scores) == (0.5, 200, 1.5, [(100, 3.0), (200, 2.0)])

    def test_a_line_that_is_being_written_does_not_count(self) -> None:
        make_run(0, 0, [3.0, 2.0], done=False)
        with Path("out/000/seed-0/metrics.csv").open("a") as file:
            file.write("300,2,0,0.1")
        assert read_run(Path("out/000/seed-0"), "fid_random").scores == [(100, 3.0), (200, 2.0)]

    def test_what_is_damaged_or_none_of_its_runs_does_not_count(self) -> None:
        ranking(1)
        make_run(0, 0, [3.0, 2.0])
        with Path("out/000/seed-0/metrics.csv").open("a") as file:
            file.write("300,2,0,broken,0.5\n300,2\ninf,2,0,1.0,0.5\n")
        for name in ("000-before/seed-0", "000/seed-0-copy"):
            Path("out", name).mkdir(parents=True)
        (run,) = ranking(1).runs
        assert run.scores == [(100, 3.0), (200, 2.0)]

    def test_names_are_as_short_as_they_stay_different(self) -> None:
        names = ["model.generator_optimizer.lr", "model.discriminator_optimizer.lr", "data.batch_size", "lr"]
        assert short_names(names) == ["generator_optimizer.lr", "discriminator_optimizer.lr", "batch_size", "lr"]

    @pytest.mark.parametrize(("metric", "floor"), [("fid", "fid_floor"), ("fid_my_net", "fid_floor_my_net")])
    def test_the_floor_of_a_score(self, metric: str, floor: str) -> None:
        assert floor_of(metric) == floor
