import math

import pytest
import torch
from prdc import compute_prdc
from torch import Tensor
from torch.testing import assert_close

from lightning_gan.metrics.cells import Cells
from lightning_gan.metrics.manifold import (
    copy_rate,
    copy_threshold,
    duplicates,
    nearest_distances,
    neighbour_radii,
    nn_ratio,
    precision_recall_density_coverage,
)
from lightning_gan.randomness import generator


def normal(*key: int | str, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=generator("manifold", *key))


def clusters(name: str, num: int, among: int, narrowest: float = 0.3) -> Tensor:
    """Make features in the first so many of ten clusters of different widths, which are about 15 apart."""
    chosen = torch.arange(num) % among
    centres, widths = 3 * normal("centres", shape=(10, 16)), torch.linspace(narrowest, 1, 10)
    return (centres[chosen] + widths[chosen, None] * normal(name, shape=(num, 16))).relu()


def shares(real: Tensor, fake: Tensor, k: int) -> dict[str, float]:
    return precision_recall_density_coverage(real, fake, neighbour_radii(real, k)[1], neighbour_radii(fake, k)[1], k)


def line(*points: float) -> Tensor:
    return torch.tensor(points)[:, None]


class TestNeighbourRadii:
    def test_of_points_on_a_line_by_hand(self) -> None:
        nearest, second = neighbour_radii(line(0, 1, 3, 7), 2)
        assert_close(nearest, torch.tensor([1.0, 1.0, 4.0, 16.0]).double())
        assert_close(second, torch.tensor([9.0, 4.0, 9.0, 36.0]).double())

    def test_an_equal_row_is_another_row(self) -> None:
        nearest, second = neighbour_radii(line(5, 5, 7), 2)
        assert_close(nearest, torch.tensor([0.0, 0.0, 4.0]).double())
        assert_close(second, torch.tensor([4.0, 4.0, 4.0]).double())

    @pytest.mark.parametrize("num", [2, 64, 65, 200])
    def test_equal_those_of_all_distances_in_float64(self, num: int) -> None:
        x = clusters("x", num, 10)
        distances = (
            torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist").square().fill_diagonal_(torch.inf)
        )
        expected = distances.sort().values
        for k in {1, min(5, num - 1)}:
            nearest, kth = neighbour_radii(x, k)
            assert_close(nearest, expected[:, 0])
            assert_close(kth, expected[:, k - 1])

    def test_of_too_few_rows_are_nan(self) -> None:
        nearest, kth = neighbour_radii(line(0, 1, 3), 3)
        assert_close(nearest, torch.tensor([1.0, 1.0, 4.0]).double())
        assert kth.isnan().all()
        assert torch.stack(neighbour_radii(line(0), 1)).isnan().all()


