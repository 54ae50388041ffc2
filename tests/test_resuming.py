"""`fit --resume RUN`. What a kill may do to a run is in test_kill.py."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from lightning_gan.__main__ import main
from lightning_gan.checkpoints import read_checkpoint
from lightning_gan.run_folder import Claim

SMALL = [
    *("--data.image_size", "8", "--data.batch_size", "32", "--max_images", "320", "--wandb", "off"),
    *("--model.generator.width", "4", "--model.discriminator.width", "4", "--trainer.accelerator", "cpu"),
    *("--evaluation.num_samples", "0", "--trainer.log_every_n_steps", "1", "--run_dir", "run"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fit(*options: str) -> None:
    assert main(["fit", *SMALL, *options]) == 0


def resume(*options: str) -> int:
    return main(["fit", "--resume", "run", *options])


def stop_at(images_seen: int) -> None:
    """Train the run, and leave what a kill at that checkpoint would: later rows, and no marker."""
    fit("--checkpoint.every_images", str(images_seen))
    Path("run/DONE").unlink()
    checkpoints = Path("run/checkpoints")
    while read_checkpoint(checkpoints / "last.ckpt")["lightning_gan"]["images_seen"] > images_seen:
        (checkpoints / "previous.ckpt").replace(checkpoints / "last.ckpt")


def rows() -> list[dict[str, str]]:
    with Path("run/metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def state(path: str = "run/checkpoints/last.ckpt") -> dict[str, Any]:
    return read_checkpoint(Path(path))


def test_it_takes_the_folder_alone(capsys: pytest.CaptureFixture[str]) -> None:
    stop_at(192)
    assert [int(row["images_seen"]) for row in rows()] == list(range(32, 321, 32))
    whole, config = Path("run/metrics.csv").read_bytes(), yaml.safe_load(Path("run/config.yaml").read_text())
    assert resume() == 0
    assert "resumed        after 192 images" in capsys.readouterr().out
    assert state()["lightning_gan"]["images_seen"] == 320
    assert Path("run/metrics.csv").read_bytes() == whole
    assert yaml.safe_load(Path("run/config.yaml").read_text()) == config
    assert Path("run/DONE").exists()


def test_it_ends_where_the_whole_run_does() -> None:
    fit()
    whole = state()["state_dict"]
    Path("run").rename("whole")
    stop_at(192)
    resume()
    for name, tensor in state()["state_dict"].items():
        assert torch.equal(tensor, whole[name]), name


def test_a_run_without_a_checkpoint_starts_over(capsys: pytest.CaptureFixture[str]) -> None:
    stop_at(192)
    for path in Path("run/checkpoints").iterdir():
        path.unlink()
    assert resume() == 0
    assert "from the start: no checkpoint had been saved" in capsys.readouterr().out
    assert [int(row["images_seen"]) for row in rows()] == list(range(32, 321, 32))


def test_a_damaged_checkpoint_is_named_and_put_aside(capsys: pytest.CaptureFixture[str]) -> None:
    fit("--checkpoint.every_images", "192")
    Path("run/DONE").unlink()
    last = Path("run/checkpoints/last.ckpt")
    last.write_bytes(last.read_bytes()[:-2000])
    assert resume() == 0
    out = capsys.readouterr().out
    assert "last.ckpt is damaged, or not a checkpoint. It is run/checkpoints/last-damaged.ckpt now" in out
    assert "resumed        after 192 images" in out
    assert state()["lightning_gan"]["images_seen"] == 320


def test_a_complete_run_goes_on_when_it_is_to_be_longer(capsys: pytest.CaptureFixture[str]) -> None:
    fit()
    assert resume() == 2
    assert "run is complete, after 320 images. Raise --max_images=320" in capsys.readouterr().err
    assert resume("--max_images", "384") == 0
    assert state()["lightning_gan"]["images_seen"] == 384
    assert resume() == 2  # the longer length is the run's own now
    assert "Raise --max_images=384" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:(G has collapsed|D has won|G repeats training images) after")
def test_the_last_scores_of_a_complete_run_stay_when_it_is_trained_further() -> None:
    fit("--evaluation.num_samples", "50", "--evaluation.extractor", "Random", "--trainer.log_every_n_steps", "10")
    before = rows()
    assert [bool(row["fid_random"]) for row in before] == [False, True]  # the second is of the same 320 images
    assert resume("--max_images", "640") == 0
    assert [{name: row[name] for name in before[0]} for row in rows()[:2]] == before
    assert [row["images_seen"] for row in rows()] == ["320", "320", "640", "640"]


def test_what_was_killed_after_its_last_step_is_finished_without_another(capsys: pytest.CaptureFixture[str]) -> None:
    fit()
    for path in (Path("run/DONE"), *Path("run/samples").glob("[0-9]*.png")):
        path.unlink()
    before = state()
    assert resume() == 0
    assert "training       all done" in capsys.readouterr().out
    assert Path("run/samples/000000320.png").exists()
    assert Path("run/DONE").exists()
    assert state()["global_step"] == before["global_step"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data.batch_size", "16"], "--data.batch_size is 16, and has changed since run was started with 32"),
        (["--seed_everything", "5"], "--data.seed is 5, and has changed since run was started with 0"),
        (["--data.held_out", "0.5"], "The data Digits have changed since run was started"),
        (["--run_dir", "other"], "no --run_dir and no --ckpt_path"),
        (["--ckpt_path", "run/checkpoints/last.ckpt"], "no --run_dir and no --ckpt_path"),
        (["--model.generator.width", "6"], "The checkpoint's generator is DCGANGenerator("),
    ],
)
def test_what_would_be_another_run_is_refused(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    stop_at(192)
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    assert resume(*options) == 2
    assert words in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_a_run_that_began_at_anothers_checkpoint_has_it_at_once() -> None:
    fit()
    Path("run").rename("other")
    fit("--ckpt_path", "other/checkpoints/last.ckpt", "--max_images", "640", "--checkpoint.every_images", "0")
    whole = state()
    checkpoints = Path("run/checkpoints")
    (checkpoints / "previous.ckpt").replace(checkpoints / "last.ckpt")  # as a kill before the end leaves it
    Path("run/DONE").unlink()
    assert state()["lightning_gan"]["images_seen"] == 320
    assert resume() == 0
    for name, tensor in state()["state_dict"].items():
        assert torch.equal(tensor, whole["state_dict"][name]), name


def test_what_an_earlier_start_saves_until_the_folder_is_claimed_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(192)
    take = Claim.take

    def save_and_take(claim: Claim, configuration: str) -> None:
        torch.save(state() | {"metrics_rows": 3}, "run/checkpoints/last.ckpt")
        take(claim, configuration)

    monkeypatch.setattr(Claim, "take", save_and_take)
    assert resume() == 0
    assert len(rows()) == 3 + 4  # those that the later checkpoint counts, and one for each step from there


def test_a_time_limit_is_that_of_one_start(capsys: pytest.CaptureFixture[str]) -> None:
    fit("--trainer.max_time", "00:00:00:01", "--max_images", "100000000")
    assert not Path("run/DONE").exists()
    before = state()["lightning_gan"]["images_seen"]
    assert resume() == 0
    assert state()["lightning_gan"]["images_seen"] > before


@pytest.mark.parametrize("limit", [["--trainer.max_steps", "10"], ["--trainer.max_epochs", "1"]])
def test_other_limits_are_the_runs_end_too(limit: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    fit(*limit, "--max_images", "100000")
    assert resume() == 2
    assert f"already. Raise {'='.join(limit)}." in capsys.readouterr().err
    for path in (Path("run/DONE"), *Path("run/samples").glob("[0-9]*.png")):
        path.unlink()
    steps = state()["global_step"]
    assert resume() == 0
    assert Path("run/DONE").exists()
    assert list(Path("run/samples").glob("[0-9]*.png"))
    assert state()["global_step"] == steps


def test_a_folder_of_images_is_found_from_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "pictures").mkdir()
    for i in range(40):
        Image.new("L", (8, 8), 6 * i).save(folder / "pictures" / f"{i}.png")
    fit("--data", "ImageFolder", "--data.root", "pictures", "--data.image_size", "8", "--data.batch_size", "8")
    Path("run/DONE").unlink()
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert main(["fit", "--resume", "../run", "--max_images", "400"]) == 0


@pytest.mark.parametrize("options", [["--resume", "a", "--resume", "b"], ["--resume=a", "--resume", "b"]])
def test_one_run_at_a_time(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *options]) == 2
    assert "--resume takes one run at a time" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("run", "words"), [("nowhere", "that folder does not exist"), (".", "that folder has no config.yaml in it")]
)
def test_there_must_be_a_run(run: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--resume", run]) == 2
    assert words in capsys.readouterr().err


def test_a_run_is_not_started_over_by_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    fit()
    assert main(["fit", *SMALL]) == 2
    assert "The run folder run has a run in it: --resume it" in capsys.readouterr().err


def test_w_and_b_goes_on_with_its_run() -> None:
    fit("--wandb", "offline")
    Path("run/DONE").unlink()
    name = Path("run/wandb_id").read_text()
    assert resume() == 0
    assert Path("run/wandb_id").read_text() == name
    records = list(Path("run/wandb").glob("offline-run-*"))  # a second one in the same second has a further number
    assert len(records) == 2
    assert all(name in path.name for path in records)
