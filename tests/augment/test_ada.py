import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from lightning_gan.augment import ADA
from lightning_gan.networks.base import call_frozen
from lightning_gan.schedules import Linear

N = 4000


def only(probability: float = 1.0, **factors: float) -> ADA:
    """Make one with nothing but what is named."""
    none = {"flip": 0.0, "rotate90": 0.0, "translate": 0.0, "geometric": 0.0, "color": 0.0}
    return ADA(**(none | factors), probability=probability)  # type: ignore[arg-type]  # mypy takes any key for any argument


def copies(n: int, *shape: int) -> Tensor:
    return torch.randn(1, *shape).repeat(n, 1, 1, 1)


def shares(y: Tensor, candidates: list[Tensor]) -> Tensor:
    """Say what share of images is each of the candidates; each image has to be one of them."""
    same = torch.stack([torch.isclose(y, candidate, atol=1e-5).all((1, 2, 3)) for candidate in candidates])
    assert (same.sum(0) == 1).all()
    return same.float().mean(1)


class TestOneTransformation:
    def test_flip_mirrors_half_of_the_images(self) -> None:
        torch.manual_seed(0)
        x = copies(N, 3, 4, 6)
        assert_close(shares(only(flip=1)(x), [x[:1], x[:1].flip(3)]), torch.tensor([0.5, 0.5]), atol=0.03, rtol=0)

    def test_flip_mirrors_a_quarter_of_the_images_at_half_the_probability(self) -> None:
        torch.manual_seed(0)
        x = copies(N, 1, 4, 4)
        expected = torch.tensor([0.75, 0.25])
        for ada in (only(0.5, flip=1), only(1.0, flip=0.5)):  # the factor multiplies p
            assert_close(shares(ada(x), [x[:1], x[:1].flip(3)]), expected, atol=0.03, rtol=0)

    def test_rotate90_turns_to_each_side_alike(self) -> None:
        torch.manual_seed(0)
        x = copies(N, 2, 4, 4)
        turned = [x[:1].rot90(k, (2, 3)) for k in range(4)]
        assert_close(shares(only(rotate90=1)(x), turned), torch.full((4,), 0.25), atol=0.03, rtol=0)
        expected = torch.tensor([0.625, 0.125, 0.125, 0.125])  # half left alone, an eighth for each of the four turns
        assert_close(shares(only(0.5, rotate90=1)(x), turned), expected, atol=0.03, rtol=0)

    def test_translate_moves_whole_pixels_and_mirrors_what_moves_in(self) -> None:
        torch.manual_seed(0)
        x = copies(N, 1, 8, 16)
        tall = torch.cat([x[:1].flip(2), x[:1], x[:1].flip(2)], 2)
        wide = torch.cat([tall.flip(3), tall, tall.flip(3)], 3)
        moves = [(dy, dx) for dy in (-1, 0, 1) for dx in (-2, -1, 0, 1, 2)]
        moved = [wide[:, :, 8 - dy : 16 - dy, 16 - dx : 32 - dx] for dy, dx in moves]
        # U(-1, 1) rounds to -1, 0, 1 with probability 1/4, 1/2, 1/4; U(-2, 2) to -2 ... 2 with 1/8, 1/4, 1/4, 1/4, 1/8.
        expected = torch.outer(torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.125, 0.25, 0.25, 0.25, 0.125])).flatten()
        assert_close(shares(only(translate=1)(x), moved), expected, atol=0.03, rtol=0)

    def test_cutout_blanks_half_the_height_and_width(self) -> None:
        torch.manual_seed(0)
        holes = (only(0.5, cutout=1)(torch.ones(N, 3, 8, 8)) == 0).sum((2, 3))
        assert (holes == holes[:, :1]).all()
        assert holes.max() == 16
        assert (holes[:, 0] > 0).float().mean().item() == pytest.approx(0.5, abs=0.03)


