"""Where generated images lie among the real ones: precision, recall, density, coverage, copies and duplicates.

Pure functions on features, after Kynkäänniemi et al. 2019 and Naeem et al. 2020. Distances are Euclidean, and a tensor of them
holds their squares. They are found as |x|^2 + |y|^2 - 2 x.y after centring, in float64: in float32, which takes two thirds of
the time, a few pairs in a million come to lie on the wrong side of a ball's surface, and of tight clusters far apart most do.
"""

import math

import torch
from torch import Tensor

ROWS = 32
"""Distances are computed in blocks of so many rows: small enough for a CPU's cache, large enough for a matrix product."""

TILE = 2_000
"""Where only the least distance of a row counts, blocks are of so many columns and an eighth as many rows: twice as fast."""

RESOLUTION = 2.0**-40
"""Squared distances below this share of |x|^2 count as 0: they may be rounding, of which 2^-47 was measured with D = 4096."""


def neighbour_radii(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find how far each row's nearest and k-th nearest other rows are; an equal row is another row.

    Args:
        x: (N, D).

    Returns:
        Squared distances, (N,) and (N,), float64; nan where there are not so many other rows.
    """
    x = x.double() - _centre(x)
    norms = x.square().sum(1)
    nearest, kth = x.new_full((2, len(x)), math.nan)
    found = min(k, len(x) - 1)
    if found < 1:
        return nearest, kth
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        block = _relative_distances(x[rows], x, norms)
        block.diagonal(start).fill_(math.inf)  # itself: told by its place, since others may be as near
        neighbours = block.topk(found, largest=False).values
        nearest[rows] = _distances(neighbours[:, 0], norms[rows])
        if found == k:
            kth[rows] = _distances(neighbours[:, -1], norms[rows])
    return nearest, kth


def precision_recall_density_coverage(
    real: Tensor, fake: Tensor, real_radii: Tensor, fake_radii: Tensor, k: int
) -> dict[str, float]:
    """Measure how much of each set lies in balls about the other's points that reach to their k-th nearest neighbours.

    Precision: share of generated images in the ball of a real one; recall: share of real images in the ball of a generated one
    (Kynkäänniemi et al. 2019, Eq. 1 and 2). Density: in how many balls of real images a generated one lies, over k; coverage:
    share of real images with a generated one in their ball (Naeem et al. 2020, Section 3). Recall and coverage grow with the
    number of generated images, so scores compare at equal numbers only.

    A ball's surface belongs to it, so that images that are all the same are precise and covered.

    Args:
        real: (N, D).
        fake: (M, D).
        real_radii: (N,), from `neighbour_radii(real, k)`.
        fake_radii: (M,), from `neighbour_radii(fake, k)`.

    Returns:
        The four by name; nan for those whose radii are.
    """
    centre = _centre(real)
    real, fake = real.double() - centre, fake.double() - centre
    real_norms, fake_norms = real.square().sum(1), fake.square().sum(1)
    real_reach = real_radii.maximum(RESOLUTION * real_norms) - real_norms  # to be compared with distances short of |x|^2
    fake_radii = fake_radii.maximum(RESOLUTION * fake_norms)

    recalled = inside = covered = real_norms.new_zeros((), dtype=torch.int64)
    least = torch.full_like(fake_norms, math.inf)  # (M,), how far outside the ball of a real image that it is deepest in
    for start in range(0, len(real), ROWS):
        rows = slice(start, start + ROWS)
        block = _relative_distances(real[rows], fake, fake_norms)  # (ROWS, M)
        recalled = recalled + ((block - fake_radii).amin(1) <= -real_norms[rows]).sum()
        block -= real_reach[rows, None]
        inside = inside + (block <= 0).sum()
        covered = covered + (block.amin(1) <= 0).sum()
        least = least.minimum(block.amin(0))

    by_real, by_fake = (math.nan if radii.isnan().any() else 1.0 for radii in (real_radii, fake_radii))
    return {
        "precision": by_real * (least <= 0).double().mean().item(),
        "recall": by_fake * recalled.item() / len(real),
        "density": by_real * inside.item() / (k * len(fake)),
        "coverage": by_real * covered.item() / len(real),
    }


def nearest_distances(queries: Tensor, others: Tensor) -> Tensor:
    """Find how far each of `queries`, (N, D), is from the nearest of `others`, (M, D); a copy is at 0.

    Returns:
        Squared distances, (N,), float64.
    """
    centre = _centre(others)
    queries = queries.double() - centre
    nearest = queries.new_full((len(queries),), math.inf)
    for tile in others.split(TILE):  # (TILE, D), all of which are never in float64 at once
        tile = tile.double() - centre
        norms = tile.square().sum(1)
        blocks = [_relative_distances(rows, tile, norms).amin(1) for rows in queries.split(TILE // 8)]
        nearest = nearest.minimum(torch.cat(blocks))
    return _distances(nearest, queries.square().sum(1))


def copy_threshold(held_out: Tensor) -> float:
    """Say how near to a training image is suspicious: 1 % of images that nobody can have copied are nearer.

    Where a hundredth or more of the held-out images are training images, too, that would be 0. Then it is a thousandth of the
    median distance, so that exact copies count however an extractor rounds, and the copy rate of a perfect generator is the
    share of such images, not 0.01.

    Args:
        held_out: (N,), squared distances of held-out real images to their nearest training image.

    Returns:
        A distance; nan if there are no held-out images.
    """
    if len(held_out) == 0:
        return math.nan
    distances = held_out.sqrt()
    return max(distances.quantile(0.01).item(), 0.001 * distances.median().item())


def copy_rate(fake: Tensor, threshold: float) -> float:
    """Share of generated images that are as near to a training image as a copy; about 0.01 of a perfect generator's.

    Args:
        fake: (N,), squared distances of generated images to their nearest training image.
        threshold: from `copy_threshold`.
    """
    return math.nan if math.isnan(threshold) else (fake.sqrt() <= threshold).double().mean().item()


def nn_ratio(fake: Tensor, held_out: Tensor) -> float:
    """Say how near generated images are to training images, beside held-out ones: median distance over median distance.

    Args:
        fake: (N,), squared distances of generated images to their nearest training image.
        held_out: (M,), those of held-out real images.
    """
    return (fake.median() / held_out.median()).sqrt().item()


def duplicates(nearest: Tensor, real_radii: Tensor) -> float:
    """Share of generated images with another within a hundredth of the median distance between neighbouring real images.

    Args:
        nearest: (N,), squared distances of generated images to their nearest other, from `neighbour_radii`.
        real_radii: (M,), squared distances of real images to their k-th nearest other.
    """
    typical = real_radii.median()
    if nearest.isnan().any() or typical.isnan():
        return math.nan
    return (nearest <= 0.01**2 * typical).double().mean().item()


def _centre(x: Tensor) -> Tensor:
    return x.double().mean(0)


def _relative_distances(x: Tensor, y: Tensor, y_norms: Tensor) -> Tensor:
    """Squared distances short of |x|^2, which orders the columns of a row alike: |y|^2 - 2 x.y, (N, D), (M, D) -> (N, M)."""
    return torch.addmm(y_norms, x, y.T, alpha=-2)


def _distances(relative: Tensor, norms: Tensor) -> Tensor:
    """Add |x|^2, (N,), (N,) -> (N,)."""
    distances = relative + norms
    return distances.where(distances > RESOLUTION * norms, 0)
