"""Sweeps without an account: what is run, stopped and gone on with."""

import csv
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from lightning_gan import sweeping
from lightning_gan.__main__ import main
from lightning_gan.errors import UserError
from lightning_gan.sweep_file import Sweep
from lightning_gan.sweep_folder import SweepFolder, read_run
from tests.made_up_sweeps import FIT, UNIFORM, described, make_run

STAND_IN = [sys.executable, str(Path(__file__).with_name("sweep_stand_in.py"))]


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "PYTHON", STAND_IN)
    monkeypatch.setattr(sweeping, "_check", lambda *_: None)


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def sweep(*options: str) -> None:
    sweeping.run(["s.yaml", *options])


class TestRunning:
    def test_each_trial_is_run_with_each_seed_and_ranked(self, stand_in: None, capsys: pytest.CaptureFixture[str]) -> None:
        described()
        sweep("--seeds", "0,1")
        folder = Path("runs/sweeps/s")
        runs = sorted(str(path.relative_to(folder)) for path in folder.glob("*/seed-?"))
        assert runs == [f"00{trial}/seed-{seed}" for trial in range(3) for seed in range(2)]
        with (folder / "table.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [(row["trial"], row["seed"], row["model.x"], row["fid_random"]) for row in rows[:2]] == [
            ("0", "0", "0.5", "0.5"),
            ("0", "1", "0.5", "0.51"),
        ]
        out = capsys.readouterr().out
        ranks = [line.split() for line in out.splitlines() if line[:1] in "123" and line[1:2] == " "]
        assert [(rank[0], rank[1], rank[2]) for rank in ranks] == [
            ("1", "1", "0.255"),
            ("2", "0", "0.505"),
            ("3", "2", "0.755"),
        ]
        assert "python -m lightning_gan fit --model.x=0.25 --seed_everything=0" in out
        assert "0.255" in (folder / "ranking.md").read_text()

    def test_the_same_command_goes_on_and_more_trials_may_follow(
        self, stand_in: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        described(method="random", parameters=UNIFORM)
        sweep("--trials", "2", "--", "--data.root=here")
        first = {path: path.stat().st_mtime_ns for path in Path("runs").glob("**/DONE")}
        capsys.readouterr()
        sweeping.run(["runs/sweeps/s", "--trials", "3"])
        assert capsys.readouterr().out.count("seed 0: --model.x") == 1
        second = {path: path.stat().st_mtime_ns for path in Path("runs").glob("**/DONE")}
        assert len(second) == 3
        assert first.items() <= second.items()
        assert "--data.root=here" in Path("runs/sweeps/s/002/seed-0/config.yaml").read_text()

    def test_what_diverges_or_fails_does_not_end_it_and_only_what_failed_is_tried_again(
        self, stand_in: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        described(parameters={"model.x": {"values": [-1, 0.5, -2]}})
        sweep()
        out = capsys.readouterr().out
        assert "  diverged after 150 images" in out
        assert "  failed with status 1 after 0 images: there is something wrong with the data." in out
        last = out.split("Without a place:")[1]
        assert "trial 0 diverged after 150 images, fid_random 1: x=-1" in last
        assert last.index("trial 2 unfinished") < last.index("trial 0 diverged")
        sweep()
        again = capsys.readouterr().out
        assert "trial 2 (3 of 3), seed 0" in again
        assert again.count("seed 0: --model.x") == 1

    def test_what_all_runs_fail_of_ends_it(self, stand_in: None) -> None:
        described(method="random", parameters={"model.x": {"values": [-2]}})
        with pytest.raises(UserError, match="first 3 runs of the sweep have failed, the last one so: there is something wrong"):
            sweep("--trials", "9")
        assert len(list(Path("runs").glob("**/seed-0"))) == 3

    def test_a_score_that_no_run_has_is_told_after_the_first(self, stand_in: None) -> None:
        described(metric={"name": "fid_classifier"})
        with pytest.raises(UserError, match=r"has no fid_classifier, by which s\.yaml ranks its trials"):
            sweep()

    def test_the_last_error_is_that_of_the_last_start(self) -> None:
        log = Path("seed-0.log")
        log.write_text("fit --a=1\nerror: the disk is full.\nfit --resume x\nKilled\n")
        assert sweeping.last_error(log) == "Killed"
        log.write_text("fit --a=1\nerror: the disk is full.\nat the end of it\n")
        assert sweeping.last_error(log) == "the disk is full."

    @pytest.mark.parametrize("closed", [False, True], ids=["ctrl-c", "the terminal is closed"])
    def test_being_stopped_saves_the_run_and_the_same_command_goes_on_with_it(
        self, closed: bool, stand_in: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        described(parameters={"model.x": {"values": [-3, 0.5]}})
        code = f"from lightning_gan import sweeping as s; s.PYTHON={STAND_IN!r}; s._check=lambda *_: None; s.run(['s.yaml'])"
        run = Path("runs/sweeps/s/000/seed-0")
        with subprocess.Popen([sys.executable, "-c", code], stdout=-1, text=True, start_new_session=True) as process:
            deadline = time.monotonic() + 60
            while not (run / "waiting").exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGHUP if closed else signal.SIGINT)  # as a terminal does
            out, _ = process.communicate(timeout=30)
        assert process.returncode == (129 if closed else 130)
        assert f"Stopped by {'SIGHUP' if closed else 'SIGINT'}, with everything saved: the same command goes on." in out
        assert (run / "saved").read_text() == ("SIGTERM" if closed else "SIGINT")
        assert "trial 0 unfinished after 100 images" in out
        assert not Path("runs/sweeps/s/001").exists()
        assert (run / "group").read_text() != str(process.pid)  # or the terminal's would be a second one: stop at once
        sweep()
        assert (run.with_suffix(".log").read_text()).count("--resume") == 1
        assert "1     0      -3" in capsys.readouterr().out

    def test_a_run_that_another_command_has_is_left_to_it(self, stand_in: None, capsys: pytest.CaptureFixture[str]) -> None:
        described()
        Path("runs/sweeps/s/001").mkdir(parents=True)
        with FileLock("runs/sweeps/s/001/seed-0.lock"):
            sweep()
        assert "trial 1, seed 0: another command runs it" in capsys.readouterr().out
        assert not Path("runs/sweeps/s/001/seed-0").exists()
        assert Path("runs/sweeps/s/002/seed-0/DONE").exists()

    def test_commands_side_by_side_propose_each_trial_once(self) -> None:
        described(method="random", parameters=UNIFORM)
        with multiprocessing.get_context("fork").Pool(4) as pool:
            found = pool.map(_trial, [*range(12), *range(12)], chunksize=1)
        assert found[:12] == found[12:]
        kept = SweepFolder(Sweep(Path("s.yaml")), Path("out"), []).trials()
        assert [kept[number] for number in range(12)] == found[:12]

    def test_a_task_prints_the_folder_and_the_options_of_its_run(
        self, stand_in: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        described()
        sweep("--task", "3", "--seeds", "4,5", "--output", "out", "--", "--name=two words")
        words = capsys.readouterr().out.split("\0")
        assert words == ["out/001/seed-5", "--model.x=0.25", "--seed_everything=5", "--wandb=off", "--name=two words", ""]
        with pytest.raises(UserError, match=r"The grid of s\.yaml ends before trial 3"):
            sweep("--task", "6", "--seeds", "4,5", "--output", "out")
        run = Path("out/001/seed-5")
        run.mkdir(parents=True)
        (run / "config.yaml").touch()
        sweep("--task", "3", "--seeds", "4,5", "--output", "out")
        assert capsys.readouterr().out == "out/001/seed-5\0"  # its options are in its configuration
        (run / "DONE").touch()
        sweep("--task", "3", "--seeds", "4,5", "--output", "out")
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ([], r"Which sweep\? Name its file"),
            (["missing.yaml"], r"There is no sweep missing\.yaml"),
            (["s.yaml"], r"How many trials\? s\.yaml does not say"),
            (["s.yaml", "--trials", "1", "--seeds", "0,x"], r"--seeds 0,x: whole numbers"),
            (["s.yaml", "--trials", "1", "--seeds", "1,1"], r"--seeds 1,1: whole numbers"),
            (["s.yaml", "--trials", "0"], r"There is no sweep in runs/sweeps/s to rank"),
            (["other", "--output", "x"], r"other is a sweep's folder, and stays that"),
            (["s.yaml", "--trials", "1", "--output", "s.yaml"], r"s\.yaml cannot be used: File exists"),
        ],
    )
    def test_what_is_wrong_is_said_before_anything_is_made(self, options: list[str], words: str, stand_in: None) -> None:
        described(method="random")
        Path("other").mkdir()
        with pytest.raises(UserError, match=words):
            sweeping.run(options)
        assert names() == ["other", "s.yaml"]

    @pytest.mark.parametrize("option", ["--seed_everything=3", "--model.x", "--run_dir=here", "--resume"])
    def test_an_option_for_all_runs_may_not_make_them_the_same(self, option: str, stand_in: None) -> None:
        described(parameters=UNIFORM | {"max_images": {"value": 100}}, method="random")
        with pytest.raises(UserError, match=rf"{option.partition('=')[0]} cannot be given for all runs of s\.yaml"):
            sweep("--trials", "1", "--", "--name=a", option, "1")
        assert names() == ["s.yaml"]
        sweep("--trials", "1", "--", "--max_images=50", "--data.root=--model.x")

    def test_another_sweep_or_other_options_do_not_get_into_a_folder(self, stand_in: None) -> None:
        described()
        sweep("--", "--name=a")
        sweep("--trials", "0")
        with pytest.raises(UserError, match="was begun with the options"):
            sweep("--", "--name=b")
        described(method="random")
        with pytest.raises(UserError, match=r"runs/sweeps/s is of another sweep, or s\.yaml has changed"):
            sweep("--trials", "1")


def _trial(number: int) -> dict[str, Any] | None:
    return SweepFolder(Sweep(Path("s.yaml")), Path("out"), []).trial(number)


class TestCheck:
    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({}, r"Trial 0 of s\.yaml cannot be run\. There is no option --model\.x\."),
            (
                {"parameters": {"max_images": {"values": [100, "many"]}}},
                r"Trial 1 of s\.yaml cannot be run\. --max_images must be int, not 'many'|Trial 1 .*--max_images",
            ),
            ({"command": [*FIT, "-c", "missing.yaml", "${args}"]}, r"missing\.yaml cannot be read"),
        ],
    )
    def test_a_trial_that_fit_would_not_take_is_told_before_any_is_run(self, changed: dict[str, Any], words: str) -> None:
        described(**changed)
        with pytest.raises(UserError, match=words):
            sweep()
        assert names() == ["s.yaml"]