class TestPrecisionRecallDensityCoverage:
    def test_of_points_on_a_line_by_hand(self) -> None:
        real, fake = line(0, 1, 8, 12), line(1, 2, 6)
        # Balls of real points:  0: [-1, 1], 1: [0, 2], 8: [4, 12], 12: [8, 16]; 1 lies in two of them, 2 and 6 in one each.
        # Balls of fake points:  1: [0, 2], 2: [1, 3], 6: [2, 10]; 0, 1 and 8 lie in one of them, 12 does not.
        assert shares(real, fake, 1) == pytest.approx({"precision": 1, "recall": 0.75, "density": 4 / 3, "coverage": 0.75})

    @pytest.mark.parametrize("k", [3, 5])
    @pytest.mark.parametrize(
        ("real", "fake"),
        [
            (normal("x", shape=(300, 64)), normal("y", shape=(300, 64))),
            (normal("x", shape=(300, 8)), 0.9 * normal("y", shape=(170, 8)) + 0.2),
            (normal("x", shape=(130, 8)), 1.3 * normal("y", shape=(400, 8))),
            (clusters("x", 400, 10), clusters("y", 300, 10)),
            (clusters("x", 400, 10), clusters("y", 300, 4)),
            (clusters("x", 400, 10), clusters("y", 300, 10) + 0.3),
            (clusters("x", 400, 10), 1000 + clusters("y", 300, 10)),
            # In float32 the distances within these would be lost beside those between.
            (clusters("x", 400, 10, narrowest=0.003), clusters("y", 300, 10, narrowest=0.003)),
        ],
    )
    def test_equals_the_prdc_package(self, real: Tensor, fake: Tensor, k: int) -> None:
        expected = compute_prdc(real.double().numpy(), fake.double().numpy(), k)
        assert shares(real, fake, k) == pytest.approx({name: float(value) for name, value in expected.items()}, abs=1e-6)

    def test_identical_features_are_precise_and_covered_though_prdc_says_not(self) -> None:
        # All distances and radii are 0, and prdc asks for distances below the radius: https://github.com/clovaai/generative-evaluation-prdc/issues/7
        real, fake = normal("one", shape=(1, 48)).expand(100, 48), normal("one", shape=(1, 48)).expand(70, 48)
        assert set(compute_prdc(real.numpy(), fake.numpy(), 5).values()) == {0}
        assert shares(real, fake, 5) == {"precision": 1, "recall": 1, "density": 20, "coverage": 1}

    def test_a_generator_of_one_training_image_is_precise(self) -> None:
        # Its balls have no extent, and the distances to the image itself must not be lost in rounding.
        real = clusters("x", 200, 10)
        scores = shares(real, real[17].expand(90, 16), 5)
        assert scores["precision"] == 1
        assert scores["recall"] == 1 / 200
        assert scores["coverage"] < 0.1

    def test_real_images_that_are_there_many_times_are_covered_by_their_copies(self) -> None:
        # Here it is the real balls that have no extent.
        images = clusters("x", 40, 10)
        scores = shares(images.repeat(7, 1), images[:30].repeat(7, 1), 5)
        assert scores == pytest.approx({"precision": 1, "recall": 0.75, "density": 7 / 5, "coverage": 0.75})

    def test_an_offset_common_to_all_features_does_not_matter(self) -> None:
        # In float32, 1000^2 would leave nothing to tell distances apart with.
        real, fake = clusters("x", 400, 10), clusters("y", 300, 10) + 0.1
        exact = [(1000 + features.double()).float() for features in (real, fake)]  # rounded here, not by the distances
        expected = compute_prdc(*(features.double().numpy() for features in exact), 5)
        assert shares(exact[0], exact[1], 5) == pytest.approx(
            {name: float(value) for name, value in expected.items()}, abs=1e-6
        )

    def test_too_few_images_of_one_side_leave_what_the_other_side_says(self) -> None:
        real, fake = line(0, 1, 3, 7), line(1, 2)
        few_fake, few_real = shares(real, fake, 2), shares(fake, real, 2)
        assert few_fake["precision"] == few_fake["coverage"] == few_real["recall"] == 1
        assert {name for name, value in few_fake.items() if math.isnan(value)} == {"recall"}
        assert {name for name, value in few_real.items() if math.isnan(value)} == {"precision", "density", "coverage"}

    def test_dropped_clusters_lower_recall_and_coverage_and_noise_lowers_precision(self) -> None:
        real = clusters("x", 500, 10)
        whole, half, one = (shares(real, clusters("y", 500, among), 5) for among in (10, 5, 1))
        noisy = shares(real, clusters("y", 500, 10) + 0.5 * normal("noise", shape=(500, 16)), 5)
        assert whole["recall"] > half["recall"] > one["recall"]
        assert whole["coverage"] > half["coverage"] > one["coverage"]
        assert noisy["precision"] < 0.5 * whole["precision"]
        assert noisy["density"] < 0.5 * whole["density"]


class TestNearestDistances:
    def test_of_points_on_a_line_by_hand(self) -> None:
        assert_close(nearest_distances(line(0, 2.5, 9), line(1, 3, 7)), torch.tensor([1.0, 0.25, 4.0]).double())

    def test_equal_those_of_all_distances_in_float64_whatever_the_offset(self) -> None:
        queries, others = 1000 + clusters("x", 130, 10), 1000 + clusters("y", 200, 10)
        expected = torch.cdist(queries.double(), others.double(), compute_mode="donot_use_mm_for_euclid_dist").amin(1).square()
        assert_close(nearest_distances(queries, others), expected)

    def test_of_copies_are_zero_however_large_the_features(self) -> None:
        others = 1e4 * normal("x", shape=(500, 300))
        assert (nearest_distances(others[::3], others) == 0).all()


