"""How far two orders of the encoders agree, and how far the order hangs on the seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEAST = 3  # of two encoders every order is one of two


class Agreement(NamedTuple):
    """Of two lines, by their places."""

    one: int
    two: int
    tau: float


def tau_b(lines: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kendall's tau-b (Kendall 1945, Biometrika 33) between all pairs of lines.

    It is the cosine between the signs of all differences within each line. A pair of lines has
    only the places where both have a number; fewer than ``LEAST`` of them, or a line that is all
    ties there, give NaN.

    Args:
        lines: (K, N), NaN where there is no number.

    Returns:
        (K, K).
    """
    first, second = np.triu_indices(lines.shape[1], k=1)
    signs = np.sign(lines[:, first] - lines[:, second])
    has_both = (~np.isnan(signs)).astype(float)
    signs = np.nan_to_num(signs)
    untied = (signs**2) @ has_both.T  # pairs that the first does not tie, where both have numbers
    common = (~np.isnan(lines)).astype(float)
    is_defined = (common @ common.T >= LEAST) & (untied > 0) & (untied.T > 0)
    scale = np.sqrt(np.where(is_defined, untied * untied.T, 1))
    return np.where(is_defined, signs @ signs.T / scale, np.nan)


def between(columns: Sequence[Sequence[float | None]]) -> list[Agreement]:
    """The agreement of each two columns that can be compared.

    Args:
        columns: The number of each encoder, in one order; higher is better in all of them.
    """
    if not columns:
        return []
    tau = tau_b(np.array(columns, dtype=float))
    return [
        Agreement(int(one), int(two), float(tau[one, two]))
        for one, two in zip(*np.triu_indices(len(columns), k=1), strict=True)
        if not np.isnan(tau[one, two])
    ]


def across_seeds(column: Sequence[Mapping[int, float]]) -> float | None:
    """The mean agreement between the orders that two seeds give; None where no two can be compared.

    Args:
        column: The number of each encoder by seed.
    """
    seeds = sorted({seed for cell in column for seed in cell})
    lines = [[cell.get(seed) for cell in column] for seed in seeds]
    found = [agreement.tau for agreement in between(lines)]
    return fmean(found) if found else None
