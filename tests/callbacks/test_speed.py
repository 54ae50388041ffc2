"""`speed.csv`. The clock is the tests': each step takes a second, and each scoring a hundred."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Callback, Trainer

from lightning_gan.callbacks import Evaluation, LastCheckpoint
from lightning_gan.callbacks import speed as module
from lightning_gan.callbacks.speed import Speed
from lightning_gan.data import DataModule
from lightning_gan.errors import UserError
from lightning_gan.gan import GAN
from lightning_gan.run_folder import Claim

MakeGAN = Callable[..., GAN]
MakeTrainer = Callable[..., Trainer]
Row = tuple[int, float, float]


class Clock(Callback):
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def on_train_batch_start(self, *_: Any) -> None:
        self.now += 1


class Scoring(Evaluation):
    """Takes a hundred seconds, at the end of each second step."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(64)
        self.clock = clock

    def on_train_start(self, *_: Any) -> None: ...

    def act(self, *_: Any) -> None:
        self.clock.now += 100
        self.seconds += 100


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def rows(folder: Path) -> list[Row]:
    with (folder / "speed.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert all(list(row) == ["images_seen", "seconds", "images_per_second"] for row in found)
    return [(int(row["images_seen"]), float(row["seconds"]), float(row["images_per_second"])) for row in found]


Fit = Callable[..., Speed]


@pytest.fixture
def fit(make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Path, clock: Clock) -> Fit:
    def fit(steps: int, *callbacks: Callback, every: float = 10.0, ckpt_path: Path | None = None) -> Speed:
        speed = Speed(tmp_path)
        speed.EVERY = every
        arguments: dict[str, Any] = {"max_steps": steps, "log_every_n_steps": 2, "logger": speed}
        trainer = make_trainer(**arguments, callbacks=[clock, speed, *callbacks], enable_checkpointing=bool(callbacks))
        trainer.fit(make_gan(), digits, ckpt_path=ckpt_path, weights_only=True)
        return speed

    return fit


def test_a_row_comes_when_the_time_has_passed_and_the_row_of_metrics_csv_is_due(fit: Fit, tmp_path: Path) -> None:
    fit(9, every=3.0)
    # Steps 2, 4, 6 and 8 are logged: step 4 is the first after 3 seconds, step 8 after three more, and step 9 is the last.
    assert rows(tmp_path) == [(128, 4.0, 32.0), (256, 8.0, 32.0), (288, 9.0, 32.0)]


def test_scoring_takes_no_time(fit: Fit, clock: Clock, tmp_path: Path) -> None:
    fit(9, Scoring(clock), every=3.0)
    assert rows(tmp_path) == [(128, 4.0, 32.0), (256, 8.0, 32.0), (288, 9.0, 32.0)]


def test_a_resumed_run_counts_on_from_its_checkpoint(fit: Fit, clock: Clock, tmp_path: Path) -> None:
    fit(5, LastCheckpoint(64))
    assert rows(tmp_path) == [(64, 2.0, 32.0), (128, 4.0, 32.0), (160, 5.0, 32.0)]  # one for each checkpoint
    previous = tmp_path / "checkpoints" / "previous.ckpt"
    with (tmp_path / "speed.csv").open("a") as file:
        file.write("192,6.")  # half a row of a start that was killed
    clock.now += 5000
    fit(7, LastCheckpoint(0), ckpt_path=previous)
    assert rows(tmp_path) == [(64, 2.0, 32.0), (128, 4.0, 32.0), (224, 7.0, 32.0)]


def test_a_file_that_is_something_else_is_begun_anew(fit: Fit, tmp_path: Path) -> None:
    (tmp_path / "speed.csv").write_text("a,b\n1,2\n")
    fit(3)
    assert rows(tmp_path) == [(96, 3.0, 32.0)]


def test_a_stale_process_adds_nothing(tmp_path: Path) -> None:
    old, new = Claim(tmp_path), Claim(tmp_path)
    old.take("")
    new.take("")
    with pytest.raises(UserError, match="was started anew"):
        Speed(tmp_path, old)._write(32, 1.0)
    assert not (tmp_path / "speed.csv").exists()


def test_a_full_disk_costs_a_row_and_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "speed.csv").mkdir()
    with pytest.warns(UserWarning, match=r"A row of .*speed\.csv could not be written: Is a directory"):
        Speed(tmp_path)._write(32, 1.0)


def test_w_and_b_is_told_how_fast_it_goes_between_its_rows(fit: Fit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[tuple[dict[str, float], int]] = []

    class Logger:
        def log_metrics(self, values: dict[str, float], step: int) -> None:
            told.append((values, step))

    monkeypatch.setattr(module, "wandb_loggers", lambda _: [Logger()])
    fit(4)
    speed = {"throughput/images_per_second": 32.0}
    assert told == [
        (speed | {"throughput/hours": 2 / 3600, "images_seen": 64}, 1),
        (speed | {"throughput/hours": 4 / 3600, "images_seen": 128}, 3),
    ]
