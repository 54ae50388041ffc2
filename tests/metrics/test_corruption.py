"""The scores of the embedded digits as they are made worse, step by step, in ways whose effect is known.

"Generated" images are digits that were kept from training, or training images where what is tested is how many of each there
are; two extractors look at them, of which one has never been trained.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image import FrechetInceptionDistance
from torchvision.transforms.functional import gaussian_blur

from lightning_gan.callbacks.evaluation import real_images
from lightning_gan.data import Digits
from lightning_gan.metrics.extractors import Classifier, Extractor, Random, choose, extract
from lightning_gan.metrics.real import RealImages
from lightning_gan.metrics.reference import BATCH_SIZE, random_order
from lightning_gan.metrics.suite import Suite
from lightning_gan.randomness import generator


@dataclass(frozen=True)
class Corpus:
    """A data set, and images of the same kind that neither it nor the extractor knows, uint8 (N, C, H, W)."""

    real: RealImages
    fresh: Tensor

    @property
    def train(self) -> Tensor:
        return self.real.train

    @property
    def labels(self) -> Tensor:
        assert self.real.train_labels is not None
        return self.real.train_labels


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    real = real_images(Digits(image_size=16, held_out=0.4))
    half = len(real.held_out) // 2
    assert real.held_out_labels is not None
    held_out, labels = real.held_out[:half], real.held_out_labels[:half]
    shown = replace(real, held_out=held_out, held_out_labels=labels, fingerprint=f"half of {real.fingerprint}")
    return Corpus(shown, real.held_out[half:])


@pytest.fixture(scope="module")
def suites(corpus: Corpus) -> dict[str, Suite]:
    extractors = [choose(extractor, corpus.real)[0] for extractor in (Classifier(images=20_000), Random())]
    return {extractor.name: Suite(extractor, corpus.real) for extractor in extractors}


@pytest.fixture(params=["classifier", "random"])
def suite(request: pytest.FixtureRequest, suites: dict[str, Suite]) -> Suite:
    return suites[request.param]


def scores_of(suite: Suite, images: Tensor) -> dict[str, float]:
    firsts = range(0, len(images), BATCH_SIZE)
    return suite.score(((first, images[first : first + BATCH_SIZE]) for first in firsts), len(images))


class Family:
    """The scores of images that get worse from one to the next."""

    def __init__(self, suite: Suite, steps: Sequence[Tensor]) -> None:
        self.scores = [scores_of(suite, images) for images in steps]

    def __getitem__(self, name: str) -> list[float]:
        return [scores[name] for scores in self.scores]

    def rises(self, *names: str) -> None:
        for name in names:
            assert all(before < after for before, after in pairwise(self[name])), (name, self[name])

    def falls(self, *names: str) -> None:
        """Check that these fall from each step to the next, until there is nothing left of them."""
        for name in names:
            assert all(before > after or before == after == 0 for before, after in pairwise(self[name])), (name, self[name])
            assert self[name][-1] < 0.5 * self[name][0], (name, self[name])


def rounded(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).to(torch.uint8)


def noisy(images: Tensor, deviation: float) -> Tensor:
    """Add noise, in levels of 255."""
    return rounded(images + deviation * torch.randn(images.shape, generator=generator("noise")))


def blurred(images: Tensor, width: float) -> Tensor:
    return rounded(gaussian_blur(images.float(), [13, 13], [width, width])) if width else images


def share(labels: Tensor) -> list[float]:
    return [count / len(labels) for count in labels.bincount(minlength=10).tolist()]


def divergence(generated: Tensor, real: Tensor) -> float:
    """Work label_kl out from labels that are known."""
    return sum(p * math.log(p / q) for p, q in zip(share(generated), share(real), strict=True) if p)


def modes(generated: Tensor, real: Tensor) -> int:
    return sum(p > q / 10 for p, q in zip(share(generated), share(real), strict=True))


class TestCorruption:
    def test_fresh_images_are_at_the_floor(self, suite: Suite, corpus: Corpus) -> None:
        scores, floor = scores_of(suite, corpus.fresh), suite.floor(len(corpus.fresh))
        assert scores["fid"] == pytest.approx(floor["fid"], rel=0.3)
        assert abs(scores["kid"]) < 4 * scores["kid_se"]
        for name in ("precision", "recall", "coverage"):
            assert scores[name] == pytest.approx(floor[name], abs=0.1), name

    def test_noise(self, suite: Suite, corpus: Corpus) -> None:
        family = Family(suite, [noisy(corpus.fresh, deviation) for deviation in (0, 10, 20, 40, 80)])
        family.rises("fid", "kid", "nn_ratio")
        family.falls("coverage", "density", "precision")

    def test_blur(self, suite: Suite, corpus: Corpus) -> None:
        family = Family(suite, [blurred(corpus.fresh, width) for width in (0, 0.5, 0.8, 1.2, 2)])
        family.rises("fid", "kid", "nn_ratio")
        family.falls("coverage", "recall")

    def test_recall_does_not_see_mild_noise(self, suite: Suite, corpus: Corpus) -> None:
        """Noise drives generated images apart, and the balls in which real ones are looked for grow with that."""
        clean, mild, strong = (scores_of(suite, noisy(corpus.fresh, deviation)) for deviation in (0, 20, 80))
        assert mild["recall"] == pytest.approx(clean["recall"], abs=0.03)
        assert mild["coverage"] < 0.75 * clean["coverage"]
        assert strong["recall"] < 0.1

    def test_dropped_classes(self, suite: Suite, corpus: Corpus) -> None:
        x, y = corpus.train, corpus.labels
        family = Family(suite, [x[y >= dropped] for dropped in (0, 1, 3, 5, 9)])
        family.rises("fid", "kid")
        family.falls("recall", "coverage")
        assert family["precision"] == [1] * 5  # what there is is real
        assert family["copy_rate"] == [1] * 5

    @pytest.mark.parametrize("dropped", [1, 3, 5, 9])
    def test_dropped_classes_are_worse_than_as_few_images_of_all(self, dropped: int, suite: Suite, corpus: Corpus) -> None:
        """The Fréchet distance and coverage get worse with fewer images, too, if not as much."""
        of_some = corpus.train[corpus.labels >= dropped]
        of_all = corpus.train[random_order(len(corpus.train)).argsort()[: len(of_some)]]
        some, all_ = scores_of(suite, of_some), scores_of(suite, of_all)
        assert some["fid"] > 3 * all_["fid"]
        assert some["kid"] > all_["kid"] + 2 * some["kid_se"]
        assert some["coverage"] < all_["coverage"]
        assert some["recall"] < all_["recall"]

    def test_dropped_classes_by_hand(self, suites: dict[str, Suite], corpus: Corpus) -> None:
        # A class that is left has N / K of its share, of N images in all and K left: label_kl is the logarithm of that.
        x, y = corpus.train, corpus.labels
        for dropped in (0, 1, 3, 5, 9):
            scores = scores_of(suites["classifier"], x[y >= dropped])
            assert scores["label_kl"] == pytest.approx(math.log(len(y) / int((y >= dropped).sum())), abs=0.01)
            assert scores["modes"] == 10 - dropped

    @pytest.mark.parametrize(("left", "found"), [(3, 9), (30, 10)])
    def test_a_class_of_which_little_is_left_is_no_mode(
        self, left: int, found: int, suites: dict[str, Suite], corpus: Corpus
    ) -> None:
        # A tenth of the images are of each class: 30 of a thousand are more than a tenth of that tenth, 3 are fewer.
        x, y = corpus.train, corpus.labels
        assert scores_of(suites["classifier"], torch.cat([x[y == 0][:left], x[y > 0]]))["modes"] == found

    def test_collapse(self, suite: Suite, corpus: Corpus) -> None:
        family = Family(suite, [corpus.train[torch.arange(1000) % kept] for kept in (1000, 100, 10, 1)])
        family.rises("fid", "kid")
        family.falls("recall", "coverage")
        assert family["duplicates"] == [0, 1, 1, 1]
        assert family["precision"] == [1] * 4  # it sees none of this

    def test_collapse_by_hand(self, suites: dict[str, Suite], corpus: Corpus) -> None:
        y, found = corpus.labels, []
        for kept in (1000, 100, 10, 1):
            rows = torch.arange(1000) % kept
            scores = scores_of(suites["classifier"], corpus.train[rows])
            assert scores["label_kl"] == pytest.approx(divergence(y[rows], y), abs=0.01)
            assert scores["modes"] == modes(y[rows], y)
            found.append(scores["modes"])
        assert found[0] == 10
        assert found[-1] == 1
        assert found == sorted(found, reverse=True)

    def test_the_inception_score_falls_with_the_classes(self, suites: dict[str, Suite], corpus: Corpus) -> None:
        x, y = corpus.train, corpus.labels
        family = Family(suites["classifier"], [x[y >= dropped] for dropped in (0, 1, 3, 5, 9)])
        family.falls("score")
        for score, classes in zip(family["score"], (10, 9, 7, 5, 1), strict=True):
            assert 0.7 * classes < score <= classes + 0.1  # as many as there are, had the classifier no doubts

    @pytest.mark.parametrize("repeated", [50, 100])
    def test_duplicates_are_the_share_of_images_with_a_twin(self, repeated: int, suite: Suite, corpus: Corpus) -> None:
        images = torch.cat([corpus.fresh[:200], corpus.fresh[:repeated]])
        assert scores_of(suite, images)["duplicates"] == pytest.approx(2 * repeated / len(images))


class TestCopies:
    def test_training_images_are_copies_which_no_other_score_minds(self, suite: Suite, corpus: Corpus) -> None:
        scores = scores_of(suite, corpus.train)
        assert scores["copy_rate"] == 1
        assert scores["nn_ratio"] == 0
        assert scores["fid"] == pytest.approx(0, abs=1e-9)
        assert scores["precision"] == scores["recall"] == scores["coverage"] == 1

    def test_a_perfect_generators_images_are_none(self, suite: Suite, corpus: Corpus) -> None:
        scores = scores_of(suite, corpus.fresh)
        assert scores["copy_rate"] == pytest.approx(0.01, abs=0.05)  # of 351 images, two or fifteen
        assert scores["nn_ratio"] == pytest.approx(1, abs=0.05)

    @pytest.mark.parametrize("copies", [39, 117, 351])  # a tenth, a quarter and a half of all
    def test_of_a_mixture_the_rate_is_the_share_of_copies(self, copies: int, suite: Suite, corpus: Corpus) -> None:
        num = len(corpus.fresh)
        mistaken = num * scores_of(suite, corpus.fresh)["copy_rate"]
        rate = scores_of(suite, torch.cat([corpus.fresh, corpus.train[:copies]]))["copy_rate"]
        assert rate == pytest.approx((mistaken + copies) / (num + copies))
        assert rate == pytest.approx(copies / (num + copies), abs=0.05)

    def test_a_copy_with_slight_noise_is_one(self, suite: Suite, corpus: Corpus) -> None:
        assert scores_of(suite, noisy(corpus.train, 2))["copy_rate"] > 0.99
        assert scores_of(suite, noisy(corpus.train, 5))["copy_rate"] > 0.95

    @pytest.mark.parametrize("disguise", ["noise", "strong noise", "shift"])
    def test_a_copy_in_disguise_is_missed(self, disguise: str, suite: Suite, corpus: Corpus) -> None:
        """What the copy rate does not promise: features of these copies are as far from the original's as a fresh image's."""
        copies = {
            "noise": noisy(corpus.train, 20),
            "strong noise": noisy(corpus.train, 40),
            "shift": corpus.train.roll(1, 3),  # by a pixel to the right
        }
        assert scores_of(suite, copies[disguise])["copy_rate"] < 0.06


class Features(nn.Module):
    """An extractor as torchmetrics takes it."""

    num_features = 64

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, x: Tensor) -> Tensor:
        return extract(self.extractor, x)[0]


class TestParity:
    """From images to scores, beside libraries that get the features of the same images from the same extractor."""

    @pytest.fixture
    def generated(self, corpus: Corpus) -> Tensor:
        return noisy(corpus.train, 20)  # as many as there are real ones, which torch-fidelity's KID asks for

    def test_fid_is_torch_fidelitys(self, suite: Suite, corpus: Corpus, generated: Tensor) -> None:
        both = (extract(suite.extractor, images)[0] for images in (corpus.train, generated))
        expected = fid_statistics_to_metric(*map(fid_features_to_statistics, both), verbose=False)
        assert scores_of(suite, generated)["fid"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-5)

    def test_fid_is_torchmetrics(self, suite: Suite, corpus: Corpus, generated: Tensor) -> None:
        metric = FrechetInceptionDistance(Features(suite.extractor))
        for images, real in ((corpus.train, True), (generated, False)):
            for batch in images.split(100):
                metric.update(batch, real=real)
        assert scores_of(suite, generated)["fid"] == pytest.approx(float(metric.compute()), rel=1e-5)

    def test_kid_is_torch_fidelitys(self, suite: Suite, corpus: Corpus, generated: Tensor) -> None:
        both = (extract(suite.extractor, images)[0].double() for images in (corpus.train, generated))
        expected = kid_features_to_metric(*both, kid_subsets=1, kid_subset_size=len(generated), verbose=False)
        assert scores_of(suite, generated)["kid"] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-5)

    def test_the_inception_score_is_torch_fidelitys(self, suites: dict[str, Suite], generated: Tensor) -> None:
        images = generated[:1000]
        scores = scores_of(suites["classifier"], images)
        _, logits = extract(suites["classifier"].extractor, images)
        assert logits is not None
        split = random_order(1000) % 10
        expected = isc_features_to_metric(logits[split.argsort(stable=True)], splits=10, shuffle=False)
        assert scores["score"] == pytest.approx(expected["inception_score_mean"], rel=1e-9)
        assert scores["score_std"] == pytest.approx(expected["inception_score_std"], rel=1e-7)