class TestForward:
    @pytest.mark.parametrize("shape", [(1, 8, 8), (2, 7, 10), (3, 16, 16), (4, 5, 5)])
    def test_at_zero_nothing_happens(self, shape: tuple[int, int, int]) -> None:
        x = torch.randn(16, *shape)
        assert_close(ADA(cutout=1)(x), x, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_equal_images_come_out_different(self, channels: int) -> None:
        torch.manual_seed(0)
        y = ADA(probability=1.0)(copies(2, channels, 8, 12))
        assert y.shape == (2, channels, 8, 12)
        assert y.isfinite().all()
        assert not torch.isclose(y[0], y[1]).all()

    def test_what_is_drawn_does_not_depend_on_the_probability(self) -> None:
        states = []
        for probability in (0.0, 0.5, 1.0):
            torch.manual_seed(0)
            ADA(probability=probability)(torch.zeros(3, 3, 4, 4))
            states.append(torch.get_rng_state())
        assert torch.equal(states[0], states[1])
        assert torch.equal(states[0], states[2])

    def test_it_is_differentiable_twice(self) -> None:
        torch.manual_seed(0)
        x = torch.randn(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
        ada = ADA(probability=1.0, cutout=0.5)

        def augmented(x: Tensor) -> Tensor:
            torch.manual_seed(2)
            return call_frozen(ada, x).square()

        assert gradcheck(augmented, x)
        assert gradgradcheck(augmented, x)

    def test_under_autocast_pixels_keep_their_places(self) -> None:
        # A matrix product of coordinates would be rounded to 8 bits there.
        ada, x = ADA(probability=1.0), copies(8, 3, 32, 32)
        torch.manual_seed(0)
        expected = ada(x)
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            y = ada(x)
        assert_close(y, expected)

    def test_it_keeps_the_type_of_the_images(self) -> None:
        torch.manual_seed(0)
        x = torch.randn(4, 3, 8, 8)
        y = ADA(probability=0.0)(x.bfloat16())
        assert torch.equal(y, x.bfloat16())


class TestAdaptiveProbability:
    @staticmethod
    def course(ada: ADA, signs: list[float], batch: int = 100, seen: int = 0) -> list[float]:
        """Feed constant logits, one for each step, and note p after each."""
        course = []
        for i, sign in enumerate(signs):
            ada.update(torch.full((10,), 3.0 * sign), seen + batch * (i + 1))
            course.append(ada.p.item())
        return course

    def test_confident_logits_raise_it_by_images_over_speed_every_few_steps(self) -> None:
        expected = [0, 0, 0, 0.4, 0.4, 0.4, 0.4, 0.8, 0.8, 0.8, 0.8, 1, 1]  # 400 images of 1000, and never above 1
        assert self.course(ADA(speed=1000), [1.0] * 13) == pytest.approx(expected)

    def test_doubtful_logits_lower_it_and_not_below_zero(self) -> None:
        ada = ADA(speed=1000, every=2)
        assert self.course(ada, [1.0] * 4) == pytest.approx([0, 0.2, 0.2, 0.4])
        assert self.course(ada, [-1.0] * 6, seen=400) == pytest.approx([0.4, 0.2, 0.2, 0, 0, 0], abs=1e-6)

    def test_the_mean_sign_over_the_steps_is_held_against_the_target(self) -> None:
        # Of the logits of two steps 8 of 10 are positive and then 9 of 10: mean signs 0.6 and 0.8, together 0.7.
        for target, expected in ((0.65, 0.1), (0.75, 0.0)):
            ada = ADA(speed=1000, every=2, target=target)
            ada.update(torch.tensor([0.1] * 8 + [-100.0] * 2), 50)
            ada.update(torch.tensor([0.1] * 9 + [-100.0]), 100)
            assert ada.p.item() == pytest.approx(expected)
        ada = ADA(speed=1000, every=1, target=0.5)
        ada.update(torch.tensor([1.0, 1.0, 1.0, -1.0]), 100)  # right on the target
        assert ada.p.item() == 0

    def test_only_the_steps_since_the_last_move_count(self) -> None:
        assert self.course(ADA(speed=1000, every=1), [1.0, 1.0, 1.0, -1.0]) == pytest.approx([0.1, 0.2, 0.3, 0.2])

    def test_the_images_of_batches_of_any_size_count(self) -> None:
        ada = ADA(speed=1000, every=2)
        for seen in (30, 100, 110, 150):
            ada.update(torch.ones(4), seen)
        assert ada.p.item() == pytest.approx(0.15)

    def test_saved_and_loaded_it_goes_on_as_if_never_stopped(self) -> None:
        signs = [1.0, 1, 1, -1, 1, 1, 1, 1, -1, 1, -1, 1]
        whole = self.course(ADA(speed=2000, every=3), signs)
        stopped = ADA(speed=2000, every=3)
        first = self.course(stopped, signs[:5])
        file = io.BytesIO()
        torch.save(stopped.state_dict(), file)
        file.seek(0)
        resumed = ADA(speed=2000, every=3)
        resumed.load_state_dict(torch.load(file, weights_only=True))
        assert first + self.course(copy.deepcopy(resumed), signs[5:], seen=500) == whole

    def test_the_logits_of_all_processes_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # This process' logits are all positive, and those of another all negative.
        monkeypatch.setattr("lightning_gan.augment.ada.mean_over_processes", lambda mean: (mean + -1) / 2)
        assert self.course(ADA(speed=1000, every=1, target=0.1), [1.0]) == [0]
        assert self.course(ADA(speed=1000, every=1, target=-0.1), [1.0]) == pytest.approx([0.1])

    def test_it_needs_no_gradient_and_takes_none(self) -> None:
        ada = ADA(every=1, speed=10)
        ada.update(torch.ones(4, dtype=torch.bfloat16, requires_grad=True), 1)
        assert not ada.p.requires_grad
        assert ada.p.dtype == torch.float32


class TestFixedProbability:
    def test_a_number_stays(self) -> None:
        ada = ADA(probability=0.3)
        ada.update(torch.ones(4), 10**6)
        assert ada.p.item() == pytest.approx(0.3)

    def test_a_schedule_is_followed_from_the_start(self) -> None:
        ada = ADA(probability=Linear(0.25, 0.75, images=100))
        assert ada.p.item() == 0.25
        ada.update(torch.ones(4), 50)
        assert ada.p.item() == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flip": -1.0}, "ADA's flip must not be negative, and is -1.0"),
        ({"cutout": -0.5}, "ADA's cutout must not be negative, and is -0.5"),
        ({"probability": 1.5}, "ADA's probability must lie between 0 and 1, not at 1.5"),
        ({"target": 1.0}, "ADA's target must lie between -1 and 1, as mean signs do, not at 1.0"),
        ({"speed": 0}, "ADA's speed and every must be at least 1, and are 0 and 4"),
        ({"every": 0}, "ADA's speed and every must be at least 1, and are 500000 and 0"),
    ],
)
def test_what_it_cannot_do_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ADA(**arguments)
