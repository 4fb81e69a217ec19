"""How precise detections are as more objects are found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from moco_eval.canvas import GREY, shorten, style
from moco_eval.pictures.looks import LINES
from moco_eval.pictures.writing import classes, write

Array = NDArray[Any]

# So many classes have a line that one can tell; of more, the best and the worst have.
MAX_LINES = 6
NUM_SHOWN = 3

_NAME_WIDTH = 24


def draw(precision: Array, names: Sequence[str], path: Path, *, title: str) -> Path | None:
    """Draw precision by recall at IoU 0.5: each class faintly, their mean boldly.

    Args:
        precision: ``(C, 101)`` on 0-1 at recall 0, 0.01 to 1; no numbers where the test set does
            not show the class.
        names: Of the classes.
        path: The picture.
        title: What it is of.

    Returns:
        The picture; None where no class has a number.
    """
    precision = np.asarray(precision, np.float64)
    shown = np.flatnonzero(np.isfinite(precision).all(axis=1))
    if not len(shown):
        return None
    recall = np.linspace(0, 1, precision.shape[1])
    curves, own = precision[shown], [names[i] for i in shown.tolist()]
    mean = curves.mean(axis=0)
    # The mean over these recalls is COCO's AP50; VOC's and Cityscapes' is taken otherwise.
    areas = 100 * curves.mean(axis=1)
    order = np.lexsort((shown, -areas))
    best, worst = (own[order[place]] for place in (0, -1))
    columns = {"recall": recall, "mean": mean}
    frame = pd.concat([pd.DataFrame(columns), pd.DataFrame(curves.T, columns=own)], axis=1)
    with style():
        return write(
            _curves(recall, curves, own, order),
            path,
            title=f"{title}\nPrecision and recall at IoU 0.5: {classes(len(shown))}, area "
            f"under their mean {areas.mean():.1f} %",
            alt=f"Precision by recall at IoU 0.5 of {classes(len(shown))}, area under "
            f"their mean {areas.mean():.1f} %, from {best} with {areas[order[0]]:.1f} to {worst} "
            f"with {areas[order[-1]]:.1f}.",
            numbers=frame.round(4),
        )


def _curves(recall: Array, curves: Array, names: Sequence[str], order: Array) -> Figure:
    figure = Figure(figsize=(9.2, 5.4), layout="constrained")
    axes = figure.subplots()
    areas = 100 * curves.mean(axis=1)
    told = order
    if len(curves) > MAX_LINES:
        told = np.concatenate([order[:NUM_SHOWN], order[-NUM_SHOWN:]])
        _draw_faintly(axes, recall, np.delete(curves, told, axis=0))
    for look, place in zip(LINES, told.tolist(), strict=False):
        axes.plot(
            100 * recall,
            100 * curves[place],
            linewidth=1.5,
            color=look["color"],
            linestyle=look["linestyle"],
            # A marker now and then, where lines run on each other.
            marker=look["marker"],
            markevery=(told.tolist().index(place), 12),
            markersize=5,
            label=f" {shorten(names[place], _NAME_WIDTH)}  {areas[place]:.1f}",
        )
    if len(curves) > 1:
        mean = 100 * curves.mean(axis=0)
        label = f" mean of {len(curves):,} classes  {areas.mean():.1f}"
        axes.plot(100 * recall, mean, color="black", linewidth=3.5, label=label)
    axes.set(xlabel="recall (%)", ylabel="precision (%)", xlim=(-1, 101), ylim=(-1, 103))
    which = f" (%), {NUM_SHOWN} best and {NUM_SHOWN} worst" if len(curves) > MAX_LINES else " (%)"
    figure.legend(title=f"area{which}", loc="outside right upper", handlelength=3.5)
    return figure


def _draw_faintly(axes: Axes, recall: Array, curves: Array) -> None:
    """Many curves as one cloud; the more there are, the fainter each."""
    points = [np.column_stack([100 * recall, 100 * curve]) for curve in curves]
    alpha = float(np.clip(12 / len(curves) ** 0.8, 0.06, 0.6))
    label = f" {len(curves):,} other classes"
    axes.add_collection(
        LineCollection(points, colors=GREY, linewidths=0.8, alpha=alpha), autolim=False
    )
    axes.plot([], [], color=GREY, linewidth=0.8, alpha=0.6, label=label)
