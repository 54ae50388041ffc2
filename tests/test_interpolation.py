import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_gan import images, randomness
from lightning_gan.__main__ import main
from lightning_gan.interpolation import slerp
from lightning_gan.networks.base import Generator, check_labels
from lightning_gan.sampling import read_generator, truncated


class TinyGenerator(Generator):
    """A linear function of z, and so of few surprises."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        latent_dim: int = 4,
        latent_distribution: Literal["normal", "uniform"] = "normal",
    ) -> None:
        super().__init__(image_shape, num_classes, latent_dim, latent_distribution)
        self.dense = nn.Linear(latent_dim, int(np.prod(image_shape)))
        self.embed = nn.Embedding(num_classes, latent_dim) if num_classes else None

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        check_labels(self, y)
        if self.embed is not None:
            z = z + self.embed(y)
        return self.dense(z).tanh().view(-1, *self.image_shape)  # type: ignore[no-any-return]  # torch types it as Any


def save(path: Path, *args: Any, **kwargs: Any) -> Path:
    torch.manual_seed(0)
    generator = TinyGenerator(*args, **kwargs)
    state = {f"average.generator.{name}": tensor for name, tensor in generator.state_dict().items()}
    record = {"generator": generator.record, "discriminator": generator.record, "images_seen": 0}
    lightning = {"optimizer_states": [{}, {}], "global_step": 0, "callbacks": {}, "loops": {}}
    torch.save({"lightning_gan": record, "state_dict": state} | lightning, path)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save(tmp_path / "last.ckpt", (1, 8, 8), 3)


def interpolate(checkpoint: Path, output: Path, *options: str) -> Path:
    assert main(["interpolate", "--ckpt_path", str(checkpoint), "--output", str(output), "--device", "cpu", *options]) == 0
    assert sorted(path.suffix for path in output.parent.iterdir() if path.name.startswith(".")) == []
    return output


def tiles(page: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """Cut a page of 64-pixel tiles with lines of 2 pixels: (rows, columns, 64, 64, ...)."""
    assert page.shape[:2] == (2 + 66 * rows, 2 + 66 * columns)
    return np.stack([[page[2 + 66 * r : 66 + 66 * r, 2 + 66 * c : 66 + 66 * c] for c in range(columns)] for r in range(rows)])


class TestSlerp:
    def test_between_unit_axes(self) -> None:
        a, b = torch.tensor([[1.0, 0.0]]).expand(3, 2), torch.tensor([[0.0, 1.0]]).expand(3, 2)
        halfway, third, two_thirds = slerp(a, b, torch.tensor([[1 / 2], [1 / 3], [2 / 3]])).tolist()
        assert_close(halfway, [0.5**0.5, 0.5**0.5])
        assert_close(third, [0.75**0.5, 0.5])  # 30 degrees
        assert_close(two_thirds, [0.5, 0.75**0.5])

    def test_lengths(self) -> None:
        torch.manual_seed(0)
        a, b = nn.functional.normalize(torch.randn(2, 500, 6), dim=2) * 3
        t = torch.rand(500, 1)
        assert_close(slerp(a, b, t).norm(dim=1), torch.full((500,), 3.0))
        assert torch.lerp(a, b, t).norm(dim=1).mean() < 2.7  # what it is for

    def test_it_starts_and_ends_exactly_at_its_ends(self) -> None:
        torch.manual_seed(0)
        a, b = torch.randn(2, 500, 100)
        assert torch.equal(slerp(a, b, torch.zeros(500, 1)), a)
        assert torch.equal(slerp(a, b, torch.ones(500, 1)), b)

    @pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, -3.0, 0.0, 1 + 1e-7])
    def test_parallel_and_opposite_vectors_are_interpolated_linearly(self, factor: float) -> None:
        torch.manual_seed(0)
        a, t = torch.randn(500, 6), torch.rand(500, 1)
        assert_close(slerp(a, factor * a, t), a * (1 - t + factor * t))
        assert_close(slerp(factor * a, a, t), a * (factor - factor * t + t))

    def test_nothing_explodes_near_to_opposite_vectors(self) -> None:
        torch.manual_seed(0)
        a, t = nn.functional.normalize(torch.randn(2000, 6), dim=1), torch.rand(2000, 1)
        b = -a + torch.randn(2000, 6) * torch.logspace(-9, 0, 2000).unsqueeze(1)
        longest = torch.maximum(a.norm(dim=1), b.norm(dim=1))
        assert (slerp(a, b, t).norm(dim=1) <= longest * 1.01).all()

    def test_the_only_dimension(self) -> None:
        assert_close(slerp(torch.tensor([[1.0]]), torch.tensor([[-2.0]]), torch.tensor([[0.5]])), torch.tensor([[-0.5]]))


class TestPNG:
    @pytest.mark.parametrize("options", [[], ["--labels", "[2,0]"], ["--truncation", "0.5"], ["--seed", "3"]])
    def test_a_row_starts_as_sample_does_and_goes_through_the_following_latents(
        self, checkpoint: Path, tmp_path: Path, options: list[str]
    ) -> None:
        arguments = ["--rows", "4", "--num", "3", "--steps", "2", "--batch_size", "7", *options]
        page = np.asarray(Image.open(interpolate(checkpoint, tmp_path / "walk.png", *arguments)))
        shown = tiles(page, 4, 5)
        assert np.array_equal(shown, shown[..., ::8, ::8].repeat(8, -1).repeat(8, -2))
        walks = shown[..., ::8, ::8]

        output = tmp_path / "samples.npz"
        assert main(["sample", "--ckpt_path", str(checkpoint), "--output", str(output), "--num", "4", *options]) == 0
        samples = np.load(output)
        assert np.array_equal(walks[:, 0], samples["arr_0"][..., 0])

        generator = read_generator(checkpoint)
        z = randomness.numbered_latents(generator.latents, 3 if "--seed" in options else 0, 0, 12).view(3, 4, 4)
        y = torch.from_numpy(samples["labels"])
        halfway = torch.full((4, 1), 0.5)
        path = [z[0], slerp(z[0], z[1], halfway), z[1], slerp(z[1], z[2], halfway), z[2]]
        truncation = 0.5 if "--truncation" in options else None
        for column, latents in enumerate(path):
            expected = images.to_uint8(truncated(generator, latents, y, truncation))
            assert np.array_equal(walks[:, column], expected[:, 0].numpy()), column

    def test_uniform_latents_are_interpolated_linearly(self, tmp_path: Path) -> None:
        checkpoint = save(tmp_path / "uniform.ckpt", (1, 8, 8), latent_distribution="uniform")
        page = np.asarray(Image.open(interpolate(checkpoint, tmp_path / "walk.png", "--rows", "2", "--steps", "4")))
        generator = read_generator(checkpoint)
        z = randomness.numbered_latents(generator.latents, 0, 0, 4).view(2, 2, 4)
        expected = images.to_uint8(generator(z[0].lerp(z[1], 0.25)))
        assert np.array_equal(tiles(page, 2, 5)[:, 1, ::8, ::8], expected[:, 0].numpy())

    def test_colours_and_the_defaults(self, tmp_path: Path) -> None:
        checkpoint = save(tmp_path / "colour.ckpt", (3, 64, 64))
        picture = Image.open(interpolate(checkpoint, tmp_path / "new" / "folder" / "walk.PNG"))
        assert picture.mode == "RGB"
        shown = tiles(np.asarray(picture), 10, 11)
        z = randomness.numbered_latents(read_generator(checkpoint).latents, 0, 0, 20)
        expected = images.to_uint8(read_generator(checkpoint)(z)).permute(0, 2, 3, 1)
        assert np.array_equal(shown[:, 0], expected[:10])
        assert np.array_equal(shown[:, 10], expected[10:])


class TestGIF:
    def test_a_loop(self, checkpoint: Path, tmp_path: Path) -> None:
        options = ["--rows", "6", "--num", "3", "--steps", "4"]
        frames, durations = [], []
        with Image.open(interpolate(checkpoint, tmp_path / "walk.gif", *options, "--fps", "25")) as film:
            assert film.info["loop"] == 0  # for ever
            for frame in ImageSequence.Iterator(film):
                frames.append(tiles(np.asarray(frame.convert("L")), 2, 3).reshape(6, 64, 64))
                durations.append(frame.info["duration"])
        assert durations == [40] * 12  # milliseconds; 3 latents, 4 steps from each, the last leg back to the first

        page = np.asarray(Image.open(interpolate(checkpoint, tmp_path / "walk.png", *options)))
        assert np.array_equal(np.stack(frames[:9], 1), tiles(page, 6, 9))  # grey levels survive
        jumps = [np.abs(a.astype(float) - b).mean() for a, b in pairwise([*frames, frames[0]])]
        assert jumps[-1] < 2 * np.mean(jumps)  # the end meets the start

    def test_colours(self, tmp_path: Path) -> None:
        checkpoint = save(tmp_path / "colour.ckpt", (3, 64, 64))
        output = interpolate(checkpoint, tmp_path / "walk.gif", "--rows", "1", "--num", "2", "--steps", "3")
        with Image.open(output) as film:
            assert (film.n_frames, film.size) == (6, (64, 64))  # type: ignore[attr-defined]  # Pillow gives it to films alone
            first = np.asarray(film.convert("RGB"))
        z = randomness.numbered_latents(read_generator(checkpoint).latents, 0, 0, 1)
        expected = images.to_uint8(read_generator(checkpoint)(z))[0].permute(1, 2, 0).numpy().astype(float)
        assert np.abs(first - expected).mean() < 16  # of noise in 256 colours


class TestMP4:
    @pytest.mark.parametrize(("shape", "size"), [((1, 8, 8), (134, 68)), ((3, 65, 65), (136, 70))])
    def test_a_film(self, tmp_path: Path, shape: tuple[int, int, int], size: tuple[int, int]) -> None:
        av = pytest.importorskip("av", reason="films in MP4 need the optional package av")
        checkpoint = save(tmp_path / "last.ckpt", shape)
        options = ["--rows", "2", "--num", "3", "--steps", "4", "--fps", "30"]
        with av.open(interpolate(checkpoint, tmp_path / "walk.mp4", *options)) as film:
            frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
            assert film.streams.video[0].average_rate == 30
        assert [frame.shape for frame in frames] == [(size[1], size[0], 3)] * 12  # sides are even
        z = randomness.numbered_latents(read_generator(checkpoint).latents, 0, 0, 2)
        expected = images.grid(images.to_uint8(read_generator(checkpoint)(z)), 2)
        if shape[0] == 1:  # what is lost in colours is beyond counting
            assert np.abs(frames[0][:, :, 0].astype(float) - expected).mean() < 8

    def test_without_the_encoder(
        self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "av", None)
        assert main(["interpolate", "--ckpt_path", str(checkpoint), "--output", str(tmp_path / "walk.mp4")]) == 2
        assert "needs the package av (pip install av)" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            (["--output", "walk.jpg"], "--output walk.jpg must end in .png, .gif or .mp4."),
            (["--output", "walk"], "--output walk must end in .png, .gif or .mp4."),
            (["--num", "1"], "--num 1: a walk needs at least 2 latents."),
            (["--num", "0"], "--num 0: a walk needs at least 2 latents."),
            (["--steps", "0"], "--steps must be >0, not 0."),
            (["--rows", "0"], "--rows must be >0, not 0."),
            (["--output", "walk.gif", "--fps", "60"], "--fps 60: a .gif shows at most 50 frames in a second"),
            (["--output", "walk.mp4", "--fps", "5000"], "--fps 5000: at most 1000 frames in a second."),
            (["--rows", "1000000"], "1000000 walks of 11 images are too many: at most 100,000 images in all."),
            (["--labels", "3"], "There is no class 3: this generator's classes are 0 to 2."),
            (["--truncation", "0"], "The truncation must be positive and finite, not 0.0."),
            (["--device", "warp"], "--device warp cannot be used"),
            (["--row", "3"], "There is no option --row. Did you mean --rows?"),
        ],
    )
    def test_options_that_are_wrong(
        self,
        checkpoint: Path,
        tmp_path: Path,
        options: list[str],
        sentence: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(["interpolate", "--ckpt_path", str(checkpoint), *options]) == 2
        assert capsys.readouterr().err.startswith(f"error: {sentence}")
        assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [(["--labels", "1"], "this one is unconditional"), (["--truncation", "0.5"], "this generator's latents are uniform")],
    )
    def test_what_this_generator_cannot_do(
        self, tmp_path: Path, options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        checkpoint = save(tmp_path / "uniform.ckpt", (1, 8, 8), latent_distribution="uniform")
        assert main(["interpolate", "--ckpt_path", str(checkpoint), "--output", str(tmp_path / "w.png"), *options]) == 2
        assert sentence in capsys.readouterr().err

    def test_nothing_that_exists_is_overwritten(
        self, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "mine.gif").write_text("precious")
        assert main(["interpolate", "--ckpt_path", str(checkpoint), "--output", str(tmp_path / "mine.gif")]) == 2
        assert "mine.gif exists already" in capsys.readouterr().err
        assert (tmp_path / "mine.gif").read_text() == "precious"

    @pytest.mark.parametrize("suffix", ["png", "gif"])
    def test_a_full_disk_leaves_nothing_behind(
        self,
        checkpoint: Path,
        tmp_path: Path,
        suffix: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def full(path: Path, contents: bytes) -> int:
            path.touch()
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        output = tmp_path / f"walk.{suffix}"
        assert main(["interpolate", "--ckpt_path", str(checkpoint), "--output", str(output)]) == 2
        assert f"walk.{suffix} could not be written: No space left on device." in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
