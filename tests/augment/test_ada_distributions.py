"""The distributions of ADA's geometric and color transformations, measured from what becomes of images."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from lightning_gan.augment import ADA
from tests.augment.test_ada import N, only


def assert_normal(x: Tensor, std: float) -> None:
    """Check mean and standard deviation within four standard errors, and that no tail is missing or too heavy."""
    n = x.numel()
    assert x.mean().item() == pytest.approx(0, abs=4 * std / n**0.5)
    assert x.std().item() == pytest.approx(std, rel=4 / (2 * n) ** 0.5)
    assert (x.abs() < std).float().mean().item() == pytest.approx(0.6827, abs=4 * (0.6827 * 0.3173 / n) ** 0.5)


def assert_uniform(x: Tensor, low: float, high: float) -> None:
    counts = torch.histc((x - low) / (high - low), 10, 0, 1)
    assert counts.sum() == x.numel()  # none outside
    assert_close(counts / x.numel(), torch.full((10,), 0.1), atol=4 * (0.09 / x.numel()) ** 0.5, rtol=0)


class TestGeometric:
    """What became of an image whose two channels are its pixels' coordinates tells the map that it was sampled by."""

    @staticmethod
    def maps(ada: ADA, n: int = N, height: int = 33) -> tuple[Tensor, Tensor]:
        """Measure the linear parts (n, 2, 2) and where the centre came from, (n, 2), all as (x, y), at the very centre.

        Left out are the few images, one in 200, whose centre came from near the border or beyond.
        """
        across, down = (torch.arange(size, dtype=torch.float32) - size // 2 for size in (33, height))
        x = torch.stack(torch.broadcast_tensors(across, down.view(-1, 1)))
        y = ada(x.repeat(n, 1, 1, 1))[:, :, height // 2 - 1 : height // 2 + 2, 15:18]
        linear = torch.stack([y[:, :, 1, 2] - y[:, :, 1, 0], y[:, :, 2, 1] - y[:, :, 0, 1]], -1) / 2
        centre = y[:, :, 1, 1]
        inside = (centre.abs() < 14).all(1) & ((linear.det() > 0) | (ada.flip > 0))
        assert inside.float().mean() > 0.98
        return linear[inside], centre[inside]

    def test_scale_stretch_and_rotation_have_the_papers_distributions(self) -> None:
        torch.manual_seed(0)
        linear, _ = self.maps(only(geometric=1))
        # L = rotation * diag(1 / stretch, stretch) * rotation / scale.
        assert_normal(-linear.det().log2() / 2, 0.2)
        strengths = torch.linalg.svdvals(linear)
        stretch = (strengths[:, 0] / strengths[:, 1]).log2() / 2  # the absolute value of a normal variable
        assert stretch.square().mean().sqrt().item() == pytest.approx(0.2, rel=4 / (2 * N) ** 0.5)
        angle = torch.atan2(linear[:, 1, 0] - linear[:, 0, 1], linear[:, 0, 0] + linear[:, 1, 1])
        assert_uniform(angle, -math.pi, math.pi)

    def test_the_stretch_has_any_direction_as_a_rotation_comes_before_it_and_one_after(self) -> None:
        torch.manual_seed(0)
        linear, _ = self.maps(only(geometric=1), 2000)
        for gram in (linear @ linear.mT, linear.mT @ linear):
            direction = torch.atan2(2 * gram[:, 0, 1], gram[:, 0, 0] - gram[:, 1, 1])
            assert_uniform(direction, -math.pi, math.pi)

    def test_each_part_happens_with_the_probability(self) -> None:
        torch.manual_seed(0)
        linear, centre = self.maps(only(0.36, geometric=1))
        error = 4 * (0.36 * 0.64 / N) ** 0.5
        strengths = torch.linalg.svdvals(linear)
        gram = linear.mT @ linear
        scaled = (linear.det() - 1).abs() > 1e-3
        stretched = strengths[:, 0] / strengths[:, 1] > 1 + 1e-3
        rotated = (linear[:, 0, 1].abs() > 1e-3) | (linear[:, 1, 0].abs() > 1e-3)
        moved = centre.abs().amax(1) > 1e-3
        for happened in (scaled, stretched, rotated, moved):
            assert happened.float().mean().item() == pytest.approx(0.36, abs=error)
        # Once for each of the two rotations, with 1 - sqrt(1 - 0.36) = 0.2. The inverse's rows tell the first of them.
        after = gram[stretched, 0, 1].abs() > 1e-3
        assert after.float().mean().item() == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / int(stretched.sum())) ** 0.5)

    def test_fractional_translation_is_normal_with_an_eighth_of_the_size(self) -> None:
        torch.manual_seed(0)
        linear, centre = self.maps(only(geometric=1), 2000)
        translation = torch.linalg.solve(linear, -centre)  # the centre came from L * (0 - translation)
        assert_normal(translation / 33, 0.125)
        # It comes after scaling, and so is not scaled itself.
        both = torch.stack([translation.norm(dim=1).log(), linear.det().log()])
        assert torch.corrcoef(both)[0, 1].abs() < 4 / 2000**0.5

    def test_moves_by_whole_pixels_come_after_flips_and_turns(self) -> None:
        torch.manual_seed(0)
        linear, centre = self.maps(only(translate=1, flip=1, rotate90=1), 1000, height=17)
        assert_close(linear @ linear.mT, torch.eye(2).expand(1000, 2, 2), atol=1e-4, rtol=0)
        assert len({tuple(kind.flatten().round().int().tolist()) for kind in linear}) == 8  # four turns, mirrored or not
        # So an eighth of the width, 4 pixels, is to the right also of what was turned; and of the height, 2 pixels, downwards.
        move = torch.linalg.solve(linear, -centre)
        assert_close(move, move.round(), atol=1e-4, rtol=0)
        assert move.amax(0).tolist() == pytest.approx([4, 2], abs=1e-4)
        assert move.amin(0).tolist() == pytest.approx([-4, -2], abs=1e-4)

    def test_the_image_is_the_one_that_grid_sample_draws_by_the_measured_map(self) -> None:
        ada, size = only(geometric=1), 33
        torch.manual_seed(0)
        x = F.interpolate(torch.randn(1, 1, 5, 5), (size, size), mode="bicubic").expand(20, 1, size, size)
        torch.manual_seed(1)
        linear, centre = self.maps(ada, 20)
        assert len(centre) == 20  # with this seed no image is left out
        torch.manual_seed(1)
        y = ada(x)
        theta = torch.cat([linear, centre.unsqueeze(2) * 2 / size], 2)
        expected = F.grid_sample(x, F.affine_grid(theta, list(x.shape), False), padding_mode="reflection", align_corners=False)
        assert_close(y, expected, atol=1e-4, rtol=0)


