"""Scalars as functions of the images that D has seen."""

import math
from abc import ABC, abstractmethod


class Schedule(ABC):
    """What a weight, a learning rate or a half-life is after so many images."""

    @abstractmethod
    def __call__(self, images_seen: int) -> float: ...


class Linear(Schedule):
    """From `start` to `end` in a straight line, constant before and after.

    With `images` 0 it is a step.

    Args:
        start: value up to `after` images.
        end: value from `after + images` on.
        images: length of the way from one to the other; the command line fills in the whole run's `max_images`.
        after: images before it begins.
    """

    def __init__(self, start: float, end: float, images: int | None = None, after: int = 0) -> None:
        _check_span(images, after)
        self.start = start
        self.end = end
        self.images = images
        self.after = after

    def __call__(self, images_seen: int) -> float:
        return self.start + (self.end - self.start) * _share(images_seen, self.images, self.after)


class Cosine(Schedule):
    """From `start` to `end` along half a cosine wave, constant before and after; R3GAN's, Huang et al. 2024, Appendix.

    Args:
        start: value up to `after` images.
        end: value from `after + images` on.
        images: length of the way from one to the other; the command line fills in the whole run's `max_images`.
        after: images before it begins.
    """

    def __init__(self, start: float, end: float, images: int | None = None, after: int = 0) -> None:
        _check_span(images, after)
        self.start = start
        self.end = end
        self.images = images
        self.after = after

    def __call__(self, images_seen: int) -> float:
        share = _share(images_seen, self.images, self.after)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * share)) / 2


def at(value: float | Schedule, images_seen: int) -> float:
    """Tell the present value of what may be a number or a schedule."""
    return value(images_seen) if isinstance(value, Schedule) else value


def _share(images_seen: int, images: int | None, after: int) -> float:
    """Say how much of the way lies behind: 0 to 1."""
    if images is None:
        raise ValueError("a schedule needs to know how many `images` it takes")
    if images_seen < after:
        return 0.0
    return min((images_seen - after) / images, 1.0) if images else 1.0


def _check_span(images: int | None, after: int) -> None:
    if (images or 0) < 0 or after < 0:
        raise ValueError(f"a schedule's images and after must not be negative, and are {images} and {after}")
