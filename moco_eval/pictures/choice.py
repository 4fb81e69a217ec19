"""Which test images are shown as the best, and which as the worst."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def best_and_worst(scores: Array, sizes: Array, *, number: int) -> tuple[list[int], list[int]]:
    """The images with the highest and the lowest scores; none is both.

    Of images that score alike those with more to find come first, then the earlier ones. An image
    with nothing to find is not the best, nor is one in which nothing is right; an image in which
    nothing is wrong is not the worst.

    Args:
        scores: ``(M,)`` in percent; no number where an image has no score: it is not shown.
        sizes: ``(M,)``, how much there is to find, such as the number of objects.
        number: At most so many of each; of fewer images than twice that, half.

    Returns:
        The indices of the best, best first, and of the worst, worst first.
    """
    places = np.arange(len(scores))
    known = np.isfinite(scores)
    values = np.where(known, scores, 0)
    best = np.lexsort((places, -sizes, -values))
    can_be_best = known & (sizes > 0) & (values > 0)
    num_best = min(number, (int(known.sum()) + 1) // 2)
    picked: list[int] = best[can_be_best[best]][:num_best].tolist()
    worst = np.lexsort((places, -sizes, values))
    can_be_worst = known & (values < 100) & ~np.isin(places, picked)
    return picked, worst[can_be_worst[worst]][:number].tolist()
