"""A process that dies takes the others with it, soon and with a reason."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

OPTIONS = [
    *("--data.image_size", "8", "--data.batch_size", "32", "--max_images", "100000000", "--wandb", "off"),
    *("--model.generator.width", "4", "--model.discriminator.width", "4", "--trainer.accelerator", "cpu"),
    *("--evaluation.num_samples", "0", "--trainer.devices", "2", "--checkpoint.every_images", "640", "--run_dir", "run"),
]
LONG_ENOUGH = 60.0


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LONG_ENOUGH
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds child processes in /proc, which Linux has")
def test_the_survivor_of_a_kill_says_so_and_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lightning_gan", "fit", *OPTIONS]
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(tmp_path / "run" / "checkpoints" / "previous.ckpt", first)
        children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
        (second,) = (int(pid) for pid in children if "lightning_gan" in Path(f"/proc/{pid}/cmdline").read_text())
        os.kill(second, signal.SIGKILL)
        _, errors = first.communicate(timeout=LONG_ENOUGH)
    finally:
        first.kill()
    assert first.returncode == 2
    assert "error: Another process of this run has ended" in errors
    assert "fit --resume RUN" in errors
    assert "Traceback" not in errors
