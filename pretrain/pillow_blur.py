"""The kernel of Pillow's GaussianBlur, for engines that must blur as Pillow does."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

NUM_PASSES = 3


def blur_taps(sigma: float) -> npt.NDArray[np.float32]:
    """The weights with which Pillow's Gaussian blur mixes a row's pixels, then a column's.

    Pillow's blur is no Gaussian but three box blurs in a row, whose boxes end in pixels of partial
    weight (Gwosdek et al., Theoretical Foundations of Gaussian Convolution by Extended Box
    Filtering, 2011). Three boxes in a row are one kernel: theirs, convolved. On noise a true
    Gaussian is up to 10 of 255 away; this kernel 1, since Pillow rounds after every box.

    Args:
        sigma: Standard deviation in pixels, above 0.

    Returns:
        An odd number of weights that sum to 1, at most 13 for a sigma of at most 2.
    """
    radius = _box_radius(sigma)
    reach = math.ceil(radius)
    distance = np.abs(np.arange(-reach, reach + 1))
    box = np.clip(radius + 1 - distance, 0, 1) / (2 * radius + 1)
    taps = np.ones(1)
    for _ in range(NUM_PASSES):
        taps = np.convolve(taps, box)
    return taps.astype(np.float32)


def _box_radius(sigma: float) -> float:
    """The radius, whole part and share of the edge pixel, of each pass's box."""
    variance = sigma**2 / NUM_PASSES
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    share = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    return whole + share / (6 * (variance - (whole + 1) ** 2))
