"""Scalars as functions of the images that D has seen."""

import math
from abc import ABC, abstractmethod

from torch import nn


class Schedule(ABC):
    """What a weight, a learning rate or a half-life is after so many images: a value before, another after, a way between.

    Args:
        start: value up to `after` images.
        end: value from `after + images` on.
        images: length of the way from one to the other, 0 for a step; None for the rest of the run.
        after: images before it begins.
    """

    def __init__(self, start: float, end: float, images: int | None = None, after: int = 0) -> None:
        if (images or 0) < 0 or after < 0:
            raise ValueError(f"a schedule's images and after must not be negative, and are {images} and {after}")
        self.start = start
        self.end = end
        self.images = images
        self.after = after

    def __call__(self, images_seen: int) -> float:
        if images_seen < self.after or (images_seen == self.after and self.images != 0):
            return self.start
        if self.images is None:
            raise ValueError("a schedule needs to know how many `images` it takes")
        share = min((images_seen - self.after) / self.images, 1.0) if self.images else 1.0
        return self.start + (self.end - self.start) * self.way(share)

    @abstractmethod
    def way(self, share: float) -> float:
        """Say how much of the difference is covered, 0 to 1, when this share of the images has been seen, 0 to 1."""

    def stretch(self, max_images: int) -> None:
        """Take the rest of a run of so many images, unless told how long to take."""
        if self.images is None:
            self.images = max(0, max_images - self.after)


class Linear(Schedule):
    """A straight line."""

    def way(self, share: float) -> float:
        return share


class Cosine(Schedule):
    """Half a cosine wave, as in R3GAN, Huang et al. 2024."""

    def way(self, share: float) -> float:
        return (1 - math.cos(math.pi * share)) / 2


def at(value: float | Schedule, images_seen: int) -> float:
    """Tell the present value of what may be a number or a schedule."""
    return value(images_seen) if isinstance(value, Schedule) else value


def extremes(value: float | Schedule) -> tuple[float, float]:
    """Tell the least and the greatest value of what may be a number or a schedule."""
    ends = (value.start, value.end) if isinstance(value, Schedule) else (value, value)
    return min(ends), max(ends)


def stretch(module: nn.Module, max_images: int) -> None:
    """Let every schedule in a module that does not say how long it takes take the rest of a run of so many images."""
    for part in module.modules():
        for value in vars(part).values():
            for schedule in value.values() if isinstance(value, dict) else [value]:
                if isinstance(schedule, Schedule):
                    schedule.stretch(max_images)
