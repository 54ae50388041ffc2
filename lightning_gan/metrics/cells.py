"""Rows divided into cells, so that those near a point are found without measuring how far all others are.

Only rows that cannot be near enough are passed over, so that what is found is exact. Of a classifier's features, which lie in
clusters, a tenth of all pairs are left to be measured; of rows that are all about equally far, all.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

CELLS = 64
"""More leave fewer pairs to be measured, in more and smaller matrix products: 64 took the least time for 10,000 and 60,000."""

PART = 2_000
"""No more rows than these are worked on at once, however many a cell has."""

SLACK = 2.0**-17
"""Distances count as wrong by up to this share of the greatest |x|: rounding, and that the least of them are taken for 0, make
2^-20 in each of the three that are compared."""


class Cells:
    """Each row belongs to the first rows' nearest, its cell's pivot.

    By the triangle inequality, a row of a cell is no nearer to a point than its pivot is, less the cell's radius.

    Args:
        x: (M, D), in any order that is not sorted.
        centre: (D,), which is taken off.

    Attributes:
        pivots: (P, D) float64.
        cell: (M,) int64.
        radii: (P,) float64, from a pivot to the farthest row of its cell.
    """

    def __init__(self, x: Tensor, centre: Tensor) -> None:
        self.pivots = x[:CELLS].double() - centre
        nearest = [torch.cdist(part.double() - centre, self.pivots).min(1) for part in x.split(PART)]
        distance, self.cell = (torch.cat(parts) for parts in zip(*nearest, strict=True))
        self.radii = distance.new_zeros(len(self.pivots)).scatter_reduce(0, self.cell, distance, "amax")
        self.slack = SLACK * float((self.pivots.norm(dim=1) + self.radii).max())

    def near(self, cell: int, to_pivot: Tensor, within: Tensor) -> Tensor:
        """Tell of which points a cell may have rows within a distance.

        Args:
            cell: its number.
            to_pivot: (N,), of the points, from `torch.cdist`.
            within: (N,), distances.

        Returns:
            (N,) bool; False where `within` is nan.
        """
        slack = self.slack + SLACK * to_pivot  # a point's |x| is no more than the pivot's and this
        return to_pivot - self.radii[cell] <= within + slack

    def rows(self) -> Iterator[tuple[int, Tensor]]:
        """Yield cells and their rows' numbers, a large cell in parts."""
        sizes = self.cell.bincount(minlength=len(self.pivots)).tolist()
        for cell, rows in enumerate(self.cell.argsort(stable=True).split(sizes)):
            for part in rows.split(PART):
                if len(part):
                    yield cell, part
