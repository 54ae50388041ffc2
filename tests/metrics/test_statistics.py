import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_gan.metrics.distances import inception_score
from lightning_gan.metrics.statistics import Bank, LogitSums, Moments


@pytest.fixture
def features() -> Tensor:
    return torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 0.1])


def test_moments_of_three_points() -> None:
    moments = Moments(torch.zeros(2))
    moments.update(torch.tensor([[0.0, 0.0], [2.0, 0.0]]))
    moments.update(torch.tensor([[1.0, 3.0]]))
    count, mean, covariance = moments.compute()
    assert count == 3
    assert mean.tolist() == [1.0, 1.0]
    assert covariance.tolist() == [[1.0, 0.0], [0.0, 3.0]]


@pytest.mark.parametrize("offset", [0.0, 100.0, 10_000.0])
def test_moments_far_from_zero_are_exact(features: Tensor, offset: float) -> None:
    far = features.double() * 1e-2 + offset
    moments = Moments(far[0].float())
    for part in far.split(7):
        moments.update(part)
    _, mean, covariance = moments.compute()
    assert_close(mean, far.mean(0), rtol=1e-12, atol=0)
    assert_close(covariance, (far - offset).T.cov(), rtol=1e-8, atol=1e-12)


def test_moments_do_not_depend_on_how_images_are_divided(features: Tensor) -> None:
    def moments(size: int) -> tuple[Tensor, ...]:
        metric = Moments(features[:5].mean(0))
        for part in features.split(size):
            metric.update(part)
        return metric.compute()

    assert_close(moments(50), moments(3), rtol=1e-13, atol=1e-13)


def test_one_image_has_no_covariance() -> None:
    moments = Moments(torch.zeros(2))
    moments.update(torch.ones(1, 2))
    assert moments.compute()[2].isnan().all()


def test_moments_reset(features: Tensor) -> None:
    moments = Moments(torch.zeros(3))
    moments.update(features)
    moments.reset()
    moments.update(features[:10])
    assert moments.compute()[0] == 10


def test_a_bank_keeps_what_belongs_in_its_rows_wherever_it_comes_from(features: Tensor) -> None:
    place = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    bank = Bank(20, 3)
    for rows in torch.arange(50).flip(0).split(7):
        bank.update(features[rows], place[rows])
    assert_close(bank.compute(), features[place.argsort()[:20]], rtol=0, atol=0)


def test_the_score_of_certain_balanced_labels_is_their_number() -> None:
    labels = torch.arange(40) % 4
    sums = LogitSums(4, splits=2)
    for rows in torch.arange(40).split(9):
        sums.update(1000.0 * torch.eye(4)[labels[rows]], rows // 4)  # each split has each label as often
    *parts, histogram = sums.compute()
    assert inception_score(*parts) == pytest.approx((4.0, 0.0))
    assert histogram.tolist() == [10, 10, 10, 10]


def test_their_size_does_not_depend_on_the_number_of_images(features: Tensor) -> None:
    def size(images: int) -> int:
        metrics = Moments(torch.zeros(3)), Bank(20, 3), LogitSums(3)
        for start in range(0, images, 50):
            place = torch.arange(start, start + 50)
            metrics[0].update(features)
            metrics[1].update(features, place)
            metrics[2].update(features, place)
        return sum(state.nbytes for metric in metrics for state in metric.metric_state.values() if isinstance(state, Tensor))

    assert size(100) == size(2_000)
