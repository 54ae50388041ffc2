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


COPY_HELD_OUT = 50
"""Fewer held-out images say too little of how near to a training image is suspicious."""


class Suite:
    """Compares generated images with a data set.

    Every process holds one; each looks at its share of the images, and all get the same scores.

    Args:
        extractor: prepared for the data set.
        real: the data set.
        device: where to work; on the CPU in place of an "mps" device, which has no float64.

    Attributes:
        record: how the scores are made, in JSON values.
        measured: the names of the scores that this extractor and these data allow.

    Raises:
        UserError: the processes' extractors differ.
    """

    def __init__(self, extractor: Extractor, real: RealImages, device: torch.device | str = "cpu") -> None:
        self.extractor = extractor.to("cpu" if torch.device(device).type == "mps" else device)
        digest = extractor.digest
        _check_same(digest)
        self.reference = Reference.of(real, extractor)
        self.record = {
            "extractor": {"name": extractor.name, "digest": digest, **extractor.settings},
            "real": {"fingerprint": real.fingerprint, "train": len(real.train), "held_out": len(real.held_out)},
            "bank": BANK_ROWS,
            "neighbours": NEIGHBOURS,
            "copies": {"generated": COPY_QUERIES, "train": len(self.reference.features)},
            "device": extractor.device.type,
        }
        self.measured = measurable(extractor, real)
        self._floors: dict[int, dict[str, float]] = {}

    def score(self, samples: Iterable[tuple[int, Tensor]], num: int) -> dict[str, float]:
        """Score `num` generated images.

        Args:
            samples: this process' share, in any order: (number of the first, uint8 (n, C, H, W)). The shares together have each
                number from 0 to num - 1 once.
            num: how many there are in all shares.

        Returns:
            The scores in `measured`, and their errors, by their names in `names.py`. What cannot be told, such as recall from
            five images, is nan.
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
        return self._agreed(moments, bank, sums, num, copies=True)

    def floor_images(self, num: int) -> int:
        """Say how many held-out images stand beside `num` generated ones: as many, or all that are kept."""
        return min(num, len(self.reference.held_out))

    def floor(self, num: int) -> dict[str, float]:
        """Score `floor_images(num)` held-out real images: what a perfect generator of so many images would reach.

        The Fréchet distance falls with the number of images. Where they are fewer than `num`, theirs is scaled by how much that
        of training images, drawn with replacement, falls from as many to `num`.

        Returns:
            As `score`, but for copies, of which nothing is known without a third set; nothing if there are too few.
        """
        features, logits = self.reference.held_out[:num], self.reference.held_out_logits[:num]
        if len(features) < 2:
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
            floor = self._agreed(moments, bank, sums, len(features), copies=False)
            if len(features) < num:
                few, many = processes.from_first(lambda: (self._bias(len(features)), self._bias(num)), features.device)
                fall = many / few if few > 0 else 1.0  # images that are all the same are as far however many they are
                floor |= {name: fall * floor[name] for name in ("fid", "fid_se")}
            self._floors[num] = floor
        return self._floors[num]

    def _bias(self, num: int) -> float:
        """Find the Fréchet distance that `num` images have for being no more, however good they are."""
        r, biases = self.reference, []
        for draw in range(BIAS_DRAWS):
            rows = torch.randint(len(r.features), (num,), generator=generator("bias", draw, num)).to(r.features.device)
            moments = Moments(r.mean, sync_on_compute=False)
            for part in rows.split(BANK_ROWS):
                moments.update(r.features[part])
            _, mean, covariance = moments.compute()
            biases.append(distances.frechet_distance(r.mean, r.covariance, r.root, mean, covariance))
        return sum(biases) / BIAS_DRAWS

    def reachable_coverage(self, num: int) -> float:
        """Say what coverage to expect of `num` perfect images: each is in any one of B real images' balls with chance k / B."""
        return 1 - (1 - min(1, NEIGHBOURS / len(self.reference.bank))) ** num

    def _agreed(self, moments: Moments, bank: Bank, sums: LogitSums | None, num: int, copies: bool) -> dict[str, float]:
        """Add up over the processes and let the first one compare, so that all act on the same numbers."""
        statistics, features = moments.compute(), bank.compute()
        logits = None if sums is None else sums.compute()
        if statistics[0] != num:
            raise ValueError(f"there were to be {num} images, and there were {int(statistics[0])}")
        return processes.from_first(
            lambda: self._compare(statistics, features, logits) | (self._copies(features) if copies else {}),
            self.extractor.device,
        )

    @torch.no_grad()
    def _compare(
        self,
        moments: tuple[Tensor, Tensor, Tensor],
        bank: Tensor,
        sums: tuple[Tensor, Tensor, Tensor, Tensor] | None,
    ) -> dict[str, float]:
        r, k = self.reference, NEIGHBOURS
        num, mean, covariance = int(moments[0]), *moments[1:]
        if 1 < num == len(bank):  # in one order, so that not even rounding depends on processes; the least eigenvalues show it
            mean, covariance = bank.double().mean(0), torch.cov(bank.double().T)
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
            if sums is not None:
                *score_sums, labels = sums
                scores["score"], scores["score_std"] = distances.inception_score(*score_sums)
            if sums is not None and "modes" in self.measured:
                scores["label_kl"] = distances.label_divergence(labels, r.labels)
                scores["modes"] = distances.covered_modes(labels, r.labels)
        return scores

    @torch.no_grad()
    def _copies(self, bank: Tensor) -> dict[str, float]:
        if "copy_rate" not in self.measured:
            return {}
        r = self.reference
        with exact():
            to_train = manifold.nearest_distances(bank[:COPY_QUERIES], r.features)
        return {
            "copy_rate": manifold.copy_rate(to_train, manifold.copy_threshold(r.held_out_nearest)),
            "nn_ratio": manifold.nn_ratio(to_train, r.held_out_nearest),
        }


def measurable(extractor: Extractor, real: RealImages) -> set[str]:
    """Name the scores that an extractor, prepared for a data set, can give."""
    names = {"fid", "kid", "precision", "recall", "density", "coverage", "duplicates"}
    if len(real.held_out) >= COPY_HELD_OUT:
        names |= {"copy_rate", "nn_ratio"}
    _, logits = extract(extractor, real.train[:2])
    if logits is not None:
        names.add("score")
        if extractor.classifies:
            names |= {"label_kl", "modes"}
    return names


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
