"""What tells classes apart in one picture: colours that the colour-blind tell apart, and lines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from moco_eval.canvas import BLUE, GREEN, VERMILLION

ORANGE, SKY, YELLOW, PURPLE = "#E69F00", "#56B4E9", "#F0E442", "#CC79A7"

# Colour, marker and dashes differ at once: a print in grey keeps two of them.
LINES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "marker": "o", "linestyle": "-"},
    {"color": VERMILLION, "marker": "s", "linestyle": "--"},
    {"color": GREEN, "marker": "D", "linestyle": "-."},
    {"color": PURPLE, "marker": "v", "linestyle": ":"},
    {"color": ORANGE, "marker": "P", "linestyle": (0, (5, 1, 1, 1, 1, 1))},
    {"color": "#000000", "marker": "X", "linestyle": (0, (1, 1))},
)
# Okabe and Ito's without black, which is the frame of what they fill; then of Paul Tol's each time
# the one that differs most in CIELAB from all before it, from grey and from white, as the least
# different of three views has it: the usual one, protanopia and deuteranopia (Machado et al., IEEE
# TVCG 15, 2009).
FILLS = (
    *(ORANGE, SKY, GREEN, YELLOW, PURPLE, VERMILLION, BLUE),
    *("#222255", "#EEDD88", "#A50026", "#332288", "#5AAE61", "#CCDDAA", "#225555"),
    *("#99DDFF", "#EE99AA", "#225522", "#762A83", "#999933", "#AA3377"),
)


def colors_of(labels: Iterable[int]) -> dict[int, str]:
    """A colour for each class that a picture shows, so that few classes are easy to tell apart.

    Args:
        labels: The classes, the most important first; what comes again is passed over. From the
            21st on colours are used again: a class is never named by its colour alone.
    """
    distinct = list(dict.fromkeys(labels))
    return {label: FILLS[place % len(FILLS)] for place, label in enumerate(distinct)}


def ink_on(color: str) -> str:
    """Black or white, whichever is easier to read on ``color``."""
    # Relative luminance and contrast of WCAG 2.2; 0.179 contrasts as much with either.
    channels = rgb_of(color) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ (0.2126, 0.7152, 0.0722) > 0.179 else "white"


def rgb_of(color: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A hexadecimal colour's red, green and blue from 0 to 255, ``(3,)``."""
    return np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)], dtype=np.float64)
