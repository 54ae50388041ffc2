import math
import re
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_gan import images, randomness
from lightning_gan.artefacts.latents import packed, read_latents
from lightning_gan.errors import UserError
from lightning_gan.networks import MLPGenerator, StyleGAN2Generator
from lightning_gan.networks.base import Generator, check_labels
from lightning_gan.projection import LEARNING_RATE, NUM_STYLES, Projection, project, psnr, reconstruct
from lightning_gan.sampling import NotFinite, generate
from tests.artefacts.generators import trained


class Linear(Generator):
    """A linear function of z, beside an image for each class: the nearest latent is known."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        latent_dim: int = 6,
        latent_distribution: Literal["normal", "uniform"] = "normal",
    ) -> None:
        super().__init__(image_shape, num_classes, latent_dim, latent_distribution)
        size = math.prod(image_shape)
        self.columns = nn.Parameter(torch.linalg.qr(torch.randn(size, latent_dim)).Q / 2)  # orthogonal, of one length
        self.offset = nn.Parameter(0.6 * torch.rand(max(1, num_classes), size) - 0.3)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        check_labels(self, y)
        offset = self.offset if y is None else self.offset[y]
        return (z @ self.columns.T + offset).view(-1, *self.image_shape)

    def solve(self, target: Tensor, label: int = 0) -> Tensor:
        """Solve for the least squares: uint8 (C, H, W) -> (latent_dim,)."""
        assert 0 < target.min() <= target.max() < 255  # beyond, nothing is linear
        wanted = images.to_float(target).flatten() - self.offset[label]
        return torch.linalg.lstsq(self.columns, wanted.unsqueeze(1)).solution.squeeze(1)  # type: ignore[no-any-return]  # torch types it as Any


def linear(num_classes: int = 0, **arguments: Any) -> Linear:
    torch.manual_seed(0)
    generator = Linear((1, 8, 8), num_classes, **arguments)
    generator.eval().requires_grad_(False)
    return generator


def lively_styles(num_classes: int = 0) -> StyleGAN2Generator:
    """Build a StyleGAN2 whose images differ, as those of a trained one do."""
    torch.manual_seed(0)
    small: dict[str, Any] = {"latent_dim": 8, "style_dim": 8, "mapping_layers": 2, "channel_base": 128, "max_channels": 8}
    generator = StyleGAN2Generator((1, 8, 8), num_classes, **small)
    return generator.eval().requires_grad_(False)


def own(generator: Generator, num: int = 2, labels: Tensor | None = None, seed: int = 123) -> Tensor:
    """Generate images, of latents that no search starts at."""
    return next(generate(generator, lambda *_: generator.latents(num, torch.Generator().manual_seed(seed)), labels, num, num))


def only(generator: Generator, target: Tensor, **options: Any) -> Projection:
    (found,) = project(generator, target.unsqueeze(0), **options)
    return found


class TestNormalLatents:
    def test_the_least_squares(self) -> None:
        generator = linear()
        with torch.no_grad():
            generator.columns.mul_(torch.linspace(0.3, 1.0, 6))  # some directions count for less
        x = generator(torch.tensor([[0.5, -1.0, 1.5, 0.0, 0.3, -0.7]]))
        target = images.to_uint8(x + 0.1 * torch.randn_like(x))[0]
        expected = generator.solve(target)
        assert 1 < expected.norm() < 3  # as long as random ones
        assert_close(only(generator, target).latent, expected, rtol=0, atol=1e-3)

    @pytest.mark.parametrize("length", [0.0, 20.0])
    def test_the_length_stays_between_those_of_random_ones(self, length: float) -> None:
        generator = linear()
        with torch.no_grad():
            generator.columns.div_(10)
        direction = nn.functional.normalize(torch.arange(1.0, 7.0), dim=0)
        target = images.to_uint8(generator(length * direction[None]))[0]
        lengths = randomness.numbered_latents(generator.latents, 0, 0, 1000).norm(dim=1)
        found = only(generator, target)
        if length:  # the nearest on a sphere lies in the same direction, as the columns are of one length
            expected = nn.functional.normalize(generator.solve(target), dim=0) * lengths.max()
            assert_close(found.latent, expected, rtol=0, atol=0.01)
        else:
            assert_close(found.latent.norm(), lengths.min())

    def test_a_step_is_the_nearest_random_image(self) -> None:
        generator = linear()
        target = torch.randint(256, (1, 8, 8), dtype=torch.uint8)
        found = only(generator, target, steps=1, starts=1)
        z = randomness.numbered_latents(generator.latents, 0, 0, 1000)
        distances = (images.to_uint8(generator(z)).double() - target.double()).square().mean((1, 2, 3))
        assert torch.equal(found.latent, z[distances.argmin()])
        assert torch.equal(found.image, found.nearest)
        assert_close(found.nearest_psnr, 20 * math.log10(255) - 10 * math.log10(distances.min()))


def test_uniform_latents_stay_in_their_cube() -> None:
    generator = linear(latent_distribution="uniform")
    z = torch.tensor([0.5, -1.4, 1.0, 0.0, 1.9, -0.7])
    target = images.to_uint8(generator(z[None]))[0]
    assert_close(only(generator, target).latent, generator.solve(target).clamp(-1, 1), rtol=0, atol=1e-3)


class TestStyles:
    def test_the_search_starts_at_the_mean_and_the_paper_s_noise_fades(self, monkeypatch: pytest.MonkeyPatch) -> None:
        generator = lively_styles()
        tried: list[Tensor] = []
        synthesize = generator.synthesize

        def noted(styles: Tensor) -> Tensor:
            assert torch.equal(styles, styles[:, :1].expand_as(styles))
            tried.append(styles[0, 0].detach())
            return synthesize(styles)

        monkeypatch.setattr(generator, "synthesize", noted)
        target = own(generator)[0]
        tried.clear()
        only(generator, target, steps=40, starts=1, seed=5)
        searched = tried[-42:-2]  # before the reconstruction and the nearest random image
        w = generator.styles(randomness.numbered_latents(generator.latents, 5, 0, NUM_STYLES))[:, 0]
        assert_close(searched[0], w.mean(0))
        spread = (w - w.mean(0)).square().sum(1).mean().sqrt()
        rng = randomness.generator(5, "projection")
        noise = torch.stack([torch.randn(w.shape[1], generator=rng) for _ in range(40)])
        assert_close(searched[1], w.mean(0) + 0.05 * (1 - 1 / 30) ** 2 * spread * noise[1])  # the rate was 0 before
        steps = torch.stack(searched).diff(dim=0).abs().amax(1)
        per_coordinate = float(spread) / w.shape[1] ** 0.5
        assert (steps[30:] <= LEARNING_RATE * per_coordinate * 1.2).all()  # no noise in the last quarter

    def test_a_class_has_a_mean_of_its_own(self) -> None:
        generator = lively_styles(num_classes=3)
        z = randomness.numbered_latents(generator.latents, 0, 0, NUM_STYLES)
        target = own(generator, labels=torch.tensor([2, 2]))[0]
        found = only(generator, target, label=2, steps=1, starts=1)
        assert_close(found.latent, generator.styles(z, torch.full((NUM_STYLES,), 2))[:, 0].mean(0))
        assert not torch.allclose(found.latent, generator.styles(z, torch.full((NUM_STYLES,), 1))[:, 0].mean(0), atol=0.1)


class TestOwnImages:
    def test_of_a_perceptron(self) -> None:
        torch.manual_seed(0)
        generator = MLPGenerator((1, 16, 16), latent_dim=8, hidden=[64, 64]).eval().requires_grad_(False)
        for found in project(generator, own(generator, 4)):
            assert found.nearest_psnr < 30
            assert found.psnr > 50  # 0.8 of 255 levels

    def test_of_a_stylegan2_which_goes_beyond_white(self) -> None:
        generator = lively_styles()
        for found in project(generator, own(generator)):
            assert found.nearest_psnr < 40
            assert found.psnr > 50


class TestClasses:
    def test_the_nearest_counts(self) -> None:
        generator = linear(num_classes=3)
        labels = torch.tensor([2, 0, 1])
        targets = own(generator, 3, labels)
        found = list(project(generator, targets))
        assert [each.label for each in found] == labels.tolist()
        for each, target, label in zip(found, targets, labels, strict=True):
            assert_close(each.latent, generator.solve(target, label), rtol=0, atol=1e-3)
            other = only(generator, target, label=(int(label) + 1) % 3)
            assert other.label == (label + 1) % 3
            assert other.psnr < each.psnr - 10

    def test_more_classes_than_random_images(self) -> None:
        generator = linear(num_classes=600)
        target = own(generator, 1, torch.tensor([599]))[0]
        assert only(generator, target, steps=20, starts=2).label == 599

    def test_wrong_ones(self) -> None:
        with pytest.raises(UserError, match="classes are 0 to 2"):
            only(linear(num_classes=3), torch.zeros(1, 8, 8, dtype=torch.uint8), label=3)
        with pytest.raises(UserError, match="unconditional"):
            only(linear(), torch.zeros(1, 8, 8, dtype=torch.uint8), label=3)


class TestDeterminism:
    @pytest.mark.parametrize("family", ["mlp", "stylegan2"])
    def test_the_images_beside_it_change_nothing(self, family: str) -> None:
        generator = trained(family, num_classes=2)
        targets = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
        together = list(project(generator, targets, steps=30))
        torch.manual_seed(7)
        for i in (2, 0):
            alone = only(generator, targets[i], steps=30)
            assert torch.equal(alone.latent, together[i].latent)
            assert torch.equal(alone.image, together[i].image)
            assert (alone.label, alone.psnr) == (together[i].label, together[i].psnr)

    def test_the_seed_counts_and_the_batch_size_does_not(self) -> None:
        generator = trained("mlp", num_classes=2)
        target = own(generator, labels=torch.tensor([0, 1]))[0]
        few = only(generator, target, steps=30, batch_size=3)
        assert_close(few.latent, only(generator, target, steps=30).latent, rtol=0, atol=1e-3)
        assert not torch.equal(few.latent, only(generator, target, steps=30, seed=1).latent)

    def test_no_global_draw_is_taken(self) -> None:
        generator = trained("stylegan2")
        before = torch.get_rng_state()
        only(generator, torch.zeros(3, 16, 16, dtype=torch.uint8), steps=2)
        assert torch.equal(torch.get_rng_state(), before)


def test_decibels() -> None:
    black = torch.zeros(1, 2, 2, dtype=torch.uint8)
    grey = black.clone()
    grey[0, 0, 0] = 2  # a mean square of 1
    assert_close(psnr(black, grey), 20 * math.log10(255))
    assert psnr(grey, grey) == math.inf
    assert psnr(black, black + 255) == 0


class TestLatents:
    @pytest.mark.parametrize("family", ["dcgan", "stylegan2"])
    @pytest.mark.parametrize("num_classes", [0, 3])
    def test_they_give_the_same_images(self, family: str, num_classes: int, tmp_path: Path) -> None:
        generator = trained(family, num_classes)
        targets = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
        found = list(project(generator, targets, steps=20))
        (tmp_path / "latents.npz").write_bytes(packed(generator, found, ["a", "b", "c"]))
        again = reconstruct(generator, *read_latents(tmp_path / "latents.npz", generator))
        assert torch.equal(again, torch.stack([each.image for each in found]))

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"z": None}, "holds labels, psnr: it was made with another kind of generator."),
            ({"labels": None}, "holds z, psnr: it was made with another kind of generator."),
            ({"z": np.zeros((2, 5), np.float32)}, "holds float32 (2, 5) as z, and this generator takes float32 (N, 6)."),
            ({"z": np.zeros((2, 6))}, "holds float64 (2, 6) as z, and this generator takes float32 (N, 6)."),
            ({"z": np.zeros(6, np.float32)}, "holds float32 (6,) as z"),
            ({"z": np.array(["a", "b"])}, "is damaged, or not a file of latents"),
            ({"z": np.array([print, print])}, "is damaged, or not a file of latents (Object arrays cannot be loaded"),
            ({"z": np.full((2, 6), np.nan, np.float32)}, "holds latents that are not finite."),
            ({"labels": np.array([0, 3])}, "holds labels that are not this generator's classes, one for each latent."),
            ({"labels": np.array([0, -1])}, "holds labels that are not this generator's classes"),
            ({"labels": np.array([0])}, "holds labels that are not this generator's classes"),
            ({"labels": np.array([0.0, 1.0])}, "holds labels that are not this generator's classes"),
        ],
    )
    def test_of_another_kind(self, changed: dict[str, Any], message: str, tmp_path: Path) -> None:
        arrays = {"z": np.zeros((2, 6), np.float32), "labels": np.array([0, 2]), "psnr": np.zeros(2)} | changed
        np.savez(tmp_path / "x.npz", **{name: array for name, array in arrays.items() if array is not None})
        with pytest.raises(UserError, match=re.escape(f"x.npz {message}")):
            read_latents(tmp_path / "x.npz", linear(num_classes=3))

    def test_no_such_file(self, tmp_path: Path) -> None:
        generator = linear()
        with pytest.raises(UserError, match=r"There are no latents .*x\.npz"):
            read_latents(tmp_path / "x.npz", generator)
        path = tmp_path / "y.npz"
        for content in (b"", b"no archive", packed(generator, [only(generator, own(generator)[0], steps=1)], ["a"])[:-100]):
            path.write_bytes(content)
            with pytest.raises(UserError, match=r"y\.npz is damaged, or not a file of latents"):
                read_latents(path, generator)
        np.savez_compressed(path, z=np.zeros((10**6, 6), np.float32))  # a few bytes could be gigabytes
        with pytest.raises(UserError, match="it is compressed"):
            read_latents(path, generator)
        with zipfile.ZipFile(path, "w") as archive, archive.open("z.npy", "w") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**15, 6)})
        with pytest.raises(UserError, match=r"y\.npz is damaged"):
            read_latents(path, generator)


def test_a_generator_that_has_diverged() -> None:
    generator = linear()
    with torch.no_grad():
        generator.offset.fill_(math.nan)
    with pytest.raises(NotFinite):
        only(generator, torch.zeros(1, 8, 8, dtype=torch.uint8))
