"""What can be wrong with images, and what is said of it."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_gan.__main__ import main
from tests.bad_input.conftest import SMALL, Prepare, Refused, noise, pictures

FOLDER = ["fit", *SMALL, "--data", "ImageFolder", "--data.root", "images", "--data.image_size", "16"]
MNIST = ["fit", *SMALL, "--data", "MNIST", "--data.root", "mnist"]
CELEBA = ["fit", *SMALL, "--data", "CelebA", "--data.root", "celeba", "--data.image_size", "16"]


def bomb(width: int, height: int) -> bytes:
    """Make a PNG of a few bytes that says it is huge."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def beside(*contents: bytes) -> Prepare:
    """Put files among 20 images."""

    def prepare(folder: Path) -> None:
        pictures(folder / "images")
        for i, content in enumerate(contents):
            (folder / "images" / f"bad{i}.png").write_bytes(content)

    return prepare


def cut_short(folder: Path) -> None:
    for path in sorted(pictures(folder / "images").iterdir())[:2]:
        path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("prepare", "options", "message"),
    [
        (None, [], "images does not exist; let --data.root name a folder of images."),
        (lambda here: (here / "images").mkdir(), [], "images holds no images: nothing below it ends in .avif"),
        (lambda here: (here / "images").touch(), [], "images is not a folder; let --data.root"),
        (lambda here: (here / "images").symlink_to("images"), [], "images does not exist; let --data.root"),
        (None, ["--data.root", "x" * 300], "cannot be read (File name too long); let --data.root"),
        (None, ["--data.root", "~nobody-of-that-name/x"], "The home folder in ~nobody-of-that-name/x is not known."),
        (beside(b"", b""), [], "2 of 22 images of images cannot be used, more than --data.max_corrupt=0.01 allows."),
        (beside(b"<html>", b"<html>"), [], "2 of 22 images of images cannot be used"),
        (beside(bomb(60_000, 60_000), bomb(2**31 - 1, 2**31 - 1)), [], "2 of 22 images of images cannot be used"),
        (beside(b""), ["--data.max_corrupt", "0"], "1 of 21 images of images cannot be used"),
        (cut_short, [], "2 of 20 images of images cannot be used"),
        (lambda here: (here / "images").mkdir() or (here / "images/a.png").touch(), [], "There is nothing to train on:"),
        (pictures, ["--data.root", ".", "--data.held_out", "0.9999"], "can be used. Give it others, or hold out fewer."),
        (beside(), ["--data.held_out", "1"], "--data.held_out must be at least 0 and less than 1, not 1.0."),
        (beside(), ["--data.held_out", "nan"], "--data.held_out must be float, not 'nan'."),
        (beside(), ["--data.max_corrupt", "-1"], "--data.max_corrupt must be at least 0 and at most 1, not -1.0."),
        (beside(), ["--data.max_corrupt", "1.5"], "--data.max_corrupt must be at least 0 and at most 1, not 1.5."),
        (beside(), ["--data.image_size", "-4"], "--data.image_size must be at least 1, not -4."),
        (beside(), ["--data.image_size", "100000000"], "--data.image_size must be at most 16,384"),
        (beside(), ["--data.image_size", "1"], "the network halves images at least once"),
        (beside(), ["--data.batch_size", "-1"], "--data.batch_size must be at least 1, not -1."),
        (beside(), ["--data.batch_size", "1000000000000"], "--data.batch_size must be at most 1,048,576"),
        (beside(), ["--data.channels", "2"], "--data.channels must be one of 1, 3, not '2'."),
        (beside(), ["--data.background", "nocolour"], "--data.background=nocolour is not a colour; give a name such as"),
        (beside(), ["--data.conditional", "true"], "--data.conditional needs classes, and images has none"),
    ],
)
def test_folders(folder: Path, refused: Refused, prepare: Prepare | None, options: list[str], message: str) -> None:
    if prepare:
        prepare(folder)
    assert message in refused(*FOLDER, *options)


