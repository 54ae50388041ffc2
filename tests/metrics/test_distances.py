import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torch.testing import assert_close
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from lightning_gan.metrics.distances import (
    covered_modes,
    discriminator_gap,
    frechet_distance,
    frechet_standard_error,
    inception_score,
    kernel_distance,
    kernel_sum,
    label_divergence,
    matrix_root,
    ordered_pairs,
    score_sums,
)
from lightning_gan.randomness import generator


def normal(*key: int | str, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=generator("test distances", *key), dtype=dtype)


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    return features.double().mean(0), torch.cov(features.double().T)


def fid(real: Tensor, fake: Tensor) -> float:
    mean, covariance = moments(real)
    return frechet_distance(mean, covariance, matrix_root(covariance), *moments(fake))


class PassThrough(nn.Module):
    """Features instead of images for torchmetrics."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def features_like_a_networks(name: str, num: int, dim: int = 24, shift: float = 0.0) -> Tensor:
    """Make float32 features that are not negative and whose spread differs a hundredfold between directions."""
    mixing = normal("mixing", dim, shape=(dim, dim)) * torch.logspace(0, -2, dim)
    return (normal(name, num, dim, shape=(num, dim)) @ mixing + 0.5 + shift).relu().float()


class TestFrechetDistance:
    def test_of_diagonal_gaussians_by_hand(self) -> None:
        # 3^2 + 4^2 + (1 - 2)^2 + (3 - 5)^2
        mean, covariance = torch.zeros(2), torch.tensor([1.0, 9.0]).diag()
        other_mean, other_covariance = torch.tensor([3.0, 4.0]), torch.tensor([4.0, 25.0]).diag()
        assert frechet_distance(mean, covariance, matrix_root(covariance), other_mean, other_covariance) == pytest.approx(30)

    def test_of_covariances_that_do_not_commute_is_that_of_the_matrix_root_of_their_product(self) -> None:
        a, b = torch.cov(normal("a", shape=(6, 50))), torch.cov(normal("b", shape=(6, 50)))
        expected = a.trace() + b.trace() - 2 * np.trace(sqrtm((a @ b).numpy())).real
        zero = torch.zeros(6)
        assert frechet_distance(zero, a, matrix_root(a), zero, b) == pytest.approx(float(expected), rel=1e-10)

    def test_of_a_set_to_itself_is_zero(self) -> None:
        x = features_like_a_networks("x", 300)
        assert fid(x, x) == pytest.approx(0, abs=1e-9)

    def test_is_symmetric_and_grows_with_a_shift(self) -> None:
        x = features_like_a_networks("x", 300)
        fakes = [features_like_a_networks("y", 300, shift=shift) for shift in (0, 0.1, 0.2, 0.4, 0.8)]
        distances = [fid(x, fake) for fake in fakes]
        assert distances == sorted(distances)
        assert distances[0] < 0.1 * distances[-1]
        assert fid(fakes[2], x) == pytest.approx(distances[2])

    @pytest.mark.parametrize("num", [500, 16])
    def test_equals_torch_fidelitys(self, num: int) -> None:
        x, y = features_like_a_networks("x", 500), features_like_a_networks("y", num, shift=0.1)
        statistics = [fid_features_to_statistics(features.double()) for features in (x, y)]
        expected = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
        assert fid(x, y) == pytest.approx(expected, rel=1e-5)

    def test_equals_torchmetrics(self) -> None:
        x, y = features_like_a_networks("x", 500), features_like_a_networks("y", 400, shift=0.1)
        metric = FrechetInceptionDistance(feature=PassThrough(24)).set_dtype(torch.float64)
        metric.update(x.double(), real=True)
        metric.update(y.double(), real=False)
        assert fid(x, y) == pytest.approx(float(metric.compute()), rel=1e-5)

    def test_of_fewer_samples_than_dimensions_is_exact(self) -> None:
        # With S2 = Xc^T Xc / (n - 1), the eigenvalues of R S2 R are squares of the singular values of Xc R / sqrt(n - 1).
        mean, covariance = moments(features_like_a_networks("x", 1000, dim=128))
        root, fake = matrix_root(covariance), features_like_a_networks("y", 20, dim=128, shift=0.1).double()
        other_mean, other_covariance = moments(fake)
        roots = torch.linalg.svdvals((fake - other_mean) @ root) / math.sqrt(19)
        expected = (mean - other_mean).square().sum() + covariance.trace() + other_covariance.trace() - 2 * roots.sum()
        assert frechet_distance(mean, covariance, root, other_mean, other_covariance) == pytest.approx(
            float(expected), rel=1e-6
        )

    def test_keeps_eigenvalues_that_a_threshold_would_drop(self) -> None:
        # 199 directions with a billionth of the variance of one: were those of the product, 1e-18, dropped beside 1, as below
        # 200 times float64's resolution of it, the distance would be 4e-7.
        covariance = torch.full((200,), 1e-9).diag().double()
        covariance[0, 0] = 1
        zero = torch.zeros(200)
        assert frechet_distance(zero, covariance, matrix_root(covariance), zero, covariance) == pytest.approx(0, abs=1e-12)

    def test_root_squares_to_the_covariance_and_ignores_negative_rounding(self) -> None:
        covariance = torch.cov(normal("x", shape=(12, 5)))  # of rank 4
        root = matrix_root(covariance - 1e-15 * torch.eye(12))
        assert_close(root @ root, covariance)
        assert_close(root, root.T)


def two_gaussians(dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    mean, other_mean = torch.zeros(dim).double(), 0.3 * normal("mean", dim, shape=(dim,))
    mixing = torch.eye(dim) + 0.3 / math.sqrt(dim) * normal("mixing", dim, shape=(dim, dim))
    other_mixing = 1.2 * torch.eye(dim) + 0.3 / math.sqrt(dim) * normal("other mixing", dim, shape=(dim, dim))
    return mean, mixing @ mixing.T, other_mean, other_mixing


class TestFrechetStandardError:
    @staticmethod
    def estimates(dim: int, num: int, repeats: int, same: bool = False) -> tuple[Tensor, Tensor]:
        """Draw a generated set so often, and return the distances and their standard errors."""
        mean, covariance, other_mean, mixing = two_gaussians(dim)
        root = matrix_root(covariance)
        if same:
            other_mean, mixing = mean, root
        distances, errors = [], []
        for repeat in range(repeats):
            fake = normal("fake", dim, repeat, shape=(num, dim)) @ mixing.T + other_mean
            sides = mean, covariance, root, *moments(fake)
            distances.append(frechet_distance(*sides))
            errors.append(frechet_standard_error(*sides, fake, num))
        return torch.tensor(distances), torch.tensor(errors)

    @pytest.mark.parametrize("num", [100, 500])
    def test_is_the_spread_over_independent_samples(self, num: int) -> None:
        distances, errors = self.estimates(8, num, repeats=300)
        assert 0.85 < errors.mean() / distances.std() < 1.15

    @pytest.mark.parametrize(("dim", "num", "same"), [(8, 500, True), (32, 100, False), (32, 20, False)])
    def test_is_at_most_half_too_large_for_equal_distributions_and_few_samples(self, dim: int, num: int, same: bool) -> None:
        distances, errors = self.estimates(dim, num, repeats=100, same=same)
        assert 0.85 < errors.mean() / distances.std() < 1.6

    def test_is_that_of_one_dimension_by_hand(self) -> None:
        # (m2 - m1)^2 + (s2 - s1)^2 with N(0, 1) and N(3, 2^2): I - T = 1 - s1 / s2 = 1/2, and psi = 6 (x - 3) + (x - 3)^2 / 2.
        # At x = 1 and 5: -12 + 2 and 12 + 2, whose standard deviation is 24 / sqrt(2).
        one, x = torch.eye(1), torch.tensor([[1.0], [5.0]])
        error = frechet_standard_error(torch.zeros(1), one, one, torch.tensor([3.0]), 4 * one, x, num=8)
        assert error == pytest.approx(24 / math.sqrt(2) / math.sqrt(8))

    def test_needs_only_a_part_of_the_features(self) -> None:
        mean, covariance, other_mean, mixing = two_gaussians(8)
        fake = normal("fake", shape=(4000, 8)) @ mixing.T + other_mean
        sides = mean, covariance, matrix_root(covariance), *moments(fake)
        whole, part = (frechet_standard_error(*sides, features, 4000) for features in (fake, fake[:1000]))
        assert part == pytest.approx(whole, rel=0.1)
        assert part != whole

    def test_of_one_sample_is_nan(self) -> None:
        one = torch.eye(2)
        assert math.isnan(frechet_standard_error(torch.zeros(2), one, one, torch.zeros(2), one, torch.zeros(1, 2), 1))


def kid_by_definition(x: Tensor, y: Tensor) -> float:
    x, y = x.double(), y.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    n, m = len(x), len(y)
    own_x, own_y = (kernel(a, a).sum() - kernel(a, a).trace() for a in (x, y))
    return float(own_x / (n * (n - 1)) + own_y / (m * (m - 1)) - 2 * kernel(x, y).mean())


class TestKernelDistance:
    def test_by_hand(self) -> None:
        # k(a, b) = (ab + 1)^3. Within x = {0, 1}: 1. Within y = {1, 2}: 27. Between: 1, 1, 8, 27, a mean of 37/4.
        # Sample by sample, 27 - 9/2 and 27 - 28/2, whose standard deviation is 9.5 / sqrt(2).
        distance, error = kernel_distance(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]]))
        assert distance == pytest.approx(1 + 27 - 37 / 2)
        assert error == pytest.approx(2 * 9.5 / math.sqrt(2) / math.sqrt(2))

    @pytest.mark.parametrize(("n", "m"), [(64, 64), (65, 127), (300, 2), (199, 201)])
    def test_of_any_sizes_is_that_of_the_definition(self, n: int, m: int) -> None:
        x, y = features_like_a_networks("x", n), features_like_a_networks("y", m, shift=0.2)
        assert kernel_distance(x, y)[0] == pytest.approx(kid_by_definition(x, y), rel=1e-5)

    def test_equals_torch_fidelitys_on_one_subset_of_all_rows(self) -> None:
        x, y = features_like_a_networks("x", 300), features_like_a_networks("y", 300, shift=0.1)
        expected = kid_features_to_metric(x.double(), y.double(), kid_subsets=1, kid_subset_size=300, verbose=False)
        assert kernel_distance(x, y)[0] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-5)

    def test_equals_torchmetrics_on_one_subset_of_all_rows(self) -> None:
        x, y = features_like_a_networks("x", 300), features_like_a_networks("y", 300, shift=0.1)
        with pytest.warns(UserWarning, match="large memory footprint"):
            metric = KernelInceptionDistance(feature=PassThrough(24), subsets=1, subset_size=300)
        metric.update(x.double(), real=True)
        metric.update(y.double(), real=False)
        with torch.random.fork_rng():  # it draws its subsets from the global generator
            expected = float(metric.compute()[0])
        assert kernel_distance(x, y)[0] == pytest.approx(expected, rel=1e-5)

    def test_takes_a_sum_that_is_known_instead_of_computing_it(self) -> None:
        x, y = features_like_a_networks("x", 300), features_like_a_networks("y", 300)
        assert kernel_distance(x, y, kernel_sum(x)) == kernel_distance(x, y)
        assert kernel_distance(x, y, kernel_sum(x) + 300 * 299)[0] == pytest.approx(kernel_distance(x, y)[0] + 1)

    @pytest.mark.parametrize("shift", [0, 0.05, 0.4])
    def test_standard_error_is_the_spread_over_independent_samples(self, shift: float) -> None:
        x = features_like_a_networks("x", 300)
        pairs = [kernel_distance(x, features_like_a_networks(f"y{i}", 300, shift=shift)) for i in range(150)]
        distances, errors = torch.tensor(pairs, dtype=torch.float64).T
        assert 0.85 < errors.mean() / distances.std() < 1.3

    def test_of_equal_distributions_scatters_about_zero(self) -> None:
        pairs = [(features_like_a_networks(f"x{i}", 100), features_like_a_networks(f"y{i}", 100)) for i in range(100)]
        distances = torch.tensor([kernel_distance(x, y)[0] for x, y in pairs], dtype=torch.float64)
        assert distances.min() < 0 < distances.max()
        assert abs(distances.mean()) < 3 * distances.std() / math.sqrt(100)

    def test_grows_with_a_shift(self) -> None:
        x = features_like_a_networks("x", 300)
        distances = [kernel_distance(x, features_like_a_networks("y", 300, shift=shift))[0] for shift in (0, 0.1, 0.2, 0.4)]
        assert distances == sorted(distances)
        assert distances[0] < 0.1 * distances[-1]

    @pytest.mark.parametrize(("n", "m"), [(1, 5), (5, 1)])
    def test_of_one_sample_is_nan(self, n: int, m: int) -> None:
        assert all(math.isnan(value) for value in kernel_distance(torch.zeros(n, 3), torch.zeros(m, 3)))


def score(logits: Tensor, split: Tensor | None = None, splits: int = 1) -> tuple[float, float]:
    split = torch.zeros(len(logits), dtype=torch.int64) if split is None else split
    return inception_score(*score_sums(logits, split, splits))


class TestInceptionScore:
    def test_by_hand(self) -> None:
        # Sure and spread over four classes: 4. Sure of one class: 1. Never sure: 1.
        assert score(1000 * torch.eye(4))[0] == pytest.approx(4)
        assert score(1000 * torch.eye(4)[[2, 2, 2]])[0] == pytest.approx(1)
        assert score(torch.zeros(4, 4))[0] == pytest.approx(1)

    def test_of_splits_is_the_mean_and_the_standard_deviation_of_theirs(self) -> None:
        # The first split sees both classes and scores 2, the second one class and scores 1; the third has no samples.
        logits, split = 1000 * torch.eye(2)[[0, 1, 1, 1]], torch.tensor([0, 0, 1, 1])
        assert score(logits, split, splits=3) == pytest.approx((1.5, 0.5))

    def test_sums_of_parts_add(self) -> None:
        logits, split = 3 * normal("logits", shape=(40, 7)), torch.arange(40) % 4
        parts = zip(score_sums(logits[:13], split[:13], 4), score_sums(logits[13:], split[13:], 4), strict=True)
        assert inception_score(*(a + b for a, b in parts)) == pytest.approx(score(logits, split, 4), rel=1e-13)

    @pytest.mark.parametrize("scale", [1, 20])
    def test_equals_torch_fidelitys(self, scale: float) -> None:
        logits = scale * normal("logits", shape=(103, 10), dtype=torch.float32)
        bounds = [i * 103 // 10 for i in range(11)]
        split = torch.cat([torch.full((bounds[i + 1] - bounds[i],), i) for i in range(10)])
        expected = isc_features_to_metric(logits, splits=10, shuffle=False)
        mean, deviation = score(logits, split, splits=10)
        assert mean == pytest.approx(expected["inception_score_mean"], rel=1e-12)
        assert deviation == pytest.approx(expected["inception_score_std"], rel=1e-10)

    def test_is_finite_where_torchmetrics_is_nan(self) -> None:
        # A class that is never seen: its probability underflows in float32, and torchmetrics takes 0 (log p - log 0).
        logits = torch.tensor([[0.0, 0.0, -200.0], [200.0, 0.0, 0.0]]).repeat(10, 1)
        with pytest.warns(UserWarning, match="large memory footprint"):
            metric = InceptionScore(feature=PassThrough(3), splits=2)
        metric.update(logits)
        with torch.random.fork_rng():  # it shuffles by the global generator
            assert metric.compute()[0].isnan()
        # Half the samples are torn between two classes, so p(y) = (3/4, 1/4, 0), whose entropy less ln(2) / 2 is the logarithm.
        assert score(logits)[0] == pytest.approx(math.exp(math.log(4) - 0.75 * math.log(3) - math.log(2) / 2))

    def test_of_no_samples_is_nan(self) -> None:
        assert all(math.isnan(value) for value in score(torch.zeros(0, 3)))


class TestLabels:
    def test_divergence_by_hand(self) -> None:
        # Nine tenths of one class and a tenth of the other, where there should be halves of both; and one class of two.
        assert label_divergence(torch.tensor([9, 1]), torch.tensor([50, 50])) == pytest.approx(
            0.9 * math.log(1.8) + 0.1 * math.log(0.2)
        )
        assert label_divergence(torch.tensor([10, 0]), torch.tensor([50, 50])) == pytest.approx(math.log(2))

    def test_divergence_of_equal_shares_is_zero(self) -> None:
        assert label_divergence(torch.tensor([1, 2, 0]), torch.tensor([10, 20, 0])) == pytest.approx(0, abs=1e-15)

    def test_a_class_that_no_real_image_has_counts_as_half_an_image(self) -> None:
        assert label_divergence(torch.tensor([0, 10]), torch.tensor([100, 0])) == pytest.approx(math.log(200))

    def test_modes_by_hand(self) -> None:
        # A tenth of a share is not more than a tenth; a class that no real image has is no mode.
        assert covered_modes(torch.tensor([890, 10, 50, 50]), torch.tensor([50, 10, 40, 0])) == 2
        assert covered_modes(torch.tensor([889, 11, 50, 50]), torch.tensor([50, 10, 40, 0])) == 3


class TestDiscriminator:
    def test_ordered_pairs_by_hand(self) -> None:
        # Of six pairs 1 > -1, 1 > 0, 0 > -1 and 1 = 1, 0 = 0 count 4 and two halves; 0 < 1 does not.
        assert ordered_pairs(torch.tensor([1.0, 0.0]), torch.tensor([1.0, -1.0, 0.0])) == pytest.approx(4 / 6)

    @pytest.mark.parametrize(
        ("change", "expected"),
        [(lambda x: x + 100, 1.0), (lambda x: x - 100, 0.0), (torch.zeros_like, None), (lambda x: x, None)],
    )
    def test_ordered_pairs_count_all_pairs(self, change: Callable[[Tensor], Tensor], expected: float | None) -> None:
        real, fake = change(normal("real", shape=(50,))), (2 * normal("fake", shape=(70,))).round()
        difference = real[:, None] - fake
        share = float(((difference > 0).double() + 0.5 * (difference == 0)).mean())
        assert ordered_pairs(real, fake) == pytest.approx(share)
        assert expected is None or share == expected

    def test_gap_by_hand(self) -> None:
        train, fake = torch.tensor([2.0, 4.0]), torch.tensor([-1.0])
        assert discriminator_gap(train, torch.tensor([3.0, 3.0, 3.0]), fake) == pytest.approx(0)
        assert discriminator_gap(train, torch.tensor([2.0]), fake) == pytest.approx(0.25)
        assert discriminator_gap(train, fake, fake) == pytest.approx(1)

    def test_of_no_held_out_images_is_nan(self) -> None:
        assert math.isnan(discriminator_gap(torch.ones(2), torch.ones(0), torch.zeros(2)))
