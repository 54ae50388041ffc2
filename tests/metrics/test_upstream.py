"""What torchmetrics 1.9 gets wrong, beside the right number: why our suite does not use its generative metrics.

The day one of these fails, upstream has mended it, and the reason that the test gives for our own code is gone. "Features" are
pixels here, so that each number can be worked out by hand.
"""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torchmetrics import MetricCollection
from torchmetrics.image import (
    FrechetInceptionDistance,
    InceptionScore,
    KernelInceptionDistance,
    MemorizationInformedFrechetInceptionDistance,
)
from torchmetrics.wrappers import FeatureShare

from lightning_gan.images import to_float

pytestmark = pytest.mark.filterwarnings("ignore:Metric .* will save all extracted features", r"ignore:std\(\)")


@pytest.fixture(autouse=True)
def global_generator() -> Iterator[None]:
    """Leave it as it was: the inception score and KID draw from it."""
    with torch.random.fork_rng(devices=[]):
        yield


class Pixels(nn.Module):
    """Stands for Inception: its "features" are the pixels `start` to `stop` of a flattened image; keeps what it was given."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop
        self.num_features = stop - start
        self.given: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.given.append(x)
        return x.flatten(1)[:, self.start : self.stop].float()


def images(rows: list[list[int]], copies: int = 1) -> Tensor:
    """Make images of one row of pixels each."""
    return torch.tensor(rows, dtype=torch.uint8)[:, None, None].repeat(copies, 1, 1, 1)  # (N, 1, 1, W)


def normalizing_fid() -> tuple[FrechetInceptionDistance, Pixels]:
    network = Pixels(0, 1)
    metric = FrechetInceptionDistance(network, normalize=True)
    metric.used_custom_model = False  # for its own network it converts images itself, and that is what is looked at
    return metric, network


def test_normalize_truncates() -> None:
    """Why we round images to uint8 ourselves: a fifth of all levels loses one on the way from [-1, 1]."""
    levels = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    metric, network = normalizing_fid()
    metric.update(levels / 255, real=True)
    metric.update((to_float(levels) + 1) / 2, real=False)  # the same images, as a network would draw them
    real, fake = network.given
    assert real.equal(levels)
    wrong = (levels.int() - fake.int()).flatten()  # right: all 0
    assert set(wrong.tolist()) == {0, 1}
    assert wrong.sum() > 40
    assert metric.compute() > 0.02  # right: 0


def test_normalize_wraps_around() -> None:
    """Why we clamp images before they become uint8: a white that is a little too white becomes black."""
    metric, _ = normalizing_fid()
    metric.update(torch.ones(2, 1, 1, 1), real=True)
    metric.update(torch.full((2, 1, 1, 1), 1.004), real=False)
    assert metric.compute() == 255**2  # right: 0


def test_normalize_ends_the_sharing_of_features() -> None:
    """Why one forward per image feeds everything in our suite: the cache here knows tensors by identity alone."""

    def forwards(normalize: bool, x: Tensor) -> int:
        network = Pixels(0, 1)
        metrics = [
            FrechetInceptionDistance(network, normalize=normalize),
            KernelInceptionDistance(network, subset_size=2, normalize=normalize),
            MemorizationInformedFrechetInceptionDistance(network, normalize=normalize),
        ]
        for metric in metrics:
            metric.used_custom_model = False
        FeatureShare(metrics).update(x, real=True)
        return len(network.given)

    assert forwards(False, images([[0], [1]])) == 1
    assert forwards(True, torch.rand(2, 1, 1, 1, generator=torch.Generator().manual_seed(0))) == 3  # right: 1


def test_feature_sharing_takes_another_batch_in_the_same_memory_for_the_first() -> None:
    """Why our suite keeps no features by the tensor that they came from."""
    metrics = FeatureShare([FrechetInceptionDistance(Pixels(0, 1))])
    buffer = images([[10], [10]])
    metrics.update(buffer, real=True)
    metrics.update(buffer.fill_(20), real=False)
    assert metrics.compute()["FrechetInceptionDistance"] == 0  # right: 10^2


def test_feature_sharing_feeds_features_to_the_inception_score() -> None:
    """Why our extractors return features and logits under two names: here the score is of whatever the first metric wants.

    Two sure classes in equal shares have an inception score of 2. It is 1 for features that are the same for all.
    """
    features, logits = Pixels(0, 2), Pixels(2, 4)
    two_classes = images([[5, 5, 99, 0], [5, 5, 0, 99]], copies=10)
    metrics = FeatureShare([FrechetInceptionDistance(features), InceptionScore(logits, splits=1)])
    metrics["FrechetInceptionDistance"].update(two_classes, real=True)
    metrics.update(two_classes, real=False)
    alone = InceptionScore(logits, splits=1)
    alone.update(two_classes)
    assert_close(alone.compute()[0], torch.tensor(2.0))
    assert_close(metrics.compute()["InceptionScore"][0], torch.tensor(1.0))  # right: 2


def test_a_collection_gives_real_images_to_the_inception_score() -> None:
    """Why our suite, and no collection, says which images go to which metric: the score is of generated images alone."""
    metrics = MetricCollection([FrechetInceptionDistance(Pixels(0, 2)), InceptionScore(Pixels(0, 2), splits=1)])
    metrics.update(images([[99, 0]], copies=10), real=True)
    metrics.update(images([[0, 99]], copies=10), real=False)
    assert_close(metrics.compute()["InceptionScore"][0], torch.tensor(2.0))  # right: 1, there is but one class


def test_the_inception_score_of_sure_logits_is_not_a_number() -> None:
    """Why our score is computed from log-probabilities: a class whose probability underflows everywhere gives 0 * infinity."""
    metric = InceptionScore(Pixels(0, 3), splits=1)
    metric.update(images([[200, 0, 0], [0, 200, 0]], copies=10))
    assert metric.compute()[0].isnan()  # right: 2
    log_p = torch.tensor([[200.0, 0, 0], [0, 200, 0]], dtype=torch.float64).log_softmax(1)
    log_mean = log_p.logsumexp(0) - math.log(2)
    assert_close((log_p.exp() * (log_p - log_mean)).sum(1).mean().exp(), torch.tensor(2.0, dtype=torch.float64))


def test_mifid_averages_over_the_real_images() -> None:
    """Why we have a copy rate and no MiFID: a generator that has learned one image by heart goes unpunished.

    MiFID (Bai et al. 2021) is FID / M where M, below a threshold of 0.1, is the mean over *generated* images of the cosine
    distance to the nearest real one. Each generated image is nearly a real one: M = 1 - cos = 1 - 10 / sqrt(101).
    """
    real, fake = images([[100, 0, 0], [0, 100, 0], [0, 0, 100]]), images([[100, 10, 0]], copies=3)

    def mifid(real: Tensor, fake: Tensor) -> Tensor:
        metric = MemorizationInformedFrechetInceptionDistance(Pixels(0, 3))
        metric.update(real, real=True)
        metric.update(fake, real=False)
        result: Tensor = metric.compute()
        return result

    fid = FrechetInceptionDistance(Pixels(0, 3))
    fid.update(real, real=True)
    fid.update(fake, real=False)
    distance = 1 - 10 / math.sqrt(101)  # 0.005
    assert_close(mifid(real, fake), fid.compute(), rtol=1e-5, atol=0)  # M taken as 1: no penalty at all
    assert_close(mifid(fake, real), fid.compute() / distance, rtol=1e-4, atol=0)  # right, if each is said to be the other


def kid(real: Tensor, fake: Tensor, subset_size: int) -> KernelInceptionDistance:
    metric = KernelInceptionDistance(Pixels(0, 1), subsets=1, subset_size=subset_size)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric


def unbiased_mmd(real: list[int], fake: list[int]) -> float:
    """Binkowski et al. 2018, Eq. 4, with the kernel (x y + 1)^3 of features in one dimension."""

    def between(xs: list[int], ys: list[int]) -> float:
        return sum((x * y + 1) ** 3 for x in xs for y in ys)

    def within(xs: list[int]) -> float:
        return (between(xs, xs) - sum((x * x + 1) ** 3 for x in xs)) / (len(xs) * (len(xs) - 1))

    return within(real) + within(fake) - 2 * between(real, fake) / (len(real) * len(fake))


def test_kid_draws_from_the_global_generator() -> None:
    """Why our KID takes all images: this one differs from rank to rank, and looking at it changes the training that follows."""
    real, fake = images([[level] for level in range(10)]), images([[2 * level] for level in range(10)])
    values = []
    for rank in range(2):
        torch.manual_seed(rank)
        before = torch.get_rng_state()
        values.append(kid(real, fake, subset_size=5).compute()[0])
        assert not torch.get_rng_state().equal(before)  # right: equal
    assert values[0] != values[1]  # right: equal
    of_all = unbiased_mmd([*range(10)], [*range(0, 20, 2)])
    assert_close(kid(real, fake, subset_size=10).compute()[0].item(), of_all, rtol=1e-5, atol=0)


def test_kid_mixes_real_and_generated_between_processes() -> None:
    """Why our suite gathers sums and one bank: here processes exchange one batch after the other, whatever it holds.

    Rank 0 has two real batches and one generated, rank 1 one and two. Their first, second and third exchanges make pairs; the
    second pair is of a real and a generated batch, and each rank puts it to the kind that it has itself.
    """
    batches = [[0, 1], [2, 3], [4, 5]], [[100, 101], [102, 103], [104, 105]]
    ranks = [KernelInceptionDistance(Pixels(0, 1)) for _ in range(2)]
    for kind, first in enumerate((2, 1)):
        for i, batch in enumerate(batches[kind]):
            ranks[i >= first].update(images([[level] for level in batch]), real=kind == 0)
    calls = [
        [*metric.real_features, *metric.fake_features] for metric in ranks
    ]  # what each hands to torch.distributed, in order
    seen = []
    for metric in ranks:
        exchanges = iter(zip(*calls, strict=True))
        metric.sync(lambda _, group, exchanges=exchanges: list(next(exchanges)), distributed_available=lambda: True)
        seen.append([torch.cat(features).flatten().int().tolist() for features in (metric.real_features, metric.fake_features)])
    # Right, in whatever order: [0, 1, 2, 3, 4, 5] and [100, 101, 102, 103, 104, 105] on both.
    assert seen[0] == [[0, 1, 4, 5, 2, 3, 102, 103], [100, 101, 104, 105]]
    assert seen[1] == [[0, 1, 4, 5], [2, 3, 102, 103, 100, 101, 104, 105]]
