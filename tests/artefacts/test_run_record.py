import os
import socket
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from lightning_gan.artefacts import comparison
from lightning_gan.artefacts.report import page_data
from lightning_gan.artefacts.run_pictures import address, grids, thinned
from lightning_gan.artefacts.run_record import RunRecord, flattened, read_run, score_of
from lightning_gan.artefacts.run_tables import Table, hours, read_table
from lightning_gan.errors import UserError
from tests.artefacts.run_folders import ROWS, make_full_run, make_old, make_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


@pytest.fixture
def full(tmp_path: Path) -> Path:
    return make_full_run(tmp_path / "full")


class TestReading:
    def test_a_run_of_before_has_its_curves_and_pictures_and_nothing_noted(self, run: Path) -> None:
        record = read_run(run)
        assert record.metrics.images == [100, 200, 200, 300, 300, 400, 400]
        assert record.metrics.columns["loss/generator"] == [0.5, 0.75, None, 1.0, None, 1.25, None]
        assert [seen for seen, _ in record.pictures] == [200, 300, 400]
        assert record.images_seen == 400
        assert (record.events, record.walks, record.scores, record.notes) == ([], [], [], [])
        assert (record.seconds, record.images_per_second, hours(record.metrics.images, record.speed)) == (None, None, None)

    def test_a_run_of_today_has_everything(self, full: Path) -> None:
        record = read_run(full)
        assert (record.seconds, record.images_per_second) == (144, 2.75)
        assert [(event.kind, event.images_seen) for event in record.events] == [("collapse", 300)]
        assert [seen for seen, _ in record.walks] == [400]
        (scores,) = record.scores
        assert scores.values == {"fid": 3.75, "fid_se": 0.5, "recall": 0.5}
        assert scores.floor == {"fid": 0.125, "recall": 0.75}
        assert scores.made_with == {"extractor": "classifier 00ff", "data": "ab" * 8, "samples": "1000"}
        assert record.notes == []

    @pytest.mark.parametrize(
        "row",
        [
            "500,4,0,broken,1,,,",
            "500,4",
            "nan,4,0,1,1,,,",
            "-5,4,0,1,1,,,",
            ",4,0,1,1,,,",
            "1,2,3,4,5,6,7,8,9",
            '500,4,0,"1,1,,,',
            "\0",
        ],
    )
    def test_a_damaged_row_is_left_out_and_said(self, tmp_path: Path, row: str) -> None:
        run = make_run(tmp_path / "run", rows=f"{row}\n{ROWS}")
        record = read_run(run)
        assert record.metrics.images == [100, 200, 200, 300, 300, 400, 400]
        assert record.notes == ["1 damaged line of metrics.csv left out."]

    def test_a_row_that_is_still_being_written_is_left_for_later(self, tmp_path: Path) -> None:
        # Of a last cell 0.125 there may be 0.1 so far: a number, and the wrong one.
        run = make_run(tmp_path / "run", rows=f"{ROWS}500,4,0,,,3.0,0.25,0.1")
        assert read_run(run).metrics.images[-1] == 400
        assert read_run(run).notes == []

    def test_what_is_not_finite_is_no_point_of_a_curve(self, tmp_path: Path) -> None:
        table = read_table(make_run(tmp_path / "run", rows="100,0,0,nan,inf,,,\n200,1,0,1,-inf,,,\n") / "metrics.csv")
        assert table.columns == {"loss/discriminator": [None, 1.0]}

    @pytest.mark.parametrize("content", [b"", b"\n", b"a,b\n1,2\n", b"\xff\xfe\n\x00\n", b"images_seen\n"])
    def test_a_table_of_nothing_is_empty(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "metrics.csv").write_bytes(content)
        assert read_table(tmp_path / "metrics.csv").images == []

    def test_damaged_events_and_scores_are_left_out_and_said(self, full: Path) -> None:
        with (full / "events.jsonl").open("a") as file:
            file.write('{"kind": "stopped"}\n[]\nnonsense\n{"images_seen": 400, "kind": "stopp')
        (full / "scores.json").write_text("[" * 100_000)
        record = read_run(full)
        assert len(record.events) == 1
        assert record.scores == []
        assert record.notes == ["3 damaged lines of events.jsonl left out.", "scores.json is damaged and was left out."]

    def test_a_configuration_that_cannot_be_read_is_said(self, run: Path) -> None:
        (run / "config.yaml").write_text("model: {")
        record = read_run(run)
        assert record.config == {}
        assert "is not YAML" in record.notes[0]

    def test_a_folder_that_is_no_run_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"is not a run folder: it has no config\.yaml"):
            read_run(tmp_path)
        with pytest.raises(UserError, match="There is no folder"):
            read_run(tmp_path / "nowhere")


