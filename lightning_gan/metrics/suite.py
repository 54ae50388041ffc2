"""All scores of generated images, from one look of the extractor at each."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed import all_gather_object, get_world_size

from lightning_gan import processes
from lightning_gan.errors import UserError
from lightning_gan.metrics import distances, manifold
from lightning_gan.metrics.extractors import Extractor, exact, extract
from lightning_gan.metrics.real import RealImages
from lightning_gan.metrics.reference import BANK_ROWS, COPY_QUERIES, NEIGHBOURS, Reference, random_order
from lightning_gan.metrics.statistics import Bank, LogitSums, Moments
from lightning_gan.randomness import generator

BIAS_DRAWS = 5
"""Draws of training images of which the Fréchet distance's dependence on their number is the mean."""


class Suite:
    """Compares generated images with a data set.

    Every process holds one; each looks at its share of the images, and all get the same scores.

    Args:
        extractor: prepared for the data set, on the device to work on.
        real: the data set.

    Attributes:
        record: how the scores are made, in JSON values.
        measured: the names of the scores that this extractor and these data allow.

    Raises:
        UserError: the processes' extractors differ.
    """

    def __init__(self, extractor: Extractor, real: RealImages) -> None:
        self.extractor = extractor
        self.record = {
            "extractor": {"name": extractor.name, "digest": extractor.digest, **extractor.settings},
            "real": {"fingerprint": real.fingerprint, "train": len(real.train), "held_out": len(real.held_out)},
            "bank": BANK_ROWS,
            "neighbours": NEIGHBOURS,
            "copy_queries": COPY_QUERIES,
            "device": extractor.device.type,
        }
        _check_same(extractor.digest)
        self.reference = Reference.of(real, extractor)
        self._floors: dict[int, dict[str, float]] = {}
        self.measured = {"fid", "kid", "precision", "recall", "density", "coverage", "duplicates"}
        if len(self.reference.held_out):
            self.measured |= {"copy_rate", "nn_ratio"}
        if len(self.reference.labels):
            self.measured.add("score")
        if extractor.classifies:
            self.measured |= {"label_kl", "modes"}

    def score(self, samples: Iterable[tuple[int, Tensor]], num: int) -> dict[str, float]:
        """Score `num` generated images.

        Args:
            samples: this process' share, in any order: (number of the first, uint8 (n, C, H, W)). The shares together have each
                number from 0 to num - 1 once.
            num: how many there are in all shares.

        Returns:
            The scores by their names in `names.py`, without the extractor's. What cannot be told, such as coverage from five
            images, is nan; what needs held-out images or a classifier is left out where there are none.
        """
        reference, device = self.reference, self.extractor.device
        moments = Moments(reference.mean)
        bank = Bank(min(num, BANK_ROWS), len(reference.mean)).to(device)
        sums = LogitSums(len(reference.labels)).to(device) if len(reference.labels) else None
        places = random_order(num).to(device)
        for first, images in samples:
            features, logits = extract(self.extractor, images)
            place = places[first : first + len(images)]
            moments.update(features)
            bank.update(features, place)
            if sums is not None and logits is not None:
                sums.update(logits, place)
        return self._agreed(moments, bank, sums)

    def floor_images(self, num: int) -> int:
        """Say how many held-out images stand beside `num` generated ones: as many, or all that are kept."""
        return min(num, len(self.reference.held_out))

    def floor(self, num: int) -> dict[str, float]:
        """Score `floor_images(num)` held-out real images: what a perfect generator of so many images would reach.

        The Fréchet distance falls with the number of images. Where they are fewer than `num`, what is due to that is taken off:
        the difference in the distance of so many training images, drawn with replacement.

        Returns:
            As `score`; nothing if there are none.
        """
        features, logits = self.reference.held_out[:num], self.reference.held_out_logits[:num]
        if len(features) == 0:
            return {}
        if num not in self._floors:
            alone: dict[str, Any] = {"sync_on_compute": False}
            moments, bank = Moments(self.reference.mean, **alone), Bank(*features.shape, **alone).to(features.device)
            sums = LogitSums(logits.shape[1], **alone).to(features.device) if logits.shape[1] else None
            place = torch.arange(len(features), device=features.device)
            moments.update(features)
            bank.update(features, place)
            if sums is not None:
                sums.update(logits, place)
            floor = self._agreed(moments, bank, sums)
            if len(features) < num:
                floor["fid"] += processes.from_first(lambda: self._bias(num) - self._bias(len(features)), features.device)
            self._floors[num] = floor
        return self._floors[num]

    def _bias(self, num: int) -> float:
        """Find the Fréchet distance that `num` images have for being no more, however good they are."""
        r, biases = self.reference, []
        for draw in range(BIAS_DRAWS):
            rows = torch.randint(len(r.features), (num,), generator=generator("bias", draw, num)).to(r.features.device)
            moments = Moments(r.mean, sync_on_compute=False)
            for part in r.features[rows].split(10_000):
                moments.update(part)
            _, mean, covariance = moments.compute()
            biases.append(distances.frechet_distance(r.mean, r.covariance, r.root, mean, covariance))
        return sum(biases) / BIAS_DRAWS

    def _agreed(self, moments: Moments, bank: Bank, sums: LogitSums | None) -> dict[str, float]:
        """Add up over the processes and let the first one compare, so that all act on the same numbers."""
        statistics = moments.compute(), bank.compute(), None if sums is None else sums.compute()
        return processes.from_first(lambda: self._compare(*statistics), self.extractor.device)

    @torch.no_grad()
    def _compare(
        self,
        moments: tuple[Tensor, Tensor, Tensor],
        bank: Tensor,
        sums: tuple[Tensor, Tensor, Tensor, Tensor] | None,
    ) -> dict[str, float]:
        r, k = self.reference, NEIGHBOURS
        num, mean, covariance = int(moments[0]), *moments[1:]
        scores: dict[str, float] = {}
        with exact():
            scores["fid"] = scores["fid_se"] = math.nan
            if num > 1:  # one image has no covariance
                sides = r.mean, r.covariance, r.root, mean, covariance
                scores["fid"] = distances.frechet_distance(*sides)
                scores["fid_se"] = distances.frechet_standard_error(*sides, bank, num)
            scores["kid"], scores["kid_se"] = distances.kernel_distance(r.bank, bank, float(r.kernel_sum))
            nearest, radii = manifold.neighbour_radii(bank, k)
            scores |= manifold.precision_recall_density_coverage(r.bank, bank, r.radii, radii, k)
            scores["duplicates"] = manifold.duplicates(nearest, r.radii)
            if "copy_rate" in self.measured:
                to_train = manifold.nearest_distances(bank[:COPY_QUERIES], r.features)
                scores["copy_rate"] = manifold.copy_rate(to_train, manifold.copy_threshold(r.held_out_nearest))
                scores["nn_ratio"] = manifold.nn_ratio(to_train, r.held_out_nearest)
            if sums is not None:
                *score_sums, labels = sums
                scores["score"], scores["score_std"] = distances.inception_score(*score_sums)
            if sums is not None and self.extractor.classifies:
                scores["label_kl"] = distances.label_divergence(labels, r.labels)
                scores["modes"] = distances.covered_modes(labels, r.labels)
        return scores


def _check_same(digest: str) -> None:
    if not processes.several():
        return
    digests: list[str] = [""] * get_world_size()
    all_gather_object(digests, digest)
    if len(set(digests)) > 1:
        raise UserError(
            "The processes measure with different extractors, as happens when machines train a classifier each. Let "
            "LIGHTNING_GAN_CACHE name a folder that all of them share."
        )