def test_whatever_is_an_image_is_used(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = pictures(folder / "images", num=2)
    (images / "sub folder").mkdir()
    Image.new("CMYK", (20, 20)).save(images / "cmyk.jpg")
    Image.new("P", (20, 20)).save(images / "palette.png")
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(images / "16 bits.png")
    Image.new("RGB", (20, 20)).save(images / "moving.gif", save_all=True, append_images=[Image.new("RGB", (20, 20), "red")])
    (images / "000.png").rename(images / "sub folder" / "ünï côde\n.png")
    (images / "001.png").rename(images / "sub folder" / os.fsdecode(b"not utf-8 \xff.png"))
    (images / "notes.txt").write_text("no image")
    (images / "folder.png").mkdir()
    (images / "above").symlink_to("..")
    (images / "itself").symlink_to("itself")
    os.mkfifo(images / "pipe.png")  # reading it would wait for ever
    assert main([*FOLDER, "--run_dir", "run", "--data.batch_size", "8"]) == 0  # more than there are
    assert "images: 6 training images of 3x16x16" in capsys.readouterr().out


def idx(array: object) -> bytes:
    pixels = np.asarray(array, np.uint8)
    return bytes([0, 0, 8, pixels.ndim]) + np.array(pixels.shape, ">u4").tobytes() + pixels.tobytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", b"", "train-images-idx3-ubyte is damaged: it is not an idx file of the length"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03\0\0", "train-images-idx3-ubyte is damaged"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03" + b"\xff" * 99, "train-images-idx3-ubyte is damaged"),
        ("train-images-idx3-ubyte", idx(range(30)), "train-images-idx3-ubyte is damaged"),
        ("t10k-images-idx3-ubyte", idx(noise(10, 28, 27)), "have images of two sizes or labels above 9"),
        (
            "train-labels-idx1-ubyte",
            idx([77] * 30),
            "have images of two sizes or labels above 9: let --data.root name MNIST's.",
        ),
        ("train-labels-idx1-ubyte", idx([7] * 29), "do not belong together: 30 images, 29 labels."),
        ("train-labels-idx1-ubyte.gz", b"\x1f\x8bjunkjunkjunkjunk", "train-labels-idx1-ubyte.gz cannot be read"),
    ],
)
def test_mnist(folder: Path, refused: Refused, name: str, content: bytes, message: str) -> None:
    raw = folder / "mnist" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, num in {"train": 30, "t10k": 10}.items():
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(noise(num, 28, 28)))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(num) % 10))
    (raw / name.removesuffix(".gz")).unlink()
    (raw / name).write_bytes(content)
    assert message in refused(*MNIST)


def rows(values: str, num: int = 20) -> str:
    return "".join(f"{i:03d}.png {values}\n" for i in range(num))


SMILING = ["--data.attribute", "Smiling"]


@pytest.mark.parametrize(
    ("table", "content", "options", "message"),
    [
        ("", "", SMILING, "--data.attribute=Smiling needs list_attr_celeba.txt, which is not in celeba/celeba; put it there."),
        ("", "", ["--data.conditional", "true"], "--data.conditional needs classes: say which with --data.attribute"),
        ("list_attr_celeba", "", SMILING, "list_attr_celeba does not name its columns"),
        ("list_attr_celeba", "20\nYoung Smiling\n" + rows("1"), SMILING, "has 1 values for 000.png and 2 columns"),
        ("list_attr_celeba", "20\nYoung Smiling\n" + rows("1 1", 9), SMILING, "list_attr_celeba does not list 009.png"),
        (
            "list_attr_celeba",
            "20\nYoung Smling\n" + rows("1 1"),
            SMILING,
            "is not known to CelebA; there is Smling, and",
        ),
        ("list_attr_celeba", b"\x80\x04\xff", SMILING, "list_attr_celeba.txt cannot be read: it is not text."),
        ("list_eval_partition", rows("2"), [], "There is nothing to train on"),
        ("identity_CelebA", "junk", ["--data.attribute", "identity"], "identity_CelebA does not list 000.png"),
    ],
)
def test_celeba(folder: Path, refused: Refused, table: str, content: str | bytes, options: list[str], message: str) -> None:
    images = pictures(folder / "celeba" / "celeba" / "img_align_celeba")
    if table:
        (images.parent / f"{table}.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message in refused(*CELEBA, *options)


def test_celeba_that_is_not_there(refused: Refused) -> None:
    assert "CelebA is not in celeba: let --data.root name a folder that holds" in refused(*CELEBA)