class TestColor:
    def test_brightness_and_contrast_of_any_channels(self) -> None:
        torch.manual_seed(0)
        for channels in (2, 4):
            x = torch.tensor([-1.0, 0.0, 0.5, 1.0]).view(1, 1, 2, 2).repeat(N, channels, 1, 1)
            y = only(color=1)(x)
            contrast = (y[:, 0, 1, 1] - y[:, 0, 0, 0]) / 2
            brightness = y[:, 0, 0, 1] / contrast  # y = contrast * (x + brightness)
            assert_close(y, contrast.view(-1, 1, 1, 1) * (x + brightness.view(-1, 1, 1, 1)))
            assert_normal(contrast.log2(), 0.5)
            assert_normal(brightness, 0.2)

    def test_the_negative_of_half_of_the_grey_images(self) -> None:
        torch.manual_seed(0)
        x = torch.tensor([-1.0, 0.0, 0.5, 1.0]).view(1, 1, 2, 2).repeat(N, 1, 1, 1)
        y = only(color=1)(x)
        slope = (y[:, 0, 1, 1] - y[:, 0, 0, 0]) / 2
        brightness = y[:, 0, 0, 1] / slope
        assert_close(y, slope.view(-1, 1, 1, 1) * (x + brightness.view(-1, 1, 1, 1)))
        assert (slope < 0).float().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / N**0.5)
        assert_normal(slope.abs().log2(), 0.5)
        assert_normal(brightness, 0.2)

    def test_colors_follow_the_papers_matrices(self) -> None:
        torch.manual_seed(0)
        # Black, red, green and blue show all of an affine map of colors.
        x = torch.cat([torch.zeros(3, 1), torch.eye(3)], 1).view(1, 3, 2, 2).repeat(N, 1, 1, 1)
        y = only(color=1)(x).flatten(2).double()
        matrix, offset = y[:, :, 1:] - y[:, :, :1], y[:, :, 0]
        v = torch.ones(3, dtype=torch.float64) / math.sqrt(3)
        lightness = v @ matrix @ v  # negated by the flip, contrast otherwise
        contrast, flip = lightness.abs(), lightness.sign()
        assert_close(matrix @ v, lightness.unsqueeze(1) * v, atol=1e-5, rtol=1e-5)
        assert_close(offset.std(1), torch.zeros(N, dtype=torch.float64), atol=1e-5, rtol=0)
        assert_normal(offset[:, 0] / lightness, 0.2)
        assert_normal(contrast.log2(), 0.5)
        assert flip.mean().item() == pytest.approx(0, abs=4 / N**0.5)
        # Across the axis of greys a right-handed basis sees a rotation by the hue, scaled.
        a = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64) / math.sqrt(2)
        b = torch.linalg.cross(v, a)
        across, turned = a @ matrix @ a, b @ matrix @ a
        hue, saturation = torch.atan2(turned, across), torch.hypot(across, turned) / contrast
        assert_uniform(hue.float(), -math.pi, math.pi)
        assert_normal(saturation.log2(), 1.0)
        # The product of the paper's matrices with these values is what the image went through.
        projection, one = torch.outer(v, v), torch.eye(3, dtype=torch.float64)
        skew = torch.linalg.cross(v.expand(3, 3), one).T  # skew @ x = v x x
        hue, saturation, flip, contrast = (s.view(-1, 1, 1) for s in (hue, saturation, flip, contrast))
        householder = one - (1 - flip) * projection
        rotation = hue.cos() * one + (1 - hue.cos()) * projection + hue.sin() * skew
        saturate = projection + saturation * (one - projection)
        assert_close(matrix, saturate @ rotation @ householder * contrast, atol=1e-4, rtol=1e-4)

    def test_each_part_happens_with_the_probability(self) -> None:
        torch.manual_seed(0)
        x = torch.cat([torch.zeros(3, 1), torch.eye(3)], 1).view(1, 3, 2, 2).repeat(N, 1, 1, 1)
        y = only(0.6, color=0.5)(x).flatten(2)  # 0.3
        matrix, offset = y[:, :, 1:] - y[:, :, :1], y[:, 0, 0]
        contrast = matrix.sum((1, 2)) / 3
        turned = (matrix[:, 0, 1] - matrix[:, 1, 0]).abs() > 1e-4
        # A rotation alone keeps the length of red's chroma, the square root of 2/3.
        length = (matrix[:, :, 0] - matrix[:, :, 0].mean(1, keepdim=True)).norm(dim=1) * 1.5**0.5
        saturated = (length / contrast.abs() - 1).abs() > 1e-4
        error = 4 * (0.3 * 0.7 / N) ** 0.5
        for happened in (offset.abs() > 1e-5, (contrast.abs() - 1).abs() > 1e-5, turned, saturated):
            assert happened.float().mean().item() == pytest.approx(0.3, abs=error)
        assert (contrast < 0).float().mean().item() == pytest.approx(0.15, abs=error)
