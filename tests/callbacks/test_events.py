import json
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning import Callback, Trainer

from lightning_gan.callbacks import Health, LastCheckpoint, StopOnSignal
from lightning_gan.callbacks.events import EventLog
from lightning_gan.callbacks.health import TrainingDiverged
from lightning_gan.callbacks.rollback import fit_with_rollbacks
from lightning_gan.data import DataModule
from lightning_gan.errors import UserError
from lightning_gan.gan import GAN
from lightning_gan.run_folder import Claim
from tests.callbacks.test_health import Poison

MakeGAN = Callable[..., GAN]
MakeTrainer = Callable[..., Trainer]


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def kinds(folder: Path) -> list[tuple[str, int]]:
    return [(event["kind"], event["images_seen"]) for event in events(folder)]


def test_a_line_is_an_object_that_says_when_and_what(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.add("collapse", "G has collapsed: “über”", 64)
    log.add("rollback", "Back.", 96)
    first, second = events(tmp_path)
    when = datetime.fromisoformat(first.pop("time"))
    assert when.tzinfo == UTC
    assert datetime.now(UTC) - when < timedelta(minutes=1)
    assert first == {"images_seen": 64, "kind": "collapse", "text": "G has collapsed: “über”"}
    assert second["kind"] == "rollback"


def test_half_a_line_of_a_start_that_was_killed_is_put_out_of_the_way(tmp_path: Path) -> None:
    EventLog(tmp_path).add("collapse", "G has collapsed.", 64)
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"time": "2026-')
    EventLog(tmp_path).add("resumed", "Gone on.", 64)
    assert kinds(tmp_path) == [("collapse", 64), ("resumed", 64)]


def test_what_health_sees_and_rollbacks_are_in_it(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Path
) -> None:
    health = Health(rollbacks=1)
    resumed: Any = SimpleNamespace(describe=lambda processes: "after 0 images")
    log = EventLog(tmp_path, resumed=resumed)
    callbacks: list[Callback] = [Poison(96, times=2), LastCheckpoint(64), health, log]
    with pytest.raises(TrainingDiverged):
        fit_with_rollbacks(make_trainer(max_steps=10, callbacks=callbacks), make_gan(), digits, health)
    assert kinds(tmp_path) == [("resumed", 0), ("divergence", 128), ("rollback", 128), ("divergence", 128)]
    assert events(tmp_path)[1]["text"].startswith("Training diverged after 128 images")


def test_a_run_that_is_stopped_and_gone_on_with_says_so_once(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Path
) -> None:
    class Signal(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 2:
                signal.raise_signal(signal.SIGTERM)

    resumed: Any = SimpleNamespace(describe=lambda processes: f"after 64 images by {processes}")
    callbacks: list[Callback] = [StopOnSignal(), Signal(), EventLog(tmp_path, resumed=resumed)]
    make_trainer(max_steps=10, callbacks=callbacks, enable_checkpointing=False).fit(make_gan(), digits)
    assert kinds(tmp_path) == [("resumed", 0), ("stopped", 96)]
    assert [event["text"] for event in events(tmp_path)] == ["Gone on after 64 images by 1.", "Stopped by SIGTERM."]


def test_a_run_to_which_nothing_happens_has_no_file(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Path
) -> None:
    callbacks = [StopOnSignal(), EventLog(tmp_path)]
    make_trainer(max_steps=2, callbacks=callbacks, enable_checkpointing=False).fit(make_gan(), digits)
    assert not (tmp_path / "events.jsonl").exists()


def test_a_stale_process_adds_nothing(tmp_path: Path) -> None:
    old, new = Claim(tmp_path), Claim(tmp_path)
    old.take("")
    new.take("")
    with pytest.raises(UserError, match="was started anew"):
        EventLog(tmp_path, old).add("collapse", "G has collapsed.", 64)
    assert not (tmp_path / "events.jsonl").exists()


def test_a_full_disk_costs_a_line_and_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").mkdir()
    with pytest.warns(UserWarning, match=r"A line of .*events\.jsonl could not be written: Is a directory"):
        EventLog(tmp_path).add("collapse", "G has collapsed.", 64)
