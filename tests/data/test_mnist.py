import gzip
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision import datasets

from lightning_gan.data import MNIST
from lightning_gan.data.mnist import FILES
from lightning_gan.errors import UserError

REAL = Path(__file__).parents[3] / "shared" / "data"


def idx(array: NDArray[np.uint8]) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return head + array.tobytes()


def arrays() -> dict[str, NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": rng.integers(0, 256, (6, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": np.array([3, 1, 4, 1, 5, 9], dtype=np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (2, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.array([2, 6], dtype=np.uint8),
    }


def write(raw: Path) -> None:
    raw.mkdir(parents=True)
    for name, array in arrays().items():
        (raw / name).write_bytes(idx(array))


@pytest.mark.parametrize("below", ["", "MNIST", "MNIST/raw"])
def test_official_splits_and_labels_unchanged(tmp_path: Path, below: str) -> None:
    write(tmp_path / "MNIST" / "raw")
    data = MNIST(str(tmp_path / below))
    assert data.image_shape == (1, 28, 28)
    for split, part in (("train", "train"), ("test", "t10k")):
        images, labels = data.images(split)  # type: ignore[arg-type]
        assert torch.equal(images, torch.from_numpy(arrays()[f"{part}-images-idx3-ubyte"])[:, None])
        assert labels is not None
        assert labels.tolist() == arrays()[f"{part}-labels-idx1-ubyte"].tolist()
    assert data.description == "MNIST: 6 training images of 1x28x28, 2 held out, 10 classes"


def test_32_pixels_are_28_with_a_margin(tmp_path: Path) -> None:
    write(tmp_path / "MNIST" / "raw")
    images, _ = MNIST(str(tmp_path), image_size=32).images("train")
    inner, _ = MNIST(str(tmp_path)).images("train")
    assert torch.equal(images[..., 2:30, 2:30], inner)
    assert images.sum() == inner.sum()


def test_other_sizes_are_resized(tmp_path: Path) -> None:
    write(tmp_path / "MNIST" / "raw")
    images, _ = MNIST(str(tmp_path), image_size=14, resample="box").images("train")
    blocks = arrays()["train-images-idx3-ubyte"].reshape(6, 14, 2, 14, 2).mean((2, 4))
    assert np.abs(images[:, 0].numpy() - blocks).max() <= 1  # Pillow rounds after each direction


def test_compressed_files(tmp_path: Path) -> None:
    write(tmp_path / "plain" / "MNIST" / "raw")
    (tmp_path / "packed").mkdir()
    for name in FILES:
        content = (tmp_path / "plain" / "MNIST" / "raw" / name).read_bytes()
        (tmp_path / "packed" / f"{name}.gz").write_bytes(gzip.compress(content))
    assert MNIST(str(tmp_path / "packed")).fingerprint == MNIST(str(tmp_path / "plain")).fingerprint


@pytest.mark.parametrize("damage", [b"", b"\x00\x00", idx(np.zeros((2, 28, 28), np.uint8))[:-1], b"<html>" * 9000])
def test_a_damaged_file_is_named(tmp_path: Path, damage: bytes) -> None:
    write(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte").write_bytes(damage)
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte is damaged: .* delete it, and it is downloaded again"):
        MNIST(str(tmp_path)).prepare_data()


def test_a_damaged_compressed_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "MNIST" / "raw")
    labels = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    packed = gzip.compress(labels.read_bytes())
    labels.unlink()
    for damaged in (packed[:-9], b"not gzip", packed[:12] + b"\xff\xff\xff" + packed[15:]):
        labels.with_name(f"{labels.name}.gz").write_bytes(damaged)
        with pytest.raises(UserError, match=r"train-labels-idx1-ubyte\.gz cannot be read"):
            MNIST(str(tmp_path)).prepare_data()


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    write(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(5, np.uint8)))
    with pytest.raises(UserError, match=r"train-\* files .* do not belong together: 6 images, 5 labels"):
        MNIST(str(tmp_path)).prepare_data()


def test_downloads_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: write(Path(self.raw_folder)))
    monkeypatch.setattr(datasets.MNIST, "_load_data", lambda self: (None, None))
    root = tmp_path / "data"
    assert len(MNIST(str(root)).images("train")[0]) == 6
    assert sorted(path.name for path in (root / "MNIST" / "raw").iterdir()) == sorted(FILES)
    assert [path.name for path in root.iterdir()] == ["MNIST"]


def test_neither_there_nor_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(dataset: Any) -> None:
        Path(dataset.raw_folder).mkdir(parents=True)
        (Path(dataset.raw_folder) / "train-images-idx3-ubyte").write_bytes(b"half")
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nno network")

    monkeypatch.setattr(datasets.MNIST, "download", fail)
    with pytest.raises(UserError) as error:
        MNIST(str(tmp_path / "data")).prepare_data()
    message = str(error.value)
    assert f"MNIST is not in {tmp_path / 'data'} and could not be downloaded" in message
    assert "(Error downloading train-images-idx3-ubyte.gz: no network)" in message
    assert "Connect to the network, or let --data.root name a folder whose MNIST/raw holds train-images-idx3-ubyte" in message
    assert not list((tmp_path / "data").rglob("*ubyte"))
    assert socket.getdefaulttimeout() is None


@pytest.mark.skipif(not (REAL / "MNIST").is_dir(), reason="needs ../shared/data/MNIST")
def test_the_real_one() -> None:
    data = MNIST(str(REAL))
    images, labels = data.images("train")
    assert labels is not None
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    # The mean and standard deviation that everyone knows.
    pixels = images.float() / 255
    torch.testing.assert_close(pixels.mean(), torch.tensor(0.1307), rtol=0, atol=1e-4)
    torch.testing.assert_close(pixels.std(), torch.tensor(0.3081), rtol=0, atol=1e-4)
    assert data.description == "MNIST: 60000 training images of 1x28x28, 10000 held out, 10 classes"
