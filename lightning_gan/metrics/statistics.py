"""What is kept of the features of many images: sums and a random part, whose size does not depend on how many there are.

They are torchmetrics' metrics, so that resetting, moving to a device and adding up over processes are the library's. Every
state is a sum of what single images contribute, so that any number of processes, with any share of the images or none, gives
the same.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributed import all_reduce
from torchmetrics import Metric

from lightning_gan.metrics.distances import score_sums


def total_over_processes(x: Tensor, group: Any = None) -> list[Tensor]:
    """Add a state up over the processes, in the form torchmetrics asks for; its own way gathers one copy for each process."""
    total = x.clone()
    all_reduce(total, group=group)
    return [total]


class Moments(Metric):
    """Number, mean and covariance of features, accumulated in float64.

    The sums are about a shift near the mean, because sums about zero lose the covariance of features that are far from it.

    Args:
        shift: (D,), the same in all processes.
        **options: as for every `torchmetrics.Metric`.
    """

    shift: Tensor
    count: Tensor
    total: Tensor
    products: Tensor

    def __init__(self, shift: Tensor, **options: Any) -> None:
        super().__init__(dist_sync_fn=total_over_processes, **options)
        self.register_buffer("shift", shift.double(), persistent=False)
        d = len(shift)
        self.add_state("count", self.shift.new_zeros(()), dist_reduce_fx="sum")
        self.add_state("total", self.shift.new_zeros(d), dist_reduce_fx="sum")
        self.add_state("products", self.shift.new_zeros(d, d), dist_reduce_fx="sum")

    def update(self, features: Tensor) -> None:
        """Add features (N, D)."""
        centred = features.double() - self.shift
        self.count += len(centred)
        self.total += centred.sum(0)
        self.products.addmm_(centred.T, centred)

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the number of images (), their mean (D,) and their covariance (D, D), which is nan for fewer than two."""
        offset = self.total / self.count
        covariance = (self.products - torch.outer(self.total, offset)) / (self.count - 1)
        return self.count, self.shift + offset, covariance


class Bank(Metric):
    """The features of some images, each in the row that is its own.

    Args:
        rows: how many are kept.
        width: D.
        **options: as for every `torchmetrics.Metric`.
    """

    features: Tensor

    def __init__(self, rows: int, width: int, **options: Any) -> None:
        super().__init__(dist_sync_fn=total_over_processes, **options)
        self.rows = rows
        self.add_state("features", torch.zeros(rows, width), dist_reduce_fx="sum")

    def update(self, features: Tensor, position: Tensor) -> None:
        """Keep of features (N, D) those whose position, int64 (N,), is one of the rows."""
        kept = position < self.rows
        self.features[position[kept]] = features[kept]

    def compute(self) -> Tensor:
        return self.features


class LogitSums(Metric):
    """What the inception score and the histogram of labels need of a classifier's logits.

    Args:
        num_classes: K.
        splits: S, parts that the images are divided into, for the spread of the score.
        **options: as for every `torchmetrics.Metric`.
    """

    count: Tensor
    probabilities: Tensor
    plogp: Tensor
    labels: Tensor

    def __init__(self, num_classes: int, splits: int = 10, **options: Any) -> None:
        super().__init__(dist_sync_fn=total_over_processes, **options)
        self.splits = splits
        self.num_classes = num_classes
        self.add_state("count", torch.zeros(splits, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("probabilities", torch.zeros(splits, num_classes, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("plogp", torch.zeros(splits, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("labels", torch.zeros(num_classes, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, position: Tensor) -> None:
        """Add logits (N, K) of images at these positions, int64 (N,), of a random order."""
        sums = score_sums(logits, position % self.splits, self.splits)
        for state, more in zip((self.count, self.probabilities, self.plogp), sums, strict=True):
            state += more
        self.labels += torch.bincount(logits.argmax(1), minlength=self.num_classes)

    def compute(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return, for each split, the number of images (S,), summed probabilities (S, K) and p log p (S,); and labels (K,)."""
        return self.count, self.probabilities, self.plogp, self.labels
