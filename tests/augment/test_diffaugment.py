import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from lightning_gan.augment import DiffAugment
from lightning_gan.schedules import Linear


def only(**arguments: Any) -> DiffAugment:
    """Make one with nothing but what is named."""
    return DiffAugment(**({"color": False, "translation": 0.0, "cutout": 0.0} | arguments))


class TestTranslation:
    def test_it_reaches_its_share_to_every_side_and_never_more_and_fills_with_zeros(self) -> None:
        torch.manual_seed(0)
        x = torch.arange(1.0, 129).view(1, 1, 8, 16).repeat(1500, 1, 1, 1)  # an eighth is 1 row and 2 columns
        padded = torch.nn.functional.pad(x[:1], (2, 2, 1, 1))
        candidates = {
            (dy, dx): padded[:, :, 1 - dy : 9 - dy, 2 - dx : 18 - dx] for dy in (-1, 0, 1) for dx in (-2, -1, 0, 1, 2)
        }
        y = only(translation=0.125)(x)
        counts = torch.tensor([(y == moved).all((1, 2, 3)).sum() for moved in candidates.values()])
        assert counts.sum() == 1500  # each image is one of the 15
        assert_close(counts / 1500, torch.full((15,), 1 / 15), atol=0.02, rtol=0)  # 3 standard errors

    def test_part_of_a_pixel_is_rounded_down(self) -> None:
        x = torch.ones(200, 1, 15, 7)  # an eighth is 1.875 rows and 0.875 columns
        zeros = (only(translation=0.125)(x) == 0).all(3).sum(2)
        assert zeros.max() == 1
        assert (only(translation=0.125)(x) != 0).any(2).all()  # no column moves

    def test_a_whole_image_can_leave(self) -> None:
        torch.manual_seed(0)
        y = only(translation=1.0)(torch.ones(400, 1, 2, 2))
        assert (y == 0).all((1, 2, 3)).any()
        assert (y == 1).all((1, 2, 3)).any()


class TestCutout:
    def test_it_sets_a_square_of_its_share_to_zero(self) -> None:
        torch.manual_seed(0)
        y = only(cutout=0.5)(torch.ones(300, 3, 8, 8))
        holes = (y == 0).sum((2, 3))  # (N, C)
        assert (holes == holes[:, :1]).all()  # all channels alike
        assert holes.max() == 16
        assert holes.min() == 4  # in a corner
        assert set(y.unique().tolist()) == {0.0, 1.0}


class TestColor:
    def test_brightness_of_a_flat_image_is_uniform(self) -> None:
        # Saturation and contrast do nothing to it.
        torch.manual_seed(0)
        y = only(color=True)(torch.full((4000, 3, 2, 2), 0.25))
        shift = y[:, 0, 0, 0] - 0.25
        assert_close(y, (0.25 + shift).view(-1, 1, 1, 1).expand_as(y))
        assert shift.min() == pytest.approx(-0.5, abs=0.01)
        assert shift.max() == pytest.approx(0.5, abs=0.01)
        assert shift.mean().item() == pytest.approx(0, abs=3 * 0.2887 / 4000**0.5)
        assert shift.std().item() == pytest.approx(12**-0.5, abs=0.01)

    @pytest.mark.parametrize("channels", [1, 2, 4])
    def test_contrast_is_uniform_about_the_images_mean(self, channels: int) -> None:
        torch.manual_seed(0)
        x = torch.tensor([-1.0, 0.0, 0.0, 1.0]).view(1, 1, 2, 2).repeat(4000, channels, 1, 1)  # grey: no saturation
        y = only(color=True)(x)
        mean = y.mean((1, 2, 3), keepdim=True)
        factor = (y - mean)[:, :1, 1:, 1:]
        assert_close(y, mean + factor * x)
        assert factor.min().item() == pytest.approx(0.5, abs=0.01)
        assert factor.max().item() == pytest.approx(1.5, abs=0.01)
        assert factor.mean().item() == pytest.approx(1, abs=3 * 0.2887 / 4000**0.5)
        assert abs(mean).max().item() == pytest.approx(0.5, abs=0.01)  # brightness

    def test_saturation_is_uniform_about_the_channels_mean(self) -> None:
        torch.manual_seed(0)
        # Grey varies between columns and so shows contrast; color is the same everywhere and shows contrast times saturation.
        color, grey = torch.tensor([0.5, -0.5, 0.0]).view(1, 3, 1, 1), torch.tensor([-1.0, 1.0])
        y = only(color=True)((color + grey).expand(4000, 3, 2, 2))
        contrast = (y.mean(1)[:, 0, 1] - y.mean(1)[:, 0, 0]) / 2
        saturation = (y[:, 0] - y[:, 1])[:, 0, 0] / contrast
        chroma = y - y.mean(1, keepdim=True)
        assert_close(chroma, ((contrast * saturation).view(-1, 1, 1, 1) * color).expand_as(chroma), atol=1e-5, rtol=0)
        assert saturation.min().item() == pytest.approx(0, abs=0.01)
        assert saturation.max().item() == pytest.approx(2, abs=0.01)
        assert saturation.mean().item() == pytest.approx(1, abs=3 * 0.5774 / 4000**0.5)
        assert torch.corrcoef(torch.stack([saturation, contrast]))[0, 1].abs() < 3 / 4000**0.5  # drawn independently


