import io
import os
import tracemalloc
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning import Trainer
from torch import Tensor

from lightning_gan.__main__ import main
from lightning_gan.data import DataModule
from lightning_gan.errors import UserError
from lightning_gan.gan import GAN
from lightning_gan.sample_files import open_samples

GREY, COLOUR = (1, 4, 4), (3, 4, 4)


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def read(path: Path, image_shape: tuple[int, int, int], batch_size: int = 2) -> Tensor:
    samples = open_samples(path, image_shape)
    batches = list(samples.batches(batch_size))
    sizes = [len(batch) for batch in batches]
    assert sum(sizes) == len(samples)
    assert all(size == batch_size for size in sizes[:-1])
    assert 0 < sizes[-1] <= batch_size
    everything = torch.cat(batches)
    assert everything.dtype == torch.uint8
    assert everything.shape[1:] == image_shape
    return everything


def save_pictures(folder: Path, pixels: NDArray[np.uint8], suffix: str = ".png") -> Path:
    folder.mkdir()
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{i:03d}{suffix}")
    return folder


def refused(path: Path, image_shape: tuple[int, int, int] = GREY) -> str:
    """Give the sentence with which samples are refused, before or while they are read."""
    with pytest.raises(UserError) as error:
        read(path, image_shape)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    return message.replace(str(path), "PATH")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
def test_an_archive_of_colour_images(tmp_path: Path, save: Callable[..., None]) -> None:
    pixels = noise(5, 4, 4, 3)
    save(tmp_path / "samples.npz", pixels, labels=np.arange(5))
    expected = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    for batch_size in (1, 2, 5, 7):
        assert read(tmp_path / "samples.npz", COLOUR, batch_size).equal(expected)


@pytest.mark.parametrize("shape", [(5, 4, 4), (5, 4, 4, 1)])
def test_grey_images_with_and_without_their_channel(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = noise(*shape)
    np.save(tmp_path / "samples.npy", pixels)
    np.savez(tmp_path / "samples.npz", whatever=pixels)
    for name in ("samples.npy", "samples.npz"):
        assert read(tmp_path / name, GREY).equal(torch.from_numpy(pixels).view(5, 1, 4, 4))


def test_samples_can_be_read_again(tmp_path: Path) -> None:
    np.save(tmp_path / "samples.npy", noise(3, 4, 4))
    samples = open_samples(tmp_path / "samples.npy", GREY)
    next(samples.batches(1))  # and left there
    first, second = (torch.cat(list(samples.batches(2))) for _ in range(2))
    assert first.equal(second)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp"])
def test_a_folder_of_pictures(tmp_path: Path, suffix: str) -> None:
    pixels = noise(5, 4, 4, 3)
    folder = tmp_path / "samples"
    if suffix == ".webp":  # lossy unless it is told not to be
        folder.mkdir()
        for i, picture in enumerate(pixels):
            Image.fromarray(picture).save(folder / f"{i}.webp", lossless=True)
    else:
        save_pictures(folder, pixels, suffix)
    (folder / "notes.txt").write_text("no image")
    assert read(folder, COLOUR).equal(torch.from_numpy(pixels).permute(0, 3, 1, 2))


def test_pictures_may_lie_in_folders(tmp_path: Path) -> None:
    pixels = noise(4, 4, 4)
    for name, part in (("a", pixels[:2]), ("b", pixels[2:])):
        save_pictures(tmp_path / name, part)
    assert read(tmp_path, GREY).equal(torch.from_numpy(pixels)[:, None])


def test_grey_images_that_were_saved_in_colour(tmp_path: Path) -> None:
    pixels = noise(3, 4, 4)
    colour = pixels[..., None].repeat(3, axis=3)
    np.save(tmp_path / "samples.npy", colour)
    save_pictures(tmp_path / "samples", colour)
    for name in ("samples", "samples.npy"):
        assert read(tmp_path / name, GREY).equal(torch.from_numpy(pixels)[:, None])
    colour[2, 0, 0, 1] ^= 1
    np.save(tmp_path / "tinted.npy", colour)
    save_pictures(tmp_path / "tinted", colour)
    for name in ("tinted", "tinted.npy"):
        assert "in colour, and the data is grey" in refused(tmp_path / name)


def test_other_modes_of_pictures(tmp_path: Path) -> None:
    palette = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) * 17).convert("P")
    palette.save(tmp_path / "0.png")
    Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 17 * 257).save(tmp_path / "1.png")  # 16 bits
    first, second = read(tmp_path, GREY)
    assert first.flatten().tolist() == second.flatten().tolist() == list(range(0, 256, 17))


