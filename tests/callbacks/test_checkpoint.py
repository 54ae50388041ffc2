import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer

from lightning_gan.callbacks import LastCheckpoint
from lightning_gan.callbacks.checkpoint import AtomicCheckpointIO
from lightning_gan.data import DataModule
from lightning_gan.errors import UserError
from lightning_gan.gan import GAN


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_last_checkpoint_is_plain_data_that_names_its_generator(
    make_gan: Callable[..., GAN], make_trainer: Callable[..., Trainer], digits: DataModule, tmp_path: Path
) -> None:
    gan = make_gan()
    make_trainer(max_steps=5, callbacks=[LastCheckpoint(64)]).fit(gan, digits)
    assert names(tmp_path / "checkpoints") == ["last.ckpt", "previous.ckpt"]
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 5
    assert checkpoint["lightning_gan"]["images_seen"] == 5 * 32
    assert checkpoint["lightning_gan"]["generator"] == gan.generator.record


def test_a_write_that_fails_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)

    def full(checkpoint: Any, file: Any) -> None:
        file.write(b"half a checkpo")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        UserError, match=r"last\.ckpt could not be written: No space left on device\. The previous checkpoint is intact"
    ):
        AtomicCheckpointIO().save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert names(tmp_path) == ["last.ckpt"]


WRITER = """
import sys, torch
from lightning_gan.callbacks.checkpoint import AtomicCheckpointIO
for step in range(10**6):
    AtomicCheckpointIO().save_checkpoint({"step": step, "weights": torch.full((2_000_000,), step)}, sys.argv[1])
    if step == 0:
        print("started", flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"started\n"
    with writer:
        for _ in range(20):  # stopped at twenty moments, with the file looked at as a kill would leave it
            time.sleep(0.013)
            writer.send_signal(signal.SIGSTOP)
            checkpoint = torch.load(path, weights_only=True)
            assert (checkpoint["weights"] == checkpoint["step"]).all()
            writer.send_signal(signal.SIGCONT)
        writer.kill()
    assert torch.load(path, weights_only=True)["step"] > 0
