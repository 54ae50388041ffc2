"""What can be wrong with the machine: its variables, folders, disks and devices."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_gan.__main__ import main
from tests.bad_input.conftest import SMALL, Refused

FIT = ["fit", *SMALL, "--data.image_size", "8"]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"LIGHTNING_GAN_CACHE": "file"}, "cannot be kept in file: File exists. Choose a folder that can be written to"),
        ({"LIGHTNING_GAN_CACHE": "file/cache"}, "cannot be kept in file/cache: Not a directory."),
        ({"LIGHTNING_GAN_CACHE": "/proc/nowhere"}, "cannot be kept in /proc/nowhere: No such file or directory."),
        ({"LIGHTNING_GAN_CACHE": "~nobody-of-that-name/x"}, "The home folder in ~nobody-of-that-name/x is not known."),
        ({"LIGHTNING_GAN_CACHE": "", "HOME": "/proc", "XDG_CACHE_HOME": ""}, "cannot be kept in /proc/.cache/lightning_gan"),
    ],
)
def test_caches(
    folder: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    (folder / "file").write_text("precious")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert message in refused(*FIT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--run_dir", "file"], "The run folder file cannot be made: File exists. Name another with --run_dir."),
        (["--run_dir", "file/run"], "The run folder file/run cannot be made: Not a directory. Name another with --run_dir."),
        (["--run_dir", "full"], "The run folder full is not empty."),
        (["--run_dir", "/proc/run"], "The run folder /proc/run cannot be made: No such file or directory."),
        (["--name", "x" * 300], "cannot be made: File name too long."),
        (["--data.cache_dir", "file"], "cannot be kept in file: File exists."),
        (["--resume", "full"], "full"),
        (["--resume", "nowhere"], "nowhere"),
        (["-c", "full"], "The configuration full cannot be read: Is a directory."),
        (["-c", "latin.yaml"], "The configuration latin.yaml cannot be read: 'utf-8' codec can't decode byte 0xe9"),
        (["-c", "bytes.yaml"], "The configuration bytes.yaml is not YAML: unacceptable character"),
        (["-c", "deep.yaml"], "The configuration deep.yaml is nested too deeply."),
        (["-c", "number.yaml"], "The configuration number.yaml is not a mapping of keys to values."),
    ],
)
def test_folders_and_files(folder: Path, refused: Refused, options: list[str], message: str) -> None:
    (folder / "file").write_text("precious")
    (folder / "full").mkdir()
    (folder / "full" / "file").write_text("precious")
    (folder / "latin.yaml").write_bytes("name: café".encode("latin-1"))
    (folder / "bytes.yaml").write_bytes(bytes(3))
    (folder / "deep.yaml").write_text("a: " + "[" * 3000)
    (folder / "number.yaml").write_text("3: 4")
    assert message in refused(*FIT, *options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_a_gpu_that_is_not_there(refused: Refused, accelerator: str) -> None:
    assert any(word in refused(*FIT, "--trainer.accelerator", accelerator) for word in ("not available", "No supported gpu"))


@pytest.mark.parametrize(
    "variables",
    [
        {"WANDB_MODE": "nonsense"},
        {"WANDB_API_KEY": "no key", "WANDB_MODE": "offline"},
        {"WANDB_PROJECT": "a/b:c"},
        {"WANDB_BASE_URL": "nonsense"},
        {"WANDB_DIR": "/proc/nowhere"},
    ],
)
@pytest.mark.filterwarnings("ignore:W&B could not start")
def test_training_does_not_depend_on_wandb(folder: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main([*FIT, "--wandb", "auto", "--run_dir", "run"]) == 0
    assert (folder / "run" / "checkpoints" / "last.ckpt").exists()


def test_without_a_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    assert main([*FIT, "--run_dir", "run"]) == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A disk of a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_without_room_for_the_images(small_disk: Path, refused: Refused) -> None:
    assert "Preparing Digits needs 7,360,512 bytes in" in refused(
        *FIT, "--data.image_size", "64", "--data.cache_dir", str(small_disk)
    )
    assert [path.name for path in small_disk.iterdir() if path.name not in (".lock", "contents")] == []


def test_a_disk_without_room_for_samples(small_disk: Path, run: Path, refused: Refused) -> None:
    precious = small_disk / "precious"
    precious.write_bytes(bytes(2**19))
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    message = refused("sample", "--ckpt_path", checkpoint, "--num", "20000", "--output", str(small_disk / "x.npz"))
    assert message.endswith("x.npz could not be written: No space left on device.")
    assert list(small_disk.iterdir()) == [precious]
    assert precious.read_bytes() == bytes(2**19)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_what_one_may_not_read_or_write(folder: Path, run: Path, refused: Refused) -> None:
    (folder / "x.ckpt").write_bytes((run / "checkpoints" / "last.ckpt").read_bytes())
    (folder / "x.ckpt").chmod(0)
    assert refused("sample", "--ckpt_path", "x.ckpt") == "x.ckpt cannot be read: Permission denied."
    (folder / "locked").mkdir(mode=0o500)
    assert "Permission denied" in refused(
        "sample", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--output", "locked/x"
    )
    assert "Permission denied" in refused(*FIT, "--run_dir", "locked/run")


def test_the_real_command_line_ends_in_a_sentence_too() -> None:
    command = [sys.executable, "-m", "lightning_gan", "sample", "--ckpt_path", "nowhere.ckpt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: There is no checkpoint nowhere.ckpt.\n")