class TestCells:
    @pytest.mark.parametrize("shift", [0.0, 1000.0])
    def test_pass_over_most_pairs_of_clustered_features_and_change_nothing(
        self, shift: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, fake = shift + clusters("x", 900, 10, narrowest=0.003), shift + clusters("y", 700, 10, narrowest=0.003)
        expected = shares(real, fake, 5), nearest_distances(fake, real)
        monkeypatch.setattr("lightning_gan.metrics.cells.CELLS", 1)
        whole = shares(real, fake, 5), nearest_distances(fake, real)
        assert expected[0] == whole[0]
        assert_close(expected[1], whole[1])

    def test_of_clusters_are_seldom_near(self) -> None:
        x = clusters("x", 900, 10).double()
        cells, to_self = Cells(x, torch.zeros(16).double()), torch.zeros(900).double()
        near = torch.stack([cells.near(i, distance, to_self) for i, distance in enumerate(torch.cdist(x, cells.pivots).T)], 1)
        assert near.gather(1, cells.cell[:, None]).all()
        assert near.double().mean() < 0.2

    def test_that_are_large_are_worked_on_in_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real, fake = clusters("x", 300, 10), clusters("y", 200, 10)
        expected = shares(real, fake, 5)
        monkeypatch.setattr("lightning_gan.metrics.cells.PART", 7)
        assert shares(real, fake, 5) == expected


class TestCopies:
    def test_one_in_a_hundred_of_the_held_out_images_is_within_the_threshold(self) -> None:
        # Of 101 distances 0, 1, ..., 100 the 1 % quantile is 1.
        held_out = (100 + torch.arange(101.0)).square()
        assert copy_threshold(held_out) == pytest.approx(101)
        assert copy_rate(held_out, 101) == pytest.approx(2 / 101)

    def test_are_found_among_generated_images(self) -> None:
        train, held_out, fresh = (clusters(name, 600, 10) for name in ("train", "held out", "fresh"))
        threshold = copy_threshold(nearest_distances(held_out, train))
        half = torch.cat([fresh[:300], train[:300]])
        assert copy_rate(nearest_distances(fresh, train), threshold) < 0.03
        assert copy_rate(nearest_distances(half, train), threshold) == pytest.approx(0.5, abs=0.03)
        assert copy_rate(nearest_distances(train, train), threshold) == 1

    def test_exact_ones_count_even_where_held_out_images_are_copies_themselves(self) -> None:
        # 5 % of the held-out images are, so that the quantile is 0. The second generated image is a copy but for rounding.
        held_out = torch.cat([torch.zeros(5), torch.full((95,), 4.0)])
        threshold = copy_threshold(held_out)
        assert threshold == pytest.approx(0.002)
        assert copy_rate(torch.tensor([0.0, 1e-7, 1.0, 4.0]), threshold) == 0.5
        assert copy_rate(held_out, threshold) == pytest.approx(0.05)

    def test_ratio_of_medians_by_hand(self) -> None:
        assert nn_ratio(torch.tensor([1.0, 4.0, 1e6]), torch.tensor([0.0, 16.0, 16.0])) == pytest.approx(0.5)

    def test_are_nan_without_held_out_images(self) -> None:
        none, fake = torch.zeros(0), torch.ones(3)
        assert math.isnan(copy_threshold(none))
        assert math.isnan(copy_rate(fake, copy_threshold(none)))
        assert math.isnan(nn_ratio(fake, none))


class TestDuplicates:
    def test_by_hand(self) -> None:
        # The median radius is 10: duplicates are within 0.1.
        radii = torch.tensor([1.0, 10.0, 1000.0]).square()
        assert duplicates(torch.tensor([0.0, 0.099, 0.101, 10.0]).square(), radii) == 0.5

    def test_of_a_collapsed_generator_are_all_and_of_real_images_none(self) -> None:
        real = clusters("x", 300, 10)
        radii = neighbour_radii(real, 5)[1]
        assert duplicates(neighbour_radii(real, 5)[0], radii) == 0
        assert duplicates(neighbour_radii(real[:20].repeat(5, 1), 5)[0], radii) == 1

    def test_among_too_few_images_are_nan(self) -> None:
        radii = torch.ones(3)
        assert math.isnan(duplicates(neighbour_radii(line(0), 1)[0], radii))
        assert math.isnan(duplicates(torch.ones(2), radii * math.nan))
