"""What can be wrong with samples, read or to be written, and with the options of the commands for them."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_gan.__main__ import main
from tests.bad_input.conftest import Prepare, Refused, noise, pictures

EVALUATE = ["evaluate", "--data", "Digits", "--data.image_size", "8", "--extractor", "Random", "--samples"]


def array(content: Any, name: str = "x.npy") -> Prepare:
    return lambda folder: np.save(folder / name, content)


def claiming(shape: tuple[int, ...]) -> Prepare:
    """Write a file of which only the head knows that it is huge."""

    def prepare(folder: Path) -> None:
        with (folder / "x.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            file.write(bytes(640))

    return prepare


def headed(header: bytes, size: int | None = None, version: int = 2) -> Prepare:
    length = (len(header) if size is None else size).to_bytes(2 if version == 1 else 4, "little")
    return lambda folder: (folder / "x.npy").write_bytes(b"\x93NUMPY" + bytes([version, 0]) + length + header)


def pipe(name: str) -> Prepare:
    """Make a pipe, whose reader would wait for ever."""

    def prepare(folder: Path) -> None:
        os.mkfifo(folder / name)

    return prepare


def mixed(folder: Path) -> None:
    pictures(folder / "x", 3, (8, 8))
    pictures(folder / "x" / "others", 1, (9, 8))


GOOD = array(noise(20, 8, 8))


@pytest.mark.parametrize(
    ("prepare", "samples", "options", "message"),
    [
        (pipe("x.npz"), "x.npz", [], "x.npz is no regular file"),
        (lambda here: (GOOD(here), pipe("pipe")(here)), "x.npy", ["--output", "pipe"], "pipe exists already"),
        (
            lambda here: (GOOD(here), (here / "x.npy.random.scores.json").write_text('{"precious": 1}')),
            "x.npy",
            [],
            "x.npy.random.scores.json exists already, and does not hold scores.",
        ),
        (
            lambda here: (GOOD(here), (here / "f.json").write_text("[" * 100_000)),
            "x.npy",
            ["--output", "f.json"],
            "f.json exists already",
        ),
        (None, "x.npz", [], "There are no samples x.npz: name a .npz or .npy file, or a folder of images."),
        (lambda here: (here / "x.npy").symlink_to("x.npy"), "x.npy", [], "There are no samples x.npy"),
        (lambda here: (here / "x").mkdir(), "x", [], "x holds no images: nothing below it ends in .avif"),
        (mixed, "x", [], "x/others/000.png is 8 x 9 pixels, and the images of the data are 8 x 8"),
        (array(noise(20, 8, 8).astype(np.float32)), "x.npy", [], "x.npy holds float32 and must hold uint8"),
        (array(noise(20, 9, 9)), "x.npy", [], "x.npy holds an array of shape (20, 9, 9), and the data needs (N, 8, 8, 1)"),
        (claiming((10**15, 8, 8)), "x.npy", [], "x.npy is cut short: it ends before its 1,000,000,000,000,000 images do."),
        (claiming((-5, 8, 8)), "x.npy", [], "x.npy holds 0 images."),
        (headed(b"(" * 9000), "x.npy", [], "x.npy is damaged, or not a .npy file (its header cannot be read: "),
        (headed(b"{[]: 1}".ljust(50)), "x.npy", [], "x.npy is damaged, or not a .npy file (its header cannot be read: "),
        (headed(b"-" * 9000 + b"1"), "x.npy", [], "x.npy is damaged, or not a .npy file (its header cannot be read: "),
        (headed(b"", 2**32 - 1), "x.npy", [], "its header of 4,294,967,295 bytes is too long"),
        (headed(b"", 2**16 - 1, version=1), "x.npy", [], "its header of 65,535 bytes is too long"),
        (GOOD, "x.npy", ["--output", "x.npy"], "x.npy exists already, and does not hold scores."),
        (
            lambda here: (GOOD(here), (here / "f.json").write_text("[1]")),
            "x.npy",
            ["--output", "f.json"],
            "f.json exists already",
        ),
        (lambda here: (GOOD(here), (here / "folder").mkdir()), "x.npy", ["--output", "folder"], "folder exists already"),
        (GOOD, "x.npy", ["--output", "x.npy/scores.json"], "x.npy/scores.json"),
        (GOOD, "x.npy", ["--device", "warp"], "--device warp cannot be used"),
        (GOOD, "x.npy", ["--data", "json.JSONDecoder"], "--data: json.JSONDecoder is not a DataModule."),
        (
            lambda here: (GOOD(here), (here / "c.yaml").write_text("data: [1]")),
            *("x.npy", ["-c", "c.yaml"], "--data must name a DataModule by"),
        ),
        (
            lambda here: (GOOD(here), (here / "c.yaml").write_text("evaluation: 3\ndata: 4")),
            *("x.npy", ["-c", "c.yaml"], "--data must name a"),
        ),
    ],
)
def test_evaluate(
    folder: Path, refused: Refused, prepare: Prepare | None, samples: str, options: list[str], message: str
) -> None:
    if prepare:
        prepare(folder)
    assert message in refused(*EVALUATE, samples, *options)


def test_evaluate_replaces_its_own_scores(folder: Path) -> None:
    GOOD(folder)
    assert main([*EVALUATE, "x.npy"]) == 0
    for options in ([], ["--output", "x.npy.random.scores.json"]):
        assert main([*EVALUATE, "x.npy", *options]) == 0


def furnish(folder: Path) -> None:
    """Put things in the way."""
    for name in ("file", "file.npz", "file.png"):
        (folder / name).write_text("precious")
    for name in ("full", "empty.npz", "empty.png"):
        (folder / name).mkdir()
    (folder / "full" / "file").write_text("precious")
    (folder / "link.npz").symlink_to("file of another time")
    (folder / "itself").symlink_to("itself")


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("sample", ["--num", "0"], "--num must be >0, not 0."),
        ("sample", ["--num", "1.5"], "--num must be a whole number, not '1.5'."),
        ("sample", ["--num", "nan"], "--num must be a whole number, not 'nan'."),
        ("sample", ["--num", "1000000000000"], "1,000,000,000,000 images are too many"),
        ("sample", ["--labels", "10"], "There is no class 10: this generator's classes are 0 to 9."),
        ("sample", ["--labels", "[1,99]"], "There is no class 99: this generator's classes are 0 to 9."),
        ("sample", ["--labels", "-1"], "--labels cannot be '-1': it takes list[NonNegativeInt], NonNegativeInt, null."),
        ("sample", ["--labels", "cat"], "--labels cannot be 'cat'"),
        ("sample", ["--labels", "[]"], "The list of labels is empty."),
        ("sample", ["--truncation", "-1"], "The truncation must be positive and finite, not -1.0."),
        ("sample", ["--truncation", "nan"], "--truncation cannot be 'nan': it takes float, null."),
        ("sample", ["--half_life", "7"], "There is no average with a half-life of 7 images: of further ones"),
        ("sample", ["--batch_size", "0"], "--batch_size must be >0, not 0."),
        ("sample", ["--seed", "-1"], "--seed must be >=0, not -1."),
        ("sample", ["--device", "cuda:99"], "--device cuda:99 cannot be used"),
        ("sample", ["--ouput", "x.npz"], "There is no option --ouput. Did you mean --output?"),
        ("sample", ["--output", "file.npz"], "file.npz exists already. Name another --output, or remove it first."),
        ("sample", ["--output", "file"], "file exists already. Name another --output, or remove it first."),
        ("sample", ["--output", "full"], "full exists already. Name another --output, or remove it first."),
        ("sample", ["--output", "empty.npz"], "empty.npz exists already. Name another --output, or remove it first."),
        ("sample", ["--output", "link.npz"], "link.npz exists already. Name another --output, or remove it first."),
        ("sample", ["--output", "itself"], "itself exists already. Name another --output, or remove it first."),
        ("sample", ["--output", "file/x.npz"], "file/x.npz could not be written: "),
        ("sample", ["--output", "file/x"], "file/x could not be written: Not a directory."),
        ("sample", ["--output", "/proc/x.npz"], "/proc/x.npz could not be written: No such file or directory."),
        ("sample", ["--output", "x" * 300], "x cannot be used: File name too long."),
        ("interpolate", ["--output", "walk.jpg"], "--output walk.jpg must end in .png, .gif or .mp4."),
        ("interpolate", ["--output", "file.png"], "file.png exists already. Name another --output, or remove it first."),
        ("interpolate", ["--output", "empty.png"], "empty.png exists already. Name another --output, or remove it first."),
        ("interpolate", ["--num", "1"], "--num 1: a walk needs at least 2 latents."),
        ("interpolate", ["--rows", "0"], "--rows must be >0, not 0."),
        ("interpolate", ["--steps", "100000000000"], "are too many: at most 100,000 images in all."),
        ("interpolate", ["--labels", "12"], "There is no class 12: this generator's classes are 0 to 9."),
    ],
)
def test_sample_and_interpolate(
    folder: Path, run: Path, refused: Refused, command: str, options: list[str], message: str
) -> None:
    furnish(folder)
    assert message in refused(command, "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), *options)
