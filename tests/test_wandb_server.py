"""A run and a server that speaks W&B's protocol: OpenWandb, where it is installed (`pip install openwandb`)."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

KEY = "local" + "0" * 40
SMALL = """
    --data.image_size 8 --data.batch_size 32 --model.generator.width 4 --model.discriminator.width 4
    --evaluation.extractor Random --evaluation.num_samples 64 --evaluation.every_images 640 --checkpoint.every_images 640
    --samples.every_images 640 --walks.every_images 640 --walks.rows 2 --trainer.log_every_n_steps 5 --trainer.accelerator cpu
    --trainer.enable_progress_bar false --run_dir run
"""
PROGRAM = """
import os, signal, sys, time
from lightning_gan import wandb_run
from lightning_gan.__main__ import main
from lightning_gan.gan import GAN

victim, images_seen = int(os.environ["VICTIM"]), int(os.environ["AT"])
step = GAN.training_step
durations = []

def watched(gan, *args):
    if gan.images_seen == images_seen:
        time.sleep(2)  # for W&B to write what it has
        os.kill(victim or os.getpid(), signal.SIGKILL)
    started = time.monotonic()
    result = step(gan, *args)
    durations.append(time.monotonic() - started)
    return result

GAN.training_step = watched
wandb_run.FINISH_TIMEOUT = 5
status = main(sys.argv[1:])
print("longest step", max(durations, default=0))
sys.exit(status)
"""


class Server:
    """OpenWandb, in a folder and on a port of its own.

    Args:
        folder: for what it is sent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def start(self) -> None:
        program = shutil.which("openwandb")
        assert program is not None
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [program, "serve", "--host", "127.0.0.1", "--port", str(self.port), "--data-dir", str(self.folder)],
                stdout=log,
                stderr=log,
            )
        for _ in range(200):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise AssertionError((self.folder / "log").read_text())

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def of(self, name: str) -> Path:
        """Find what it has of a run."""
        (folder,) = self.folder.glob(f"files/*/lightning_gan/{name}")
        return folder

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.of(name) / "wandb-history.jsonl").read_text().splitlines()]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    if shutil.which("openwandb") is None:
        pytest.skip("there is no openwandb")
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    server.start()
    yield server
    server.kill()


class Client:
    """Commands in a folder, with the server for W&B's."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "WANDB_BASE_URL": f"http://127.0.0.1:{server.port}",
            "WANDB_API_KEY": KEY,
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "VICTIM": "0",
            "AT": "-1",
        }
        del self.environment["WANDB_MODE"]
        self.environment.pop("UV", None)

    def run(self, *options: str, status: int = 0, **environment: str) -> str:
        """Call lightning_gan."""
        return self._call([sys.executable, "-W", "ignore", "-c", PROGRAM, *options], status, environment)

    def upload(self, said: str) -> None:
        """Do as one is told to."""
        (command,) = {line.partition("with: ")[2] for line in said.splitlines() if "wandb sync " in line}
        self._call([sys.executable, "-m", *command.split()], 0, {})

    def _call(self, command: list[str], status: int, environment: dict[str, str]) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def client(tmp_path: Path, server: Server) -> Client:
    return Client(tmp_path, server)


def check_rows(rows: list[dict[str, Any]], last: int) -> None:
    steps = [row["_step"] for row in rows]
    assert all(a < b for a, b in pairwise(steps))
    assert [row["images_seen"] for row in rows] == [32 * (step + 1) if step else 0 for step in steps]
    assert set(range(4, last, 5)) <= set(steps)
    assert steps[-1] == last - 1


def test_a_run_that_was_offline_killed_gone_on_with_and_scored_is_uploaded_as_one(client: Client, server: Server) -> None:
    client.run("fit", *SMALL.split(), "--max_images", "2240", "--wandb", "offline", status=-signal.SIGKILL, AT="1504")
    client.run("fit", "--resume", "run")
    score = ["-c", "run/config.yaml", "--ckpt_path", "run/checkpoints/best.ckpt", "--evaluation.test_samples", "96"]
    client.upload(client.run("test", *score))

    name = (client.folder / "run" / "wandb_id").read_text()
    check_rows(server.rows(name), last=70)
    summary = json.loads((server.of(name) / "wandb-summary.json").read_text().splitlines()[-1])
    assert {"test/fid_random", "test/images_seen"} <= set(summary)
    uploaded = {path.read_bytes() for path in server.of(name).glob("media/*/*")}
    made = [*client.folder.glob("run/samples/*.png"), *client.folder.glob("run/walks/*.gif")]
    assert {path.read_bytes() for path in made} == uploaded

    said = client.run("validate", *score[:4], "--wandb", "online")  # all of it is there: it goes on online
    assert f"http://127.0.0.1:{server.port}/default/lightning_gan/runs/{name}" in said
    assert "wandb sync" not in said
    assert len(list(server.folder.glob("files/*/*/*"))) == 1


def test_a_server_that_goes_costs_training_nothing_and_gets_everything_later(client: Client, server: Server) -> None:
    pid = str(server.process.pid)
    options = [*SMALL.split(), "--max_images", "2240", "--wandb", "online", "--wandb_artifacts", "best"]
    said = client.run("fit", *options, VICTIM=pid, AT="960")
    server.process.wait()
    assert (client.folder / "run" / "DONE").exists()
    assert "Send the rest with: wandb sync --include-online run/wandb/run-" in said
    longest = float(said.rpartition("longest step")[2])
    assert longest < 2

    server.start()
    client.upload(said)
    check_rows(server.rows((client.folder / "run" / "wandb_id").read_text()), last=70)
