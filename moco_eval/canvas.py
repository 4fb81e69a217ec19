"""What all pictures share: their style, their colours, and how they are written.

A picture is a PNG of 150 dpi with a CSV of the numbers that are drawn beside it, under the same
name. Colours are those of Okabe and Ito for lines and of Paul Tol for classes, which the
colour-blind tell apart; nothing is said by colour alone.
"""

from __future__ import annotations

import functools
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import font_manager, patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from moco_eval.files import atomic_file, write_text

Floats = NDArray[np.floating[Any]]

GREEN, VERMILLION, BLUE, GREY = "#009E73", "#D55E00", "#0072B2", "#6B7280"
# Light enough for black text: Tol's scheme "light".
CLASS_COLORS = ("#77AADD", "#EE8866", "#EEDD88", "#FFAABB", "#99DDFF", "#44BB99", "#BBCC33")

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#E5E7EB",
    "xtick.color": "#374151",
    "ytick.color": "#374151",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    # A class may be called "$x_1$"; no text of ours is a formula.
    "text.parse_math": False,
}

# Asked in this order for what DejaVu lacks: Chinese, Japanese, Korean, and then all the rest.
_OTHER_SCRIPTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Source Han Sans SC"),
    *("WenQuanYi Zen Hei", "Hiragino Sans GB", "Microsoft YaHei", "Arial Unicode MS"),
)

# How many characters of a heading fit into an inch.
_CHARACTERS_PER_INCH = 11.5


@contextmanager
def style() -> Iterator[None]:
    """A context in which figures are made and saved, so that all pictures look alike.

    A letter that no font of this machine has, as names may hold, is a box and no warning.
    """
    with mpl.rc_context(_STYLE | {"font.family": _fonts()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


@functools.cache
def _fonts() -> list[str]:
    """Matplotlib's own font, then those of other scripts that are installed."""
    installed = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in _OTHER_SCRIPTS if name in installed)]


def show(axes: Axes, image: Floats) -> None:
    """An image ``(H, W, 3)`` on 0-1, with neither ticks nor frame."""
    axes.imshow(np.clip(image, 0, 1), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def outlined(width: float = 3, color: str = "white") -> list[Any]:
    """The path effect that keeps a text readable on whatever lies below it."""
    return [patheffects.withStroke(linewidth=width, foreground=color)]


def level(axes: Axes, value: float, label: str, *, color: str = VERMILLION) -> None:
    """A dashed line across the axes with its meaning above its right end."""
    axes.axhline(value, color=color, linestyle="--", linewidth=1.4)
    axes.text(
        0.99,
        value,
        label,
        transform=axes.get_yaxis_transform(),
        ha="right",
        va="bottom",
        color=color,
        path_effects=outlined(),
    )


def shorten(text: str, width: int) -> str:
    """``text`` on one line of at most ``width`` characters, its middle behind an ellipsis.

    Names that begin alike often end differently.
    """
    line = " ".join(text.split())
    if len(line) <= width:
        return line
    num_last = width // 3
    return f"{line[: width - 1 - num_last].rstrip()}…{line[-num_last:].lstrip()}"


def save(figure: Figure, path: Path, *, title: str) -> None:
    """Write a figure as ``path`` under a heading, which may take several lines.

    Raises:
        OutputError: If the file cannot be written.
    """
    width = int(figure.get_figwidth() * _CHARACTERS_PER_INCH)
    lines = [textwrap.fill(line, width, break_on_hyphens=False) for line in title.splitlines()]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=11)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})


def save_numbers(frame: pd.DataFrame, path: Path) -> None:
    """Write the numbers of the picture ``path`` beside it.

    Raises:
        OutputError: If the file cannot be written.
    """
    write_text(path.with_suffix(".csv"), frame.to_csv(index=False, lineterminator="\n"))
