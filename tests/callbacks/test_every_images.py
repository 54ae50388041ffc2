from collections.abc import Callable
from typing import Any

import pytest
from pytorch_lightning import Trainer

from lightning_gan.callbacks.every_images import EveryImages
from lightning_gan.data import DataModule
from lightning_gan.gan import GAN


class Note(EveryImages):
    def __init__(self, every_images: int) -> None:
        super().__init__(every_images)
        self.acted_at: list[int] = []

    def act(self, trainer: Trainer, gan: GAN) -> None:
        self.acted_at.append(gan.images_seen)


@pytest.mark.parametrize(
    ("every_images", "acted_at"),
    [
        (100, [128, 224, 320]),  # batches of 32 end at 96, 128, ..., so 100, 200 and 300 are passed by these three
        (64, [64, 128, 192, 256, 320]),  # the last is the end, too: it is not visited twice
        (10, [32, 64, 96, 128, 160, 192, 224, 256, 288, 320]),
        (0, [320]),
        (10_000, [320]),
    ],
)
def test_it_acts_when_a_multiple_is_passed_and_at_the_end(
    make_gan: Callable[..., GAN],
    make_trainer: Callable[..., Trainer],
    digits: DataModule,
    every_images: int,
    acted_at: list[int],
) -> None:
    note = Note(every_images)
    make_trainer(max_steps=10, callbacks=[note], enable_checkpointing=False).fit(make_gan(), digits)
    assert note.acted_at == acted_at


def test_it_does_not_act_in_a_dry_run(
    make_gan: Callable[..., GAN], make_trainer: Callable[..., Any], digits: DataModule
) -> None:
    note = Note(1)
    make_trainer(fast_dev_run=True, callbacks=[note], enable_checkpointing=False).fit(make_gan(), digits)
    assert note.acted_at == []


def test_a_negative_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 images"):
        Note(-1)