REAL = ["--data.image_size=8", "--data.batch_size=32", "--model.generator.width=4", "--model.discriminator.width=4"]
REAL += ["--max_images=160", "--evaluation.every_images=64", "--evaluation.num_samples=64", "--trainer.accelerator=cpu"]
REAL += ["--evaluation.extractor=Random", "--wandb=off"]


@pytest.mark.filterwarnings("ignore:(G has collapsed|D has won|G repeats training images) after")
def test_hyperband_ends_a_run_that_is_behind_where_it_was_scored() -> None:
    early = {"type": "hyperband", "min_iter": 1, "eta": 3}
    folder = SweepFolder(described(early_terminate=early), Path("out"), REAL)
    make_run(0, 0, [-1.0])  # better than any
    for trial in (1, 2):
        assert main(["fit", *folder.fit({}, 0), f"--run_dir=out/00{trial}/seed-0"]) == 0
        Path("out/000/seed-0/metrics.csv").unlink(missing_ok=True)
    ended, went_on = (read_run(Path(f"out/00{trial}/seed-0"), "fid_random") for trial in (1, 2))
    assert ended.state == "stopped early"
    assert [images for images, _ in ended.scores] == [64]
    assert torch.load("out/001/seed-0/checkpoints/last.ckpt", weights_only=True)["lightning_gan"]["images_seen"] == 96
    assert went_on.state == "finished"
    assert [images for images, _ in went_on.scores] == [64, 128, 160]


def test_a_sweep_of_real_runs(capsys: pytest.CaptureFixture[str]) -> None:
    parameters = {"model.generator_optimizer.lr": {"values": [2e-4, 1e30]}}
    described(command=[*FIT, *REAL, "${args}"], parameters=parameters)
    diverging = ["--model.generator_optimizer.lr=1e30", "--run_dir=runs/sweeps/s/001/seed-0"]
    SweepFolder(Sweep(Path("s.yaml")), Path("runs/sweeps/s"), [])
    assert main(["fit", *REAL, *diverging]) == 2  # here, as a process of its own takes so long to start
    assert main(["sweep", "s.yaml"]) == 0
    out = capsys.readouterr().out
    assert "trial 0 (1 of 2), seed 0: --model.generator_optimizer.lr=0.0002" in out
    assert "  finished after 160 images, fid_random" in out
    assert "trial 1 diverged after" in out
    assert "64 images against Digits" in out
