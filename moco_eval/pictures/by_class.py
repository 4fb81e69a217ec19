"""Which classes a classifier gets right, and which it takes for which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from moco_eval.canvas import BLUE, GREY, VERMILLION, save, save_numbers, shorten, style

Array = NDArray[Any]

# Up to so many classes each has a bar, and each pair a number in the matrix.
MAX_BARS, MAX_CELLS = 40, 20
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
    answers = _answers(logits)
    counts = np.bincount(labels, minlength=len(names))
    hits = np.bincount(labels[answers == labels], minlength=len(names))
    accuracy = np.divide(100.0 * hits, counts, out=np.full(len(names), np.nan), where=counts > 0)
    frame = pd.DataFrame(
        {"index": range(len(names)), "class": names, "n": counts, "right": hits, "top1": accuracy}
    ).sort_values(["top1", "index"], ascending=[False, True], na_position="last")
    some = frame[frame["n"] > 0]
    mean = some["top1"].mean()
    heading = f"{title}\nAccuracy by class (%), mean of {len(some):,} classes {mean:.1f}"
    if missing := len(frame) - len(some):
        heading += f"; {missing:,} without test images"
    texts = [
        f"{share:.0f}  ({found:,}/{n:,})"
        for share, found, n in zip(some["top1"], some["right"], some["n"], strict=True)
    ]
    bars = some.assign(value=some["top1"], text=texts)
    path = folder / "per_class.png"
    with style():
        save(_sorted_bars(bars, "accuracy (%)"), path, title=heading)
    save_numbers(frame.round(4), path)
    return path


def draw_precision(
    precision: Array, names: Sequence[str], folder: Path, *, title: str
) -> Path | None:
    """Draw ``per_class.png`` of images that may show several classes: average precision, sorted.

    Args:
        precision: ``(C,)`` in percent; no number where the test set does not show the class.
        names: Of the classes.
        folder: Where it goes.
        title: What it is of.

    Returns:
        The picture; None where no class has a number.
    """
    frame = pd.DataFrame(
        {"index": range(len(names)), "class": names, "AP": precision.astype(float)}
    ).sort_values(["AP", "index"], ascending=[False, True], na_position="last")
    some = frame.dropna()
    if some.empty:
        return None
    bars = some.assign(value=some["AP"], text=[f"{value:.1f}" for value in some["AP"]])
    heading = f"{title}\nAverage precision by class (%), mean of {len(some):,} classes"
    path = folder / "per_class.png"
    with style():
        figure = _sorted_bars(bars, "average precision (%)")
        save(figure, path, title=f"{heading} {some['AP'].mean():.1f}")
    save_numbers(frame.round(4), path)
    return path


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
    axes.barh(places, part["value"], color=BLUE, height=0.72)
    for place, text in zip(places, part["text"], strict=True):
        axes.text(102, place, text, va="center", fontsize=9)
    axes.set_yticks(places, [shorten(name, _NAME_WIDTH) for name in part["class"]])
    axes.set(ylim=(len(part) - 0.4, -0.6), xlim=(0, 145), xlabel=measure)
    axes.set_xticks(range(0, 101, 20))
    axes.tick_params(axis="y", length=0)
    axes.grid(False)


def draw_confusion(
    logits: Array, labels: Array, names: Sequence[str], folder: Path, *, title: str
) -> Path | None:
    """Draw ``confusion.png``: what each class is taken for; of many, the most confused pairs.

    Args:
        logits: As of ``draw_accuracy``.
        labels: Likewise.
        names: Of the classes.
        folder: Where it goes.
        title: What it is of.

    Returns:
        The picture; None where there are many classes and none is taken for another.
    """
    answers = _answers(logits)
    answered = answers >= 0
    size = len(names)
    pairs = labels[answered] * size + answers[answered]
    pair, count = np.unique(pairs, return_counts=True)
    true, predicted = np.divmod(pair, size)
    images = np.bincount(labels, minlength=size)
    frame = pd.DataFrame(
        {
            "true": [names[i] for i in true],
            "predicted": [names[i] for i in predicted],
            "true_index": true,
            "predicted_index": predicted,
            "n": count,
            "share": (100.0 * count / images[true]).round(4),
        }
    )
    note = f"; {(~answered).sum():,} images without an answer" if not answered.all() else ""
    path = folder / "confusion.png"
    with style():
        if size <= MAX_CELLS:
            figure = _matrix(frame, images, names)
            heading = f"answers to the images of each class (%){note}"
        else:
            wrong = frame[frame["true_index"] != frame["predicted_index"]]
            if wrong.empty:
                return None
            worst = wrong.sort_values(
                ["n", "share", "true_index", "predicted_index"],
                ascending=[False, False, True, True],
            )[:NUM_SHOWN]
            figure = _pair_bars(worst, images)
            heading = f"the most confused of {len(wrong):,} confused pairs, class → answer{note}"
        save(figure, path, title=f"{title}\nConfusion: {heading}")
    save_numbers(frame, path)
    return path


def _matrix(frame: pd.DataFrame, images: Array, names: Sequence[str]) -> Figure:
    size = len(names)
    short = [shorten(name, _NAME_WIDTH) for name in names]
    room = 0.085 * max(map(len, short))
    upright = max(map(len, short)) > 3
    side = max(0.42 * size, 2.4)
    figure = Figure(
        figsize=(max(side + room + 0.9, 5.6), side + (room if upright else 0.2) + 1.1),
        layout="constrained",
    )
    axes = figure.subplots()
    shares = np.zeros((size, size))
    shares[frame["true_index"], frame["predicted_index"]] = frame["share"]
    axes.imshow(shares, cmap=mpl.colormaps["Blues"], vmin=0, vmax=100)
    for row in range(size):
        if not images[row]:
            axes.text(0, row, "no images", va="center", fontsize=9, color=GREY, style="italic")
        for column in np.flatnonzero(shares[row]).tolist():
            share = shares[row, column]
            text = f"{share:.0f}" if share >= 0.5 else "<1"
            color = "white" if share > 55 else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color=color)
    axes.set_xticks(range(size), short, rotation=90 if upright else 0)
    axes.set_yticks(range(size), short)
    axes.set(xlabel="answer", ylabel="class")
    axes.tick_params(length=0)
    axes.grid(False)
    return figure


def _pair_bars(worst: pd.DataFrame, images: Array) -> Figure:
    figure = Figure(figsize=(9, 1.3 + 0.27 * len(worst)), layout="constrained")
    axes = figure.subplots()
    places = range(len(worst))
    axes.barh(places, worst["n"], color=BLUE, height=0.72)
    for place, true, n, share in zip(
        places, worst["true_index"], worst["n"], worst["share"], strict=True
    ):
        axes.annotate(
            f"{n:,} of {images[true]:,} ({share:.0f} %)",
            (n, place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    arrows = [
        f"{shorten(true, _NAME_WIDTH)} → {shorten(predicted, _NAME_WIDTH)}"
        for true, predicted in zip(worst["true"], worst["predicted"], strict=True)
    ]
    axes.set_yticks(places, arrows)
    axes.set(ylim=(len(worst) - 0.4, -0.6), xlabel="images", xlim=(0, 1.35 * worst["n"].max()))
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    axes.tick_params(axis="y", length=0)
    axes.grid(False)
    return figure


def _answers(logits: Array) -> Array:
    """The class with the largest logit ``(M,)``; -1 where one of them is no number."""
    answers: Array = np.where(np.isnan(logits).any(1), -1, logits.argmax(1))
    return answers
