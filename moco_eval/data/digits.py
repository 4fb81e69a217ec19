"""The embedded images: scikit-learn's 1,797 handwritten digits, 8x8 pixels, with a fixed split."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

NUM_TRAIN = 1437
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@functools.cache
def load() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """All digits ``(1797, 8, 8)`` with ink from 0 to 16, and their classes ``(1797,)``."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target


def digit_split() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the 1,437 training and the 360 test digits: always the same."""
    order = np.random.RandomState(0).permutation(len(load()[0]))
    return order[:NUM_TRAIN], order[NUM_TRAIN:]