class TestProbability:
    def test_at_zero_nothing_happens(self) -> None:
        x = torch.randn(16, 3, 8, 8)
        assert torch.equal(DiffAugment(probability=0.0)(x), x)

    def test_it_is_that_of_an_image_being_augmented_at_all(self) -> None:
        torch.manual_seed(0)
        x = torch.randn(1, 1, 4, 4).repeat(4000, 1, 1, 1)
        changed = (DiffAugment(probability=0.3)(x) != x).any((1, 2, 3))
        assert changed.float().mean().item() == pytest.approx(0.3, abs=3 * (0.3 * 0.7 / 4000) ** 0.5)

    def test_it_follows_a_schedule_and_travels_with_the_state(self) -> None:
        augment = DiffAugment(probability=Linear(0.0, 1.0, images=100))
        assert augment.p.item() == 0
        augment.update(torch.zeros(4), 25)
        assert augment.p.item() == 0.25
        other = DiffAugment(probability=Linear(0.0, 1.0, images=100))
        other.load_state_dict(augment.state_dict())
        assert other.p.item() == 0.25


class TestDiffAugment:
    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_equal_images_come_out_different(self, channels: int) -> None:
        torch.manual_seed(0)
        y = DiffAugment()(torch.randn(1, channels, 8, 12).repeat(2, 1, 1, 1))
        assert y.shape == (2, channels, 8, 12)
        assert not torch.equal(y[0], y[1])

    def test_the_seed_decides(self) -> None:
        x, augment = torch.randn(4, 3, 8, 8), DiffAugment()
        torch.manual_seed(5)
        first = augment(x)
        torch.manual_seed(5)
        assert torch.equal(copy.deepcopy(augment)(x), first)

    def test_it_is_differentiable_twice(self) -> None:
        torch.manual_seed(0)
        x = torch.randn(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)

        def augmented(x: Tensor) -> Tensor:
            torch.manual_seed(2)
            return torch.as_tensor(DiffAugment(translation=0.4)(x)).square()

        assert gradcheck(augmented, x)
        assert gradgradcheck(augmented, x)

    def test_it_keeps_the_type_of_the_images(self) -> None:
        assert DiffAugment()(torch.randn(2, 3, 8, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16

    @pytest.mark.parametrize("name", ["translation", "cutout", "probability"])
    @pytest.mark.parametrize("value", [-0.1, 1.1])
    def test_what_is_no_share_is_refused(self, name: str, value: float) -> None:
        with pytest.raises(ValueError, match=f"DiffAugment's {name} must lie between 0 and 1, not at {value}"):
            only(**{name: value})
