"""Where generated images lie among the real ones: precision, recall, density, coverage, copies and duplicates.

Pure functions on features, after Kynkäänniemi et al. 2019 and Naeem et al. 2020. Distances are Euclidean, and a tensor of them
holds their squares. They are found as |x|^2 + |y|^2 - 2 x.y after centring, in float64: in float32, which takes two thirds of
the time, a few pairs in a million come to lie on the wrong side of a ball's surface, and of tight clusters far apart most do.
"""

import math

import torch
from torch import Tensor

from lightning_gan.metrics.cells import Cells

ROWS = 512
"""Distances of so many rows at most are found at once, to `cells.PART` others at most: no memory grows with all pairs."""

RESOLUTION = 2.0**-40
"""Squared distances below this share of |x|^2 count as 0: they may be rounding, of which 2^-47 was measured with D = 4096."""


def neighbour_radii(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find how far each row's nearest and k-th nearest other rows are; an equal row is another row.

    Args:
        x: (N, D).

    Returns:
        Squared distances, (N,) and (N,), float64; nan where there are not so many other rows.
    """
    nearest, kth = torch.full((2, len(x)), math.nan, dtype=torch.float64, device=x.device)
    found = min(k, len(x) - 1)
    if found < 1:
        return nearest, kth
    neighbours = _nearest(x, None, found)
    return neighbours[:, 0], neighbours[:, -1] if found == k else kth


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
    inside, covered, precise = _in_balls(real, real_radii, fake)
    _, _, recalled = _in_balls(fake, fake_radii, real)
    by_real, by_fake = (math.nan if radii.isnan().any() else 1.0 for radii in (real_radii, fake_radii))
    return {
        "precision": by_real * precise / len(fake),
        "recall": by_fake * recalled / len(real),
        "density": by_real * inside / (k * len(fake)),
        "coverage": by_real * covered / len(real),
    }


def nearest_distances(queries: Tensor, others: Tensor) -> Tensor:
    """Find how far each of `queries`, (N, D), is from the nearest of `others`, (M, D); a copy is at 0.

    Returns:
        Squared distances, (N,), float64.
    """
    return _nearest(queries, others, 1)[:, 0]


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


def _nearest(x: Tensor, others: Tensor | None, k: int) -> Tensor:
    """Find how far the k nearest of `others`, (M, D), or of the other rows, are from each row of `x`, (N, D).

    Returns:
        Squared distances, (N, k), ascending, float64.
    """
    among = x if others is None else others
    centre = _centre(among)
    cells = Cells(among, centre)
    x = x.double() - centre
    norms = x.square().sum(1)
    to_pivots = torch.cdist(x, cells.pivots)
    own = cells.cell if others is None else to_pivots.argmin(1)
    least = x.new_full((len(x), k), math.inf)
    for first in (True, False):  # its own cell says how far at most the others need to be looked at
        for cell, columns in cells.rows():
            looking = own == cell
            if not first:
                looking = ~looking & cells.near(cell, to_pivots[:, cell], least[:, -1].sqrt())
            y = among[columns].double() - centre  # all of which are never in float64 at once
            y_norms = y.square().sum(1)
            for rows in looking.nonzero().flatten().split(ROWS):
                block = _distances(_relative_distances(x[rows], y, y_norms), norms[rows, None])
                if first and others is None:
                    block[rows[:, None] == columns] = math.inf  # itself: told by its place, since others may be as near
                nearer = block.amin(1) < least[rows, -1]
                rows = rows[nearer]
                least[rows] = torch.cat([least[rows], block[nearer]], 1).topk(k, largest=False).values
    return least


def _in_balls(x: Tensor, radii: Tensor, y: Tensor) -> tuple[int, int, int]:
    """Find which of `y`, (M, D) float64, lie in balls about `x`, (N, D) float64, of squared radii (N,).

    Returns:
        How many pairs of a ball and what lies in it there are, how many balls that are not empty, and how many of `y` in any.
    """
    cells = Cells(y, torch.zeros_like(y[0]))
    x_norms, y_norms = x.square().sum(1), y.square().sum(1)
    reach = radii.maximum(RESOLUTION * x_norms) - x_norms  # to be compared with distances short of |x|^2
    to_pivots = torch.cdist(x, cells.pivots)
    pairs = 0
    full, caught = torch.zeros_like(x_norms, dtype=torch.bool), torch.zeros_like(y_norms, dtype=torch.bool)
    for cell, columns in cells.rows():
        tile, tile_norms = y[columns], y_norms[columns]
        for rows in cells.near(cell, to_pivots[:, cell], radii.sqrt()).nonzero().flatten().split(ROWS):
            inside = _relative_distances(x[rows], tile, tile_norms) <= reach[rows, None]
            pairs += int(inside.sum())
            full[rows] |= inside.any(1)
            caught[columns] |= inside.any(0)
    return pairs, int(full.sum()), int(caught.sum())


def _relative_distances(x: Tensor, y: Tensor, y_norms: Tensor) -> Tensor:
    """Squared distances short of |x|^2, which orders the columns of a row alike: |y|^2 - 2 x.y, (N, D), (M, D) -> (N, M)."""
    return torch.addmm(y_norms, x, y.T, alpha=-2)


def _distances(relative: Tensor, norms: Tensor) -> Tensor:
    """Add |x|^2, (N,), (N,) -> (N,)."""
    distances = relative + norms
    return distances.where(distances > RESOLUTION * norms, 0)