class TestState:
    def test_markers(self, run: Path) -> None:
        (run / "REQUEUE").touch()
        assert read_run(run).state == "waiting"
        (run / "DONE").touch()
        assert read_run(run).state == "done"

    def test_a_run_on_this_machine_lives_as_long_as_its_process(self, run: Path) -> None:
        make_old(run)
        (run / ".claim").write_text(f"1-2-3 on {socket.gethostname()} as process {os.getpid()}")
        assert read_run(run).state == "running"
        (run / ".claim").write_text(f"1-2-3 on {socket.gethostname()} as process {2**22 + 1}")  # above any process' number
        assert read_run(run).state == "stopped"

    def test_a_run_elsewhere_lives_as_long_as_it_writes(self, run: Path) -> None:
        (run / ".claim").write_text("1-2-3 on elsewhere as process 1")
        assert read_run(run).state == "running"
        make_old(run)
        assert read_run(run).state == "stopped"

    def test_a_run_of_before_is_done_when_it_has_seen_all_its_images(self, tmp_path: Path) -> None:
        make_old(whole := make_run(tmp_path / "whole", {"max_images": 400}))
        make_old(cut := make_run(tmp_path / "cut", {"max_images": 401}))
        assert (read_run(whole).state, read_run(cut).state) == ("done", "stopped")


class TestHours:
    def speed(self, images: list[float], seconds: list[float | None]) -> Table:
        return Table(images, {"seconds": seconds})

    def test_they_are_interpolated_from_the_start_on(self) -> None:
        speed = self.speed([100, 300], [3600, 18000])
        assert hours([0, 50, 100, 200, 300], speed) == [0, 0.5, 1, 3, 5]

    def test_they_go_on_after_the_last_row_as_on_average(self) -> None:
        assert hours([400], self.speed([100, 300], [1800, 3 * 3600])) == [4]

    def test_a_run_that_went_back_is_followed_attempt_by_attempt(self) -> None:
        seen: list[float] = [100, 200, 100, 200, 300]
        assert hours(seen, self.speed(seen, [3600 * n for n in (1, 2, 3, 4, 5)])) == [1, 2, 3, 4, 5]
        assert hours([100, 200, 300], self.speed(seen, [3600 * n for n in (1, 2, 3, 4, 5)])) == [3, 4, 5]

    def test_a_row_without_a_time_does_not_count(self) -> None:
        assert hours([150], self.speed([100, 150, 200], [3600, None, 7200])) == [1.5]


def test_options_are_called_as_on_the_command_line() -> None:
    model = {"generator": {"class_path": "DCGAN", "init_args": {"width": 64, "more": {}}}, "penalties": {}}
    assert flattened({"model": model, "seed": 0}) == {
        "model.generator": "DCGAN",
        "model.generator.width": 64,
        "model.generator.more": {},
        "model.penalties": {},
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("column", "score"),
    [
        ("fid", "fid"),
        ("fid_classifier", "fid"),
        ("fid_se_classifier", "fid_se"),
        ("fid_floor_se_random", "fid_floor_se"),
        ("score_std", "score_std"),
        ("fid_classifier/half_life_2000", "fid"),
        ("d_gap", "d_gap"),
        ("loss/generator", None),
        ("fidelity", None),
    ],
)
def test_columns_are_told_apart_by_their_scores(column: str, score: str | None) -> None:
    assert score_of(column) == score


def test_the_best_evaluation_is_the_one_that_the_run_keeps(tmp_path: Path) -> None:
    assert read_run(make_run(tmp_path / "fid")).best == ("fid_classifier", 3.5, 300)
    recall = make_run(
        tmp_path / "recall", {"evaluation": {"best": "recall"}}, "1,0,0,0.2\n2,0,0,0.4\n", "images_seen,step,epoch,recall"
    )
    assert read_run(recall).best == ("recall", 0.4, 2)


class TestPictures:
    def test_a_choice_has_the_first_the_last_and_what_is_to_be_kept(self) -> None:
        assert thinned(3, 5, [1]) == [0, 1, 2]
        assert thinned(9, 3, []) == [0, 4, 8]
        chosen = thinned(1000, 40, [777])
        assert {0, 777, 999} <= set(chosen)
        assert len(chosen) <= 40
        assert max(after - before for before, after in pairwise(chosen)) < 35

    def test_a_damaged_picture_is_left_out_and_named(self, run: Path) -> None:
        last = run / "samples" / "000000400.png"
        Image.effect_noise((64, 64), 90).save(last)
        last.write_bytes(last.read_bytes()[:2000])  # its head is whole
        shown, damaged = grids(read_run(run).pictures, 300, 10**6)
        assert [seen for seen, _ in shown] == [200, 300]
        assert damaged == [last]

    def test_there_are_fewer_where_they_would_take_too_much(self, tmp_path: Path) -> None:
        pictures = []
        for seen in range(100):
            Image.effect_noise((32, 32), 90).save(path := tmp_path / f"{seen}.png")
            pictures.append((seen, path))
        size = len(address(pictures[0][1]) or "")
        shown, damaged = grids(pictures, 33, 15 * size)
        assert len(shown) == 15
        assert {0, 33, 99} <= {seen for seen, _ in shown}
        assert damaged == []

    def test_what_is_no_picture_has_no_address(self, tmp_path: Path) -> None:
        Image.new("L", (8, 8)).save(tmp_path / "x.bmp")
        (tmp_path / "x.bmp").rename(tmp_path / "x.png")
        assert address(tmp_path / "x.png") is None
        assert address(tmp_path) is None
        assert address(tmp_path / "missing.png") is None

    def test_a_large_picture_is_a_jpeg(self, tmp_path: Path) -> None:
        Image.effect_noise((512, 512), 90).save(tmp_path / "x.png")
        assert (address(tmp_path / "x.png") or "").startswith("data:image/jpeg;base64,")


