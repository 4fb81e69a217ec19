"""What is taken for what: answers to images, boxes of objects, pixels of maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from moco_eval.canvas import BLUE, GREY, shorten, style
from moco_eval.pictures.writing import classes, write

Array = NDArray[Any]

# Up to so many classes each pair has a number in the matrix: VOC's 20, and the background.
MAX_CELLS = 22
NUM_SHOWN = 20
# What rows and columns without a class are called.
BACKGROUND = "background"

_NAME_WIDTH = 24


@dataclass(frozen=True)
class _Words:
    """What is counted, and what its true class and the class it was taken for are called."""

    unit: str
    true: str
    predicted: str


@dataclass(frozen=True, eq=False)
class _Table:
    """A row a pair that occurs, and how often each true class does, ``(C,)``."""

    frame: pd.DataFrame
    totals: Array
    names: Sequence[str]
    words: _Words

    def wrong(self) -> pd.DataFrame:
        """The pairs of two classes, the most frequent first."""
        wrong: pd.DataFrame = self.frame[self.frame["true_index"] != self.frame["predicted_index"]]
        by = ["n", "share", "true_index", "predicted_index"]
        wrong = wrong.sort_values(by, ascending=[False, False, True, True])
        return wrong


_IMAGES = _Words("images", "class", "answer")
_OBJECTS = _Words("objects", "truth", "detection")
_PIXELS = _Words("pixels", "truth", "prediction")


def draw_answers(
    logits: Array, labels: Array, names: Sequence[str], folder: Path, *, title: str
) -> Path | None:
    """Draw ``confusion.png``: what each class is taken for; of many, the most confused pairs.

    Args:
        logits: ``(M, C)``; an image with a value that is no number has no answer, which is wrong.
        labels: ``(M,)`` classes from 0.
        names: Of the classes.
        folder: Where it goes.
        title: What it is of.

    Returns:
        The picture; None where there are many classes and none is taken for another.
    """
    answers = answers_of(logits)
    answered = answers >= 0
    size = len(names)
    pair, count = np.unique(labels[answered] * size + answers[answered], return_counts=True)
    totals = np.bincount(labels, minlength=size)
    table = _table(np.divmod(pair, size), count, totals, names, words=_IMAGES)
    note = f"; {(~answered).sum():,} images without an answer" if not answered.all() else ""
    path = folder / "confusion.png"
    if size > MAX_CELLS:
        return _draw_pairs(table, path, f"{title}\nConfusion", note=note)
    heading = f"{title}\nConfusion: answers to the images of each class (%){note}"
    return _draw_matrix(table, path, heading)


def draw_boxes(counts: Array, names: Sequence[str], path: Path, *, title: str) -> Path | None:
    """Draw what objects are detected as; a last row and column are no object, no detection.

    Args:
        counts: ``(C + 1, C + 1)``, rows truth, at IoU 0.5 and score 0.5.
        names: Of the ``C`` classes.
        path: The picture.
        title: What it is of.

    Returns:
        The picture; None where there is neither an object nor a detection, or where of many
        classes nothing is wrong.
    """
    if not counts.any():
        return None
    size = len(counts)
    table = _table_of(counts, [*names[: size - 1], BACKGROUND], words=_OBJECTS)
    head = f"{title}\nConfusion of boxes at IoU 0.5 and score 0.5"
    if size <= MAX_CELLS:
        heading = (
            f"{head}: what each class's objects are detected as (%); {BACKGROUND}: missed "
            "(column), or detected where there is none (row)"
        )
        return _draw_matrix(table, path, heading)
    return _draw_pairs(table, path, head, outside=size - 1)


def draw_pixels(counts: Array, names: Sequence[str], path: Path, *, title: str) -> Path | None:
    """Draw what pixels are taken for.

    Args:
        counts: ``(C, C)`` pixels, rows truth.
        names: Of the classes.
        path: The picture.
        title: What it is of.

    Returns:
        The picture; None where there are no pixels, or where of many classes none is wrong.
    """
    if not counts.any():
        return None
    table = _table_of(counts, names, words=_PIXELS)
    if len(counts) <= MAX_CELLS:
        heading = f"{title}\nConfusion: what the pixels of each class are taken for (%)"
        return _draw_matrix(table, path, heading)
    return _draw_pairs(table, path, f"{title}\nConfusion of pixels")


def answers_of(logits: Array) -> Array:
    """The class with the largest logit ``(M,)``; -1 where one of them is no number."""
    answers: Array = np.where(np.isnan(logits).any(1), -1, logits.argmax(1))
    return answers


def _table_of(counts: Array, names: Sequence[str], *, words: _Words) -> _Table:
    counts = counts.astype(np.int64)
    true, predicted = np.nonzero(counts)
    n = counts[true, predicted]
    return _table((true, predicted), n, counts.sum(axis=1), names, words=words)


def _table(
    pairs: tuple[Array, Array], n: Array, totals: Array, names: Sequence[str], *, words: _Words
) -> _Table:
    true, predicted = pairs
    frame = pd.DataFrame(
        {
            "true": [names[i] for i in true],
            "predicted": [names[i] for i in predicted],
            "true_index": true,
            "predicted_index": predicted,
            "n": n,
            "share": (100.0 * n / totals[true]).round(4),
        }
    )
    return _Table(frame, totals, names, words)


def _draw_matrix(table: _Table, path: Path, heading: str) -> Path:
    alt = f"Matrix of {classes(len(table.names))} and what each is taken for; {_worst(table)}."
    with style():
        return write(_matrix(table), path, title=heading, alt=alt, numbers=table.frame)


def _draw_pairs(
    table: _Table, path: Path, head: str, *, note: str = "", outside: int = -1
) -> Path | None:
    """Bars of the most frequent confusions; those with the class ``outside`` have their own."""
    wrong, words = table.wrong(), table.words
    if wrong.empty:
        return None
    is_missed, is_nothing = wrong["predicted_index"] == outside, wrong["true_index"] == outside
    parts = {
        "taken for another class": wrong[~is_missed & ~is_nothing][:NUM_SHOWN],
        "missed": wrong[is_missed][: NUM_SHOWN // 2],
        "detected where there is none": wrong[is_nothing][: NUM_SHOWN // 2],
    }
    parts = {name: part for name, part in parts.items() if len(part)}
    num_bars = [len(part) for part in parts.values()]
    with style():
        height = 1.3 + 0.27 * sum(num_bars) + 0.8 * (len(parts) - 1)
        figure = Figure(figsize=(9, height), layout="constrained")
        grid = figure.subplots(len(parts), 1, squeeze=False, height_ratios=num_bars).ravel()
        for axes, (name, part) in zip(grid, parts.items(), strict=True):
            _pair_bars(axes, part, table)
            axes.set(title=name if len(parts) > 1 else "")
        heading = f"{head}: the most confused of {len(wrong):,} confused pairs, "
        heading += f"{words.true} → {words.predicted}{note}"
        alt = f"Bars of the most confused of {len(wrong):,} pairs of classes; {_worst(table)}."
        return write(figure, path, title=heading, alt=alt, numbers=table.frame)


def _worst(table: _Table) -> str:
    """The most frequent confusion of two classes in words; of the background only without one."""
    wrong = table.wrong()
    if wrong.empty:
        return "none is taken for another"
    is_outer = (wrong[["true", "predicted"]] == BACKGROUND).any(axis=1)
    first = (wrong if is_outer.all() else wrong[~is_outer]).iloc[0]
    return (
        f"most often {first['true']} is taken for {first['predicted']}, {first['n']:,} of "
        f"{table.totals[first['true_index']]:,} {table.words.unit}"
    )


def _matrix(table: _Table) -> Figure:
    size, frame, words = len(table.names), table.frame, table.words
    short = [shorten(name, _NAME_WIDTH) for name in table.names]
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
        if not table.totals[row]:
            none = "none" if table.names[row] == BACKGROUND else f"no {words.unit}"
            axes.text(0, row, none, va="center", fontsize=9, color=GREY, style="italic")
        for column in np.flatnonzero(shares[row]).tolist():
            share = shares[row, column]
            color = "white" if share > 55 else "black"
            axes.text(
                column, row, _percent(share), ha="center", va="center", fontsize=9, color=color
            )
    axes.set_xticks(range(size), short, rotation=90 if upright else 0)
    axes.set_yticks(range(size), short)
    axes.set(xlabel=words.predicted, ylabel=words.true)
    axes.tick_params(length=0)
    axes.grid(False)
    return figure


def _pair_bars(axes: Axes, worst: pd.DataFrame, table: _Table) -> None:
    places = range(len(worst))
    axes.barh(places, worst["n"], color=BLUE, height=0.72)
    for place, true, n, share in zip(
        places, worst["true_index"], worst["n"], worst["share"], strict=True
    ):
        axes.annotate(
            f"{n:,} of {table.totals[true]:,} ({_percent(share)} %)",
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
    axes.set(
        ylim=(len(worst) - 0.4, -0.6), xlabel=table.words.unit, xlim=(0, 1.35 * worst["n"].max())
    )
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(6, integer=True))
    axes.tick_params(axis="y", length=0)
    axes.grid(False)


def _percent(share: float) -> str:
    return f"{share:.0f}" if share >= 0.5 else "<1"
