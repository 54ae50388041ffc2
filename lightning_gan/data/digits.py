"""The handwritten digits that come with scikit-learn: what a first run trains on, without a network."""

from functools import cached_property
from typing import Any

import numpy as np

from lightning_gan.data.base import DataModule, hold_out
from lightning_gan.data.cache import Source
from lightning_gan.data.decode import Preprocessing, Resample
from lightning_gan.data.pictures import Arrays


class Digits(DataModule):
    """scikit-learn's 1797 handwritten digits of 8x8 pixels, enlarged.

    Args:
        image_size: Height and width they are enlarged to.
        resample: How they are enlarged.
        held_out: Share of the images that is kept from training, for evaluation.
        conditional: Whether the networks are told which digit each image is.
        **options: As for every data set.
    """

    def __init__(
        self,
        image_size: int = 16,
        resample: Resample = "bicubic",
        held_out: float = 0.05,
        conditional: bool = True,
        **options: Any,
    ) -> None:
        preprocessing = Preprocessing(image_size, channels=1, resample=resample)
        super().__init__("Digits", preprocessing, conditional=conditional, **options)
        self.held_out = held_out

    @cached_property
    def class_names(self) -> list[str]:
        return [str(digit) for digit in range(10)]

    def source(self) -> Source:
        from sklearn.datasets import load_digits  # a second's import that other data sets need not wait for

        digits = load_digits()
        images = (digits.images * (255 / 16)).round().astype(np.uint8)  # (1797, 8, 8), from 0..16
        held_out = hold_out([image.tobytes() for image in images], self.held_out)
        return Source(self.name, Arrays(images), held_out, digits.target.tolist(), self.class_names)
