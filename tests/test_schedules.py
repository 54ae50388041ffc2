import pytest

from lightning_gan.schedules import Cosine, Linear, Schedule, at, extremes


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Linear(2.0, 4.0, images=100), {0: 2.0, 25: 2.5, 50: 3.0, 100: 4.0, 1000: 4.0}),
        (Linear(2.0, 0.0, images=100, after=50), {0: 2.0, 50: 2.0, 100: 1.0, 150: 0.0}),
        (Linear(0.0, 0.3, images=0, after=64), {0: 0.0, 63: 0.0, 64: 0.3, 65: 0.3}),  # a step
        # cos(60 degrees) = 1/2, so that a third of the way a quarter of the difference is covered.
        (Cosine(2.0, 1.0, images=300), {0: 2.0, 100: 1.75, 150: 1.5, 200: 1.25, 300: 1.0, 900: 1.0}),
        (Cosine(0.0, 8.0, images=300, after=30), {0: 0.0, 30: 0.0, 130: 2.0, 330: 8.0}),
    ],
)
def test_values_by_hand(schedule: Schedule, values: dict[int, float]) -> None:
    assert {images: schedule(images) for images in values} == pytest.approx(values)


def test_a_number_is_its_own_schedule() -> None:
    assert at(0.5, 10**9) == 0.5
    assert at(Linear(1.0, 0.0, images=4), 3) == 0.25


def test_without_a_length_it_takes_the_rest_of_the_run() -> None:
    open_ended = Linear(2.0, 4.0, after=50)
    assert open_ended(50) == 2.0
    with pytest.raises(ValueError, match="images"):
        open_ended(51)
    open_ended.stretch(250)
    assert {images: open_ended(images) for images in (50, 150, 250)} == {50: 2.0, 150: 3.0, 250: 4.0}


def test_a_length_that_was_given_stays() -> None:
    schedule = Linear(2.0, 4.0, images=100)
    schedule.stretch(1000)
    assert schedule(100) == 4.0


def test_what_begins_after_the_run_never_does() -> None:
    late = Linear(2.0, 4.0, after=500)
    late.stretch(250)
    assert late(250) == 2.0


def test_extremes() -> None:
    assert extremes(0.5) == (0.5, 0.5)
    assert extremes(Linear(2.0, -1.0)) == (-1.0, 2.0)


def test_a_negative_span_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        Linear(0.0, 1.0, images=-1)
