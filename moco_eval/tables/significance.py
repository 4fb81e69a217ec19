"""Which cells of a column are the best, as far as their spread can tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance

ALPHA = 0.05

# In points: fewer than one image in a million, which is the arithmetic's and no run's.
NOISE = 1e-4


def welch(one: Sequence[float], two: Sequence[float]) -> float:
    """The two-sided p-value of Welch's t-test (Welch 1947, Biometrika 34) for equal means.

    Means that differ by less than ``NOISE`` are equal (1.0); others are not where neither sample
    has any spread (0.0).

    Args:
        one: At least two values.
        two: At least two values.
    """
    from scipy.special import stdtr

    errors = [variance(values) / len(values) for values in (one, two)]
    squared = sum(errors)
    difference = fmean(one) - fmean(two)
    if abs(difference) < NOISE:
        return 1.0
    if not has_spread(one) and not has_spread(two):
        return 0.0
    freedom = squared**2 / sum(
        error**2 / (len(values) - 1) for error, values in zip(errors, (one, two), strict=True)
    )
    return float(2 * stdtr(freedom, -abs(difference) / math.sqrt(squared)))


def has_spread(values: Sequence[float]) -> bool:
    """Whether values differ by more than ``NOISE``, as those of a deterministic protocol do not."""
    return max(values) - min(values) >= NOISE


def best(column: Sequence[Sequence[float]], *, higher_better: bool) -> list[bool]:
    """For each cell of a column whether it is among the best.

    Those are the best mean, and all that Welch's test at ``ALPHA`` does not find worse. A cell with
    one value has no spread, so that nothing can be told of it: it is never among them, and where it
    has the best mean, nothing is. A column with fewer than two numbers has no best.

    Args:
        column: The values of each cell; none where there is no number.
        higher_better: The direction of the metric.
    """
    none = [False] * len(column)
    means = {row: fmean(values) for row, values in enumerate(column) if values}
    if len(means) < 2:
        return none
    leader = (max if higher_better else min)(means, key=means.__getitem__)
    leads = [row for row in means if abs(means[row] - means[leader]) < NOISE]
    if any(len(column[row]) < 2 for row in leads):
        return none
    return [len(values) > 1 and welch(column[leader], values) >= ALPHA for values in column]