def test_what_sample_writes(
    make_gan: Callable[..., GAN], make_trainer: Callable[..., Trainer], digits: DataModule, tmp_path: Path
) -> None:
    trainer = make_trainer(max_steps=1)
    trainer.fit(make_gan(0), digits)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    images = []
    for output in (tmp_path / "samples.npz", tmp_path / "samples"):
        assert main(["sample", "--ckpt_path", str(tmp_path / "last.ckpt"), "--output", str(output), "--num", "11"]) == 0
        images.append(read(output, (1, 8, 8), batch_size=4))
    assert len(images[0]) == 11
    assert images[0].equal(images[1])
    assert images[0].flatten().unique().numel() > 1


def test_digests_are_of_the_bytes(tmp_path: Path) -> None:
    pixels = noise(3, 4, 4)
    np.save(tmp_path / "samples.npy", pixels)
    content = (tmp_path / "samples.npy").read_bytes()
    assert open_samples(tmp_path / "samples.npy", GREY).digest == sha256(content).hexdigest()

    folder = save_pictures(tmp_path / "samples", pixels)
    copy = save_pictures(tmp_path / "copy", pixels)
    digest = open_samples(folder, GREY).digest
    assert open_samples(copy, GREY).digest == digest
    (copy / "000.png").rename(copy / "00.png")
    renamed = open_samples(copy, GREY).digest
    Image.fromarray(255 - pixels[0]).save(copy / "00.png")
    assert len({digest, renamed, open_samples(copy, GREY).digest}) == 3


@pytest.mark.parametrize("kind", ["stored", "compressed", "npy"])
def test_memory_is_that_of_a_batch(tmp_path: Path, kind: str) -> None:
    pixels = np.zeros((2000, 64, 64, 3), np.uint8)  # 25 MB
    pixels[-1] = 1
    if kind == "npy":
        np.save(path := tmp_path / "samples.npy", pixels)
    else:
        (np.savez if kind == "stored" else np.savez_compressed)(path := tmp_path / "samples.npz", pixels)
    del pixels
    tracemalloc.start()
    try:
        brightest = [int(batch.max()) for batch in open_samples(path, (3, 64, 64)).batches(20)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert brightest == [0] * 99 + [1]
    assert peak < 4e6  # a batch is 0.25 MB, and is held a few times over


def test_what_is_not_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "gone.npz") == "There are no samples PATH: name a .npz or .npy file, or a folder of images."
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty").startswith("PATH holds no images: nothing below it ends in .avif")
    os.mkfifo(tmp_path / "pipe.npz")
    assert refused(tmp_path / "pipe.npz").startswith("PATH is no regular file")
    (tmp_path / "samples.pt").touch()
    assert refused(tmp_path / "samples.pt").startswith("PATH is neither a .npz or .npy file nor a folder")


