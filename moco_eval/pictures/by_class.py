"""How well each class is found, sorted; of many, the best and the worst."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from moco_eval.canvas import BLUE, VERMILLION, shorten, style
from moco_eval.pictures.confusion import answers_of
from moco_eval.pictures.writing import classes, write

Array = NDArray[Any]

# Up to so many classes each has a bar.
MAX_BARS = 40
NUM_SHOWN = 20

_NAME_WIDTH = 24
_MEAN: dict[str, Any] = {"color": VERMILLION, "linestyle": "--", "linewidth": 1.4}


def draw_accuracy(
    logits: Array, labels: Array, names: Sequence[str], folder: Path, *, title: str
) -> Path:
    """Draw ``per_class.png``: the share of each class's images that is found, sorted.

    Args:
        logits: ``(M, C)``; an image with a value that is no number has no answer, which is wrong.
        labels: ``(M,)`` classes from 0.
        names: Of the classes.
        folder: Where it goes.
        title: What it is of.

    Returns:
        The picture.
    """
    answers = answers_of(logits)
    counts = np.bincount(labels, minlength=len(names))
    hits = np.bincount(labels[answers == labels], minlength=len(names))
    accuracy = np.divide(100.0 * hits, counts, out=np.full(len(names), np.nan), where=counts > 0)
    frame = pd.DataFrame(
        {"index": range(len(names)), "class": names, "n": counts, "right": hits, "top1": accuracy}
    ).sort_values(["top1", "index"], ascending=[False, True], na_position="last")
    some = frame[frame["n"] > 0]
    mean = some["top1"].mean()
    heading = f"{title}\nAccuracy by class (%), mean of {classes(len(some))} {mean:.1f}"
    if missing := len(frame) - len(some):
        heading += f"; {missing:,} without test images"
    texts = [
        f"{share:.0f}  ({found:,}/{n:,})"
        for share, found, n in zip(some["top1"], some["right"], some["n"], strict=True)
    ]
    bars = some.assign(value=some["top1"], text=texts)
    with style():
        return write(
            _sorted_bars(bars, "accuracy (%)"),
            folder / "per_class.png",
            title=heading,
            alt=_alt("Accuracy", bars),
            numbers=frame.round(4),
        )


def draw_values(
    values: Array, names: Sequence[str], path: Path, *, title: str, measure: tuple[str, str]
) -> Path | None:
    """Draw a number of each class, sorted: average precision, or intersection over union.

    Args:
        values: ``(C,)`` in percent; no number where the test set does not show the class.
        names: Of the classes.
        path: The picture.
        title: What it is of.
        measure: Its name in the CSV, and in words.

    Returns:
        The picture; None where no class has a number.
    """
    column, word = measure
    frame = pd.DataFrame(
        {"index": range(len(names)), "class": names, column: values.astype(float)}
    ).sort_values([column, "index"], ascending=[False, True], na_position="last")
    some = frame.dropna()
    if some.empty:
        return None
    bars = some.assign(value=some[column], text=[f"{value:.1f}" for value in some[column]])
    heading = (
        f"{title}\n{word} by class (%), mean of {classes(len(some))} {some[column].mean():.1f}"
    )
    if missing := len(frame) - len(some):
        heading += f"; {missing:,} not in the test set"
    with style():
        return write(
            _sorted_bars(bars, f"{word[0].lower()}{word[1:]} (%)"),
            path,
            title=heading,
            alt=_alt(word, bars),
            numbers=frame.round(4),
        )


def _alt(word: str, bars: pd.DataFrame) -> str:
    if bars.empty:
        return f"{word} by class; no class has a number."
    best, worst = bars.iloc[0], bars.iloc[-1]
    said = f"{word} of {classes(len(bars))}, mean {bars['value'].mean():.1f} %"
    if len(bars) == 1:
        return f"{said}."
    return (
        f"{said}, from {best['class']} with {best['value']:.1f} to {worst['class']} with "
        f"{worst['value']:.1f}."
    )


def _sorted_bars(bars: pd.DataFrame, measure: str) -> Figure:
    """One bar a class, or of many the extremes; columns ``class``, ``value`` and ``text``."""
    if len(bars) <= MAX_BARS:
        return _all_bars(bars, measure)
    return _extremes(bars, measure)


def _all_bars(bars: pd.DataFrame, measure: str) -> Figure:
    mean = bars["value"].mean()
    figure = Figure(figsize=(7, 1.3 + 0.26 * len(bars)), layout="constrained")
    axes = figure.subplots()
    _bars(axes, bars, measure)
    if len(bars) == 1:
        return figure
    axes.axvline(mean, **_MEAN)
    axes.text(
        mean,
        1.0,
        f"mean {mean:.1f}",
        transform=axes.get_xaxis_transform(),
        ha="right" if mean > 20 else "left",
        va="bottom",
        color=VERMILLION,
    )
    return figure


def _extremes(bars: pd.DataFrame, measure: str) -> Figure:
    """The best and the worst classes, and how all are distributed."""
    figure = Figure(figsize=(13, 1.6 + 0.26 * NUM_SHOWN), layout="constrained")
    best, worst, every = figure.subplots(1, 3, width_ratios=[1, 1, 0.9])
    for axes, part, heading in (
        (best, bars[:NUM_SHOWN], f"the best {NUM_SHOWN}"),
        (worst, bars[-NUM_SHOWN:], f"the worst {NUM_SHOWN}"),
    ):
        _bars(axes, part, measure)
        axes.set(title=heading)
    every.hist(bars["value"], bins=np.arange(0, 101, 10), color=BLUE, edgecolor="white")
    every.axvline(bars["value"].mean(), **_MEAN)
    every.set(title=f"all {len(bars):,}; dashed: their mean", xlabel=measure, ylabel="classes")
    every.set(xlim=(0, 100))
    return figure


def _bars(axes: Axes, part: pd.DataFrame, measure: str) -> None:
    places = range(len(part))
    # Room for what stands behind the bars.
    limit = 145 if part["text"].str.len().max() > 5 else 122
    axes.barh(places, part["value"], color=BLUE, height=0.72)
    for place, text in zip(places, part["text"], strict=True):
        axes.text(102, place, text, va="center", fontsize=9)
    axes.set_yticks(places, [shorten(name, _NAME_WIDTH) for name in part["class"]])
    axes.set(ylim=(len(part) - 0.4, -0.6), xlim=(0, limit), xlabel=measure)
    axes.set_xticks(range(0, 101, 20))
    axes.tick_params(axis="y", length=0)
    axes.grid(False)