class TestComparison:
    def test_names_tell_runs_apart(self, tmp_path: Path) -> None:
        folders = [tmp_path / name for name in ("a", "x/b", "y/b", "0", "mnist/1")]
        first = f"{tmp_path.name}/0"
        assert comparison.names(folders) == ["a", "x/b", "y/b", first, "mnist/1"]

    def records(self, tmp_path: Path) -> list[RunRecord]:
        generator = {"class_path": "lightning_gan.networks.MLPGenerator", "init_args": {"width": 64, "depth": 3}}
        other = {"model": {"generator": generator}, "name": "other", "wandb_artifacts": "best", "max_images": 1000.0}
        return [read_run(make_full_run(tmp_path / "a")), read_run(make_full_run(tmp_path / "b", other, samples=5000))]

    def test_only_options_that_differ_are_listed(self, tmp_path: Path) -> None:
        assert comparison.differences(self.records(tmp_path)) == [
            ("model.generator", ["lightning_gan.networks.DCGANGenerator", "lightning_gan.networks.MLPGenerator"]),
            ("model.generator.depth", [None, "3"]),
        ]

    def test_scores_that_do_not_compare_are_warned_of(self, tmp_path: Path) -> None:
        records = self.records(tmp_path)
        (warning,) = comparison.incomparable(["a", "b"], records)
        assert (
            warning
            == "Scores of these runs do not compare, as they were made with different numbers of samples (a: 1000; b: 5000)."
        )
        assert comparison.incomparable(["a", "a"], records[:1] * 2) == []
        (warning,) = comparison.incomparable(["a", "c"], [records[0], read_run(make_run(tmp_path / "c"))])
        assert "How the scores of c were made was not recorded" in warning

    def test_the_table_has_the_best_and_the_last_evaluation_beside_their_floor(self, tmp_path: Path) -> None:
        table = comparison.scores_table(self.records(tmp_path)[:1])
        assert [(column["origin"], column["images_seen"]) for column in table["columns"]] == [
            ("best", 300),
            ("evaluation", 400),
        ]
        fid, recall = table["rows"]
        assert (fid["cells"], fid["floors"]) == (["3.50 ± 0.12", "3.75 ± 0.50"], ["0.125", "0.125"])
        assert (recall["cells"], recall["floors"]) == (["", "0.500"], ["0.750", "0.750"])

    def test_the_best_is_that_of_before_a_rollback_where_it_was(self, tmp_path: Path) -> None:
        rows = f"{ROWS}300,2,0,,,9.5,0.5,0.125\n400,3,0,,,9.0,0.5,0.125\n400,3,0,1.0,1.0,,,\n"
        best, last = comparison.scores_table([read_run(make_run(tmp_path / "back", rows=rows))])["columns"]
        assert (best["origin"], best["images_seen"], last["origin"]) == ("best", 300, "evaluation")
        (fid,) = comparison.scores_table([read_run(tmp_path / "back")])["rows"]
        assert fid["cells"] == ["3.50 ± 0.12", "9.00 ± 0.50"]

    def test_each_score_has_a_diagram_with_its_floor(self, tmp_path: Path) -> None:
        fid, losses, speed = comparison.panels(self.records(tmp_path)[:1])
        assert (fid["title"], fid["series"][0]["error"], fid["floors"]) == (
            "fid_classifier",
            "fid_se_classifier",
            [{"value": 0.125, "error": None}],
        )
        assert [series["label"] for series in losses["series"]] == ["discriminator", "generator"]
        assert speed["table"] == "speed"


def test_the_code_that_it_was_started_with_is_known(run: Path) -> None:
    assert read_run(run).provenance == {}  # of a run of before
    for content, known in {
        '{"code": {"commit": "12ab", "dirty": true}}': "12ab, and changes since",
        '{"code": [1]}': None,
    }.items():
        (run / "provenance.json").write_text(content)
        assert page_data([run])["runs"][0]["commit"] == known
