"""What the tables share: a run to start from, and a command that must be refused without a trace."""

import io
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from lightning_gan.__main__ import main

SMALL = [
    *("--model.generator.width", "4", "--model.discriminator.width", "4", "--trainer.accelerator", "cpu", "--wandb", "off"),
    *("--data.batch_size", "4", "--max_images", "8", "--evaluation.num_samples", "0", "--trainer.enable_progress_bar", "false"),
]

Refused = Callable[..., str]
Prepare = Callable[[Path], Any]


class Malicious:
    """A pickle that leaves a file named `executed` in the current folder when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def pictures(folder: Path, num: int = 20, size: tuple[int, int] = (16, 16)) -> Path:
    """Fill a folder with images, which may have another one among them already."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(num):
        Image.fromarray(noise(*size, 3, seed=i)).save(folder / f"{i:03d}.png")
    return folder


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def saved(content: Any) -> bytes:
    """Give the bytes of `torch.save`."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def snapshot(folder: Path) -> dict[str, str]:
    """Digest whatever is below a folder, links as such."""

    def digest(path: Path) -> str:
        if path.is_symlink():
            return f"link to {path.readlink()}"
        return sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"

    return {str(path.relative_to(folder)): digest(path) for path in sorted(folder.rglob("*"))}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder that is empty but for what the test puts there; caches are elsewhere."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("LIGHTNING_GAN_CACHE", str(tmp_path / "cache"))
    return here


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional run of two steps."""
    folder = tmp_path_factory.mktemp("bad_input") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        patch.setenv("LIGHTNING_GAN_CACHE", str(folder.parent / "cache"))
        assert main(["fit", *SMALL, "--data.image_size", "8", "--run_dir", str(folder)]) == 0
    return folder


@pytest.fixture
def checkpoint(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return content


@pytest.fixture
def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    def check(*args: str) -> str:
        """Run a command that must end in a sentence and leave everything as it was; return the sentence."""
        before = snapshot(folder)
        assert main(list(args)) == 2
        after = snapshot(folder)
        for empty in ("runs", "runs/digits-dcgan"):  # the parents of a run folder may stay behind
            if empty not in before:
                after.pop(empty, None)
        assert after == before
        error = capsys.readouterr().err
        assert "Traceback" not in error
        _, _, message = error.rpartition("error: ")
        sentence, *details = message.strip().splitlines()
        assert all(line.startswith("  ") for line in details), "what follows the sentence is a list"
        return sentence

    return check