@pytest.mark.parametrize(
    ("array", "image_shape", "reason"),
    [
        (np.zeros((5, 8, 8, 3), np.uint8), COLOUR, r"shape (5, 8, 8, 3), and the data needs (N, 4, 4, 3)"),
        (np.zeros((5, 3, 4, 4), np.uint8), COLOUR, r"shape (5, 3, 4, 4), and the data needs (N, 4, 4, 3)"),
        (np.zeros((5, 16), np.uint8), GREY, r"shape (5, 16), and the data needs (N, 4, 4, 1)"),
        (np.zeros((), np.uint8), GREY, r"shape (), and"),
        (np.zeros((5, 4, 4, 1, 1), np.uint8), GREY, r"shape (5, 4, 4, 1, 1), and"),
        (np.zeros((5, 4, 4), np.uint8), COLOUR, "is grey, and the data is in colour"),
        (np.zeros((5, 4, 4, 4), np.uint8), COLOUR, "images with 4 channels, and those of the data have 3"),
        (np.zeros((0, 4, 4), np.uint8), GREY, "holds 0 images"),
        (np.zeros((5, 4, 4), np.float32), GREY, "holds float32 and must hold uint8"),
        (np.zeros((5, 4, 4), np.int64), GREY, "holds int64 and must hold uint8"),
        (np.zeros((5, 4, 4), np.int8), GREY, "holds int8 and must hold uint8"),
        (np.asfortranarray(np.zeros((5, 4, 4), np.uint8)), GREY, "in Fortran order: save np.ascontiguousarray"),
        (np.array([None] * 5), GREY, "holds pickled objects, which are never read"),
    ],
)
def test_arrays_that_are_no_images(
    tmp_path: Path, array: NDArray[np.generic], image_shape: tuple[int, int, int], reason: str
) -> None:
    np.save(tmp_path / "samples.npy", array)
    np.savez(tmp_path / "samples.npz", array)
    for name in ("samples.npy", "samples.npz"):
        assert reason in refused(tmp_path / name, image_shape)


def test_archives_without_one_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "several.npz", fake=noise(2, 4, 4), real=noise(2, 4, 4))
    assert refused(tmp_path / "several.npz") == ("PATH holds several arrays (fake, real): call the one with the images arr_0.")
    with zipfile.ZipFile(tmp_path / "none.npz", "w") as archive:
        archive.writestr("readme.txt", "nothing here")
    assert "holds no arrays" in refused(tmp_path / "none.npz")


@pytest.mark.parametrize("name", ["samples.npy", "stored.npz", "compressed.npz"])
@pytest.mark.parametrize("harm", ["emptied", "overwritten", "cut short", "changed inside"])
def test_damaged_files(tmp_path: Path, name: str, harm: str) -> None:
    path = tmp_path / name
    {"samples.npy": np.save, "stored.npz": np.savez, "compressed.npz": np.savez_compressed}[name](path, noise(50, 4, 4))
    content = bytearray(path.read_bytes())
    if harm == "changed inside":
        if name == "samples.npy":
            return  # has no checksum
        content[len(content) // 2] ^= 255
    harmed = {"emptied": b"", "overwritten": b"<html>" * 99, "cut short": bytes(content[:-9]), "changed inside": bytes(content)}
    path.write_bytes(harmed[harm])
    assert "cut short" in (message := refused(path)) or message.startswith(f"PATH is damaged, or not a {path.suffix} file (")


def test_a_member_that_is_shorter_than_its_header_says(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, noise(5, 4, 4))
    with zipfile.ZipFile(tmp_path / "samples.npz", "w") as archive:
        archive.writestr("arr_0.npy", file.getvalue()[:-1])
    assert refused(tmp_path / "samples.npz").startswith("PATH is cut short: it ends before its 5 images do")


def test_pictures_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    folder = save_pictures(tmp_path / "samples", noise(40, 4, 4))

    def refused_for(name: str, image_shape: tuple[int, int, int] = GREY) -> str:
        with pytest.raises(UserError) as error:
            read(folder, image_shape)
        message = str(error.value)
        assert message.startswith(str(folder / name))
        return message.removeprefix(f"{folder / name} ")

    assert refused_for("000.png", COLOUR).startswith("is grey, and the data is in colour")
    Image.fromarray(noise(6, 8)).save(folder / "030.png")
    assert refused_for("030.png").startswith("is 8 x 6 pixels, and the images of the data are 4 x 4: nothing is resized")
    (folder / "030.png").write_bytes((folder / "031.png").read_bytes()[:-30])
    assert refused_for("030.png").startswith("cannot be read as an image: ")
    (folder / "030.png").write_text("<html>")
    assert refused_for("030.png").startswith("cannot be read as an image: ")
    (folder / "030.png").unlink()
    (folder / "030.png").symlink_to("gone")
    assert refused_for("030.png").startswith("cannot be read as an image: ")


def test_a_folder_holds_grey_or_colour(tmp_path: Path) -> None:
    folder = save_pictures(tmp_path / "samples", noise(1, 4, 4))
    assert "Images of 4 channels are read from a .npz or .npy file" in refused(folder, (4, 4, 4))
