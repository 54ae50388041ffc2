"""What scores need of the real images: computed once for a data set and an extractor, and kept on disk for all runs."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from lightning_gan.metrics.distances import kernel_sum, matrix_root
from lightning_gan.metrics.extractors import Extractor, exact, extract
from lightning_gan.metrics.manifold import nearest_distances, neighbour_radii
from lightning_gan.metrics.real import RealImages
from lightning_gan.metrics.statistics import Bank, Moments
from lightning_gan.metrics.store import stored
from lightning_gan.randomness import generator

BANK_ROWS = 10_000
"""Images of either side that scores of neighbourhoods and kernels are taken from; a random part of more."""

NEIGHBOURS = 5
"""The k of precision, recall, density and coverage; Naeem et al. 2020, Section 4.2."""

COPY_QUERIES = 2_000
"""Images that are looked up among the training images: to be seen among, so many tell a share of 1 % from one of 2 %."""

FEATURE_BYTES = 2**28
"""Training features of up to this many bytes are kept, to look copies up among them; of larger sets a random part."""

BATCH_SIZE = 128
"""Images that the extractor sees at a time; fixed, so that rounding is the same whatever else is chosen."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reference:
    """The real side of a comparison; features are those of an extractor, D of them, distances are squared.

    Attributes:
        mean: (D,) float64, of all training images.
        covariance: (D, D) float64.
        root: (D, D) float64, the covariance's symmetric square root.
        features: (T, D), of training images in random order, all of them if they are no more than `FEATURE_BYTES`.
        radii: (B,), from each of the first `BANK_ROWS` of them to its k-th nearest among them.
        kernel_sum: (), KID's kernel summed over all pairs of these.
        held_out: (H, D), of up to `BANK_ROWS` held-out images, in random order.
        held_out_nearest: (Q,), from up to `COPY_QUERIES` of these to the nearest in `features`.
        labels: (K,) float64, how many training images the extractor takes for each class; (0,) without logits.
        held_out_logits: (H, K), or (H, 0) without logits.
    """

    mean: Tensor
    covariance: Tensor
    root: Tensor
    features: Tensor
    radii: Tensor
    kernel_sum: Tensor
    held_out: Tensor
    held_out_nearest: Tensor
    labels: Tensor
    held_out_logits: Tensor

    @property
    def bank(self) -> Tensor:
        return self.features[:BANK_ROWS]

    @classmethod
    def of(cls, real: RealImages, extractor: Extractor) -> Self:
        """Read it from disk, or compute it; of any number of processes that ask at once, one computes.

        Args:
            real: the data set.
            extractor: prepared for it, on the device that the result is to be on.
        """
        spec = {
            "fingerprint": real.fingerprint,
            "extractor": extractor.digest,
            "bank": BANK_ROWS,
            "neighbours": NEIGHBOURS,
            "queries": COPY_QUERIES,
            "bytes": FEATURE_BYTES,
        }
        tensors, _ = stored(real.cache / "references", extractor.name, spec, lambda: (_compute(real, extractor), {}))
        return cls(**{name: tensor.to(extractor.device) for name, tensor in tensors.items()})


@torch.inference_mode()
def _compute(real: RealImages, extractor: Extractor) -> dict[str, Tensor]:
    logger.info("Looking at %d real images through %s, once.", len(real.train) + len(real.held_out), extractor.name)
    features, logits = extract(extractor, real.train[:BATCH_SIZE])
    width, num_classes = features.shape[1], 0 if logits is None else logits.shape[1]
    alone: dict[str, Any] = {"sync_on_compute": False}  # the other processes wait for the file

    moments = Moments(features.double().mean(0), **alone)
    bank = Bank(min(len(real.train), FEATURE_BYTES // features[0].nbytes), width, **alone).to(extractor.device)
    labels = torch.zeros(num_classes, dtype=torch.float64, device=extractor.device)
    for features, logits, place in _look(extractor, real.train):
        moments.update(features)
        bank.update(features, place)
        if logits is not None:
            labels += torch.bincount(logits.argmax(1), minlength=num_classes)

    rows = min(len(real.held_out), BANK_ROWS)
    held_out = Bank(rows, width, **alone).to(extractor.device)
    held_out_logits = Bank(rows, num_classes, **alone).to(extractor.device)
    for features, logits, place in _look(extractor, real.held_out):
        held_out.update(features, place)
        if logits is not None:
            held_out_logits.update(logits, place)

    _, mean, covariance = moments.compute()
    with exact():
        _, radii = neighbour_radii(bank.features[:BANK_ROWS], NEIGHBOURS)
        return {
            "mean": mean,
            "covariance": covariance,
            "root": matrix_root(covariance),
            "features": bank.features,
            "radii": radii,
            "kernel_sum": torch.tensor(kernel_sum(bank.features[:BANK_ROWS]), dtype=torch.float64),
            "labels": labels,
            "held_out": held_out.features,
            "held_out_nearest": nearest_distances(held_out.features[:COPY_QUERIES], bank.features),
            "held_out_logits": held_out_logits.features,
        }


def _look(extractor: Extractor, images: Tensor) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """Yield features, logits and places in a random order of all images."""
    places = random_order(len(images)).to(extractor.device)
    for start in range(0, len(images), BATCH_SIZE):
        features, logits = extract(extractor, images[start : start + BATCH_SIZE])
        yield features, logits, places[start : start + BATCH_SIZE]


def random_order(num: int) -> Tensor:
    """Give each of `num` images its place in a random order, int64 (num,): a part of it is fair, however they are sorted."""
    return torch.randperm(num, generator=generator("evaluation", num))
