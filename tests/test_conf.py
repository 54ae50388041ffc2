"""Every named run trains, on little data made here."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gan.__main__ import main

CONF = Path(__file__).parents[1] / "conf"
RUNS = sorted(path.name for path in CONF.glob("*.yaml"))


def write_idx(path: Path, array: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.fixture(scope="session")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """For each data set, a root folder with a few images of noise."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, count in (("train", 40), ("t10k", 20)):
        raw = folder / "MNIST" / "raw"
        write_idx(raw / f"{split}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(raw / f"{split}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    for name, count in (("celeba/img_align_celeba", 24), ("photos", 24)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            picture = rng.integers(0, 256, (218, 178, 3), dtype=np.uint8)
            Image.fromarray(picture).save(folder / name / f"{i + 1:06d}.jpg")
    return {"mnist": str(folder), "celeba64": str(folder), "folder64": str(folder / "photos")}


def test_the_runs_are_all_here() -> None:
    assert {"mnist-dcgan.yaml", "celeba64-dcgan.yaml", "folder.yaml"} <= set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_it_fits_two_batches(name: str, roots: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (CONF / name).read_text()
    options = next((["--data.root", root] for data, root in roots.items() if f"data/{data}.yaml" in text), [])
    small = ["--data.batch_size", "8", "--max_images", "16", "--wandb", "off", "--trainer.accelerator", "cpu"]
    assert main(["fit", "-c", str(CONF / name), *options, *small]) == 0
    checkpoint = torch.load(f"runs/{Path(name).stem}/0/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2


@pytest.mark.parametrize("name", RUNS)
def test_it_is_headed_by_its_command_and_what_it_measured(name: str) -> None:
    head = (CONF / name).read_text().split("\ninclude")[0]
    assert f"python -m lightning_gan fit -c conf/{name}" in head
    assert "measured" in head.lower()
