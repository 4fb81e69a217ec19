"""Average precision of small, medium and large objects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from moco_eval.canvas import BLUE, CLASS_COLORS, GREY, VERMILLION, style
from moco_eval.pictures.writing import write

Array = NDArray[Any]

SIZES = ("small", "medium", "large")
# COCO's bounds: the area of a square of so many pixels a side.
_BOUNDS = ("below 32²", "32² to 96²", "above 96²")
# Bars of one kind of answer differ from another's in more than colour.
_LOOKS: tuple[dict[str, Any], ...] = (
    {"color": BLUE},
    {"color": CLASS_COLORS[1], "hatch": "//", "edgecolor": VERMILLION},
    {"color": CLASS_COLORS[6], "hatch": "..", "edgecolor": GREY},
)


def draw(by_kind: Mapping[str, Array], path: Path, *, title: str) -> Path | None:
    """Draw average precision by the size of objects, a bar each for boxes, masks and keypoints.

    Args:
        by_kind: For each kind of answer ``(3,)`` in percent: small, medium, large; no number where
            the test set has none.
        path: The picture.
        title: What it is of.

    Returns:
        The picture; None where there is no number.
    """
    rows = [
        {"of": kind, "size": size, "pixels": bounds, "AP": float(value)}
        for kind, values in by_kind.items()
        for size, bounds, value in zip(SIZES, _BOUNDS, values, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["of", "size", "pixels", "AP"])
    some = frame.dropna()
    if some.empty:
        return None
    said = ", ".join(f"{r['size']} {r['of']} {r['AP']:.1f}" for r in some.to_dict("records"))
    with style():
        return write(
            _bars(by_kind),
            path,
            title=f"{title}\nAverage precision by the size of objects (%)",
            alt=f"Average precision by the size of objects, in percent: {said}.",
            numbers=frame.round(4),
        )


def _bars(by_kind: Mapping[str, Array]) -> Figure:
    num_kinds = len(by_kind)
    figure = Figure(figsize=(6.8, 3.8), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / max(num_kinds, 2)
    for number, (kind, look) in enumerate(zip(by_kind, _LOOKS, strict=False)):
        places = np.arange(len(SIZES)) + width * (number - (num_kinds - 1) / 2)
        axes.bar(places, np.nan_to_num(by_kind[kind]), width=0.94 * width, label=kind, **look)
        for place, value in zip(places, by_kind[kind], strict=True):
            missing = bool(np.isnan(value))
            axes.annotate(
                "none" if missing else f"{value:.1f}",
                (place, 0 if missing else value),
                (0, 3),
                textcoords="offset points",
                ha="center",
                color=GREY if missing else "black",
                style="italic" if missing else "normal",
            )
    labels = [f"{size}\n{bounds} pixels" for size, bounds in zip(SIZES, _BOUNDS, strict=True)]
    axes.set_xticks(range(len(SIZES)), labels)
    highest = max(np.nan_to_num(values).max() for values in by_kind.values())
    # Low numbers get room; a scale that ends at 3 would flatter them.
    axes.set(ylabel="average precision (%)", ylim=(0, max(1.15 * highest, 20)))
    axes.tick_params(axis="x", length=0)
    if num_kinds > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=num_kinds)
    return figure
