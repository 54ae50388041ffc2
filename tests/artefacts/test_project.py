"""The command `project`."""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.testing import assert_close

import lightning_gan
from lightning_gan.artefacts.latents import read_latents
from lightning_gan.artefacts.project import run
from lightning_gan.errors import UserError
from lightning_gan.projection import Projection, project, psnr, reconstruct
from lightning_gan.sampling import read_generator
from tests.artefacts.generators import save_checkpoint, trained


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "last.ckpt", trained("mlp", num_classes=2, shape=(1, 16, 16)))


def save(path: Path, pixels: NDArray[np.uint8]) -> str:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    return str(path)


def test_what_it_leaves(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = read_generator(checkpoint)
    mine = lightning_gan.load_generator(checkpoint).sample(11, seed=123)
    for i, pixels in enumerate(mine):
        save(tmp_path / "mine" / f"{i:02d}.png", pixels[0].numpy())
    wide = np.zeros((40, 64, 3), np.uint8)
    wide[:, 12:52] = 200  # the central square
    colour = save(tmp_path / "colour.png", wide)
    output = tmp_path / "out"
    run([colour, str(tmp_path / "mine"), "--ckpt_path", str(checkpoint), "--output", str(output), "--device", "cpu"])

    assert sorted(path.name for path in output.iterdir()) == ["latents.npz", "projected.png"]
    names = [colour, *(str(tmp_path / "mine" / f"{i:02d}.png") for i in range(11))]
    with np.load(output / "latents.npz") as latents:
        assert sorted(latents) == ["labels", "names", "nearest_psnr", "psnr", "z"]
        assert latents["names"].tolist() == names
        assert (latents["psnr"][1:] > 40).all()
        values = latents["psnr"].tolist(), latents["nearest_psnr"].tolist(), latents["labels"].tolist()
    shown = reconstruct(generator, *read_latents(output / "latents.npz", generator))

    header, *lines, _, _, _ = capsys.readouterr().out.splitlines()
    assert header.split() == ["class", "found", "nearest", "random"]
    for line, name, found, nearest, label in zip(lines[:-1], names, *values, strict=True):
        assert line.split() == [name, str(label), f"{found:.2f}", "dB", f"{nearest:.2f}", "dB"]
    assert lines[-1].split() == ["median", f"{np.median(values[0]):.2f}", "dB", f"{np.median(values[1]):.2f}", "dB"]
    assert len({len(line) for line in lines}) == 1

    page = np.asarray(Image.open(output / "projected.png"))
    assert page.shape == (2 + 66 * 6, 2 + 66 * 10)  # two bands of three rows, of images of 64 pixels
    tiles = page[2:, 2:].reshape(6, 66, 10, 66)[:, :64, :, :64].transpose(0, 2, 1, 3)[..., ::4, ::4]
    assert (tiles[0, 0] == 200).all()
    targets = np.concatenate([tiles[0], tiles[3]])
    assert np.array_equal(targets[1:12], mine[:, 0].numpy())
    assert np.array_equal(np.concatenate([tiles[1], tiles[4]])[:12], shown[:, 0].numpy())
    nearest = torch.from_numpy(np.concatenate([tiles[2], tiles[5]])[:12].copy())
    assert_close([psnr(a, torch.from_numpy(b.copy())) for a, b in zip(nearest, targets, strict=False)], values[1])
    assert (tiles[3:, 2:] == 255).all()


def test_what_was_found_before_it_is_interrupted_is_kept(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> Iterator[Projection]:
        yield from islice(project(*args), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_gan.projection.project", interrupted)
    names = [save(tmp_path / f"{i}.png", np.full((16, 16), i, np.uint8)) for i in range(3)]
    options = ["--ckpt_path", str(checkpoint), "--output", str(tmp_path / "out"), "--steps", "2", "--device", "cpu"]
    with pytest.raises(KeyboardInterrupt):
        run([*names, *options])
    with np.load(tmp_path / "out" / "latents.npz") as latents:
        assert latents["names"].tolist() == names[:2]
        assert latents["z"].shape == (2, 5)


def test_names_that_a_terminal_cannot_show(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = save(tmp_path / "in" / "\x1b[2J\udcff.png", np.zeros((16, 16), np.uint8))
    output = tmp_path / "out"
    run([str(tmp_path / "in"), "--ckpt_path", str(checkpoint), "--output", str(output), "--steps", "2", "--device", "cpu"])
    _, line, *_ = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path}/in/?[2J?.png ")
    with np.load(output / "latents.npz") as latents:
        assert latents["names"].tolist() == [name]


def test_one_image_and_no_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = save_checkpoint(tmp_path / "x.ckpt", trained("stylegan2"))
    name = save(tmp_path / "x.png", np.zeros((20, 30, 4), np.uint8))  # transparent: white
    options = ["--steps", "5", "--starts", "2", "--seed", "3", "--batch_size", "9", "--device", "cpu"]
    run([name, "--ckpt_path", str(checkpoint), "--output", str(tmp_path / "out"), *options])
    header, line, *_ = capsys.readouterr().out.splitlines()
    assert header.split() == ["found", "nearest", "random"]
    assert line.startswith(name)
    generator = read_generator(checkpoint)
    white = torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    (found,) = project(generator, white, steps=5, starts=2, seed=3, batch_size=9)
    with np.load(tmp_path / "out" / "latents.npz") as latents:
        assert np.array_equal(latents["w"], found.latent.numpy()[None])
        assert "labels" not in latents
    page = np.asarray(Image.open(tmp_path / "out" / "projected.png"))
    assert page.shape == (2 + 66 * 3, 2 + 66, 3)
    assert (page[2:66, 2:66] == 255).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "What is missing: IMAGE."),
        (["nowhere.png"], "There is no image nowhere.png."),
        (["text.png"], "text.png cannot be read as an image: cannot identify image file"),
        (["empty"], "empty holds no images: nothing below it ends in .avif"),
        (["broken.png"], "broken.png cannot be read as an image: it is no regular file. Repair it, or leave it out."),
        (["many"], "1,001 images are too many: at most 1,000 are looked for in one go."),
        (["good.png", "--label", "2"], "There is no class 2: this generator's classes are 0 to 1."),
        (["good.png", "--steps", "0"], "--steps must be >0, not 0."),
        (["good.png", "--starts", "0"], "--starts must be >0, not 0."),
        (["good.png", "--step", "3"], "There is no option --step. Did you mean --steps?"),
        (["good.png", "--output", "empty/.."], "exists already. Name another --output, or remove it first."),
        (["good.png", "--device", "warp"], "--device warp cannot be used"),
        (["good.png", "--ckpt_path", "nowhere.ckpt"], "There is no checkpoint nowhere.ckpt."),
        (["good.png", "--module", "nowhere"], "--module nowhere cannot be imported"),
    ],
)
def test_bad_input(options: list[str], message: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "good.png", np.zeros((16, 16), np.uint8))
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").symlink_to("gone.png")
    (tmp_path / "many").mkdir()
    if "many" in options:
        for i in range(1001):
            (tmp_path / "many" / f"{i}.png").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=f"^.*{re.escape(message)}"):
        run([*options, *([] if "--ckpt_path" in options else ["--ckpt_path", str(checkpoint)])])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("shape", [(5, 16, 16), (1, 8, 16)])
def test_images_that_no_picture_can_be(shape: tuple[int, int, int], tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "x.ckpt", trained("mlp", shape=shape))
    name = save(tmp_path / "x.png", np.zeros((16, 16), np.uint8))
    with pytest.raises(UserError, match=f"this generator's images are {'x'.join(map(str, shape))}"):
        run([name, "--ckpt_path", str(checkpoint), "--output", str(tmp_path / "out")])


def test_a_full_disk(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, contents: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    name = save(tmp_path / "x.png", np.zeros((16, 16), np.uint8))
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"latents\.npz could not be written: No space left on device"):
        run([name, "--ckpt_path", str(checkpoint), "--output", str(tmp_path / "out"), "--steps", "2", "--device", "cpu"])
    assert list((tmp_path / "out").iterdir()) == []
