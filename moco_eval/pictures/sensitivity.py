"""How much a probe's accuracy depends on its hyper-parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from moco_eval.canvas import BLUE, GREEN, VERMILLION, outlined, style
from moco_eval.pictures.writing import write

# Names in a row that are no hyper-parameters; the first that it has is what is drawn.
METRICS = ("top1", "mean_per_class", "AP", "mAP")
_UNSWEPT = {*METRICS, "top5", "ece", "cross_entropy", "chosen"}
_WORDS = {"lr": "learning rate", "c": "C", "top1": "top-1"}
_FIRST_ON_X = ("lr", "c")

# What counts as equally good, and how far below the best a picture reaches, in points.
FLAT, DEPTH = 1.0, 20.0
MAX_LINES = 6

_LINES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "marker": "o", "linestyle": "-"},
    {"color": VERMILLION, "marker": "s", "linestyle": "--"},
    {"color": GREEN, "marker": "D", "linestyle": "-."},
    {"color": "#CC79A7", "marker": "v", "linestyle": ":"},
    {"color": "#E69F00", "marker": "P", "linestyle": (0, (5, 1, 1, 1, 1, 1))},
    {"color": "black", "marker": "X", "linestyle": (0, (1, 1))},
)
_DIGITS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def draw(rows: Sequence[Mapping[str, Any]], folder: Path, *, title: str) -> Path | None:
    """Draw ``sensitivity.png``: held-out accuracy by what was swept, the chosen setting marked.

    The parameter with most values lies along x, on a scale of its own; a second one makes lines, or
    the rows of a heat map where it has more than 6 values; what else was swept makes panels.

    Args:
        rows: One a tried setting: its hyper-parameters; ``top1`` in percent on the slice to choose
            on, None or no number where it diverged; and ``chosen``, true for the one that was
            chosen. Without that the best is marked, and called so.
        folder: Where it goes.
        title: What it is of.

    Returns:
        The picture; None where fewer than two settings differ, or none has a number.
    """
    settings = [{name: _plain(value) for name, value in row.items()} for row in rows]
    given: pd.DataFrame = pd.DataFrame(settings)
    metric = next((name for name in METRICS if name in given), "")
    swept = _swept(given)
    if not metric or not swept or given[metric].astype(float).isna().all():
        return None
    given[metric] = given[metric].astype(float)
    marked = next((row for row in settings if row.get("chosen")), None)
    shown = marked or settings[int(given[metric].argmax())]
    # Settings that were tried several times, on other draws or folds, are one point each.
    means = given.groupby(swept, dropna=False, sort=False)[metric].mean()
    table = means.reset_index().rename(columns={metric: "score"})
    best = table["score"].max()
    near = (table["score"] >= best - FLAT).sum()
    setting = ", ".join(f"{_word(name)} {_say(shown[name])}" for name in swept)
    swept_words = ", ".join(map(_word, swept))
    mark = f"{'chosen' if marked else 'best'}: {setting}, {_say(shown[metric], '.1f')}"
    with style():
        figure, meaning = _panels(table, swept, shown)
        return write(
            figure,
            folder / "sensitivity.png",
            title=f"{title}\nHeld-out {_word(metric)} (%) by {swept_words}; best"
            f" {best:.1f}, {near} of {len(table)} settings within {FLAT:g} point of it{meaning}"
            f"\n★ {mark}",
            alt=f"Held-out {_word(metric)} of {len(table)} settings by {swept_words}; {mark}.",
            numbers=given,
        )


def _swept(given: pd.DataFrame) -> list[str]:
    """The parameters with several values, in the order x, lines, panels."""
    names = [str(name) for name in given if name not in _UNSWEPT]
    names = [name for name in names if given[name].nunique(dropna=False) > 1]

    def rank(name: str) -> tuple[bool, bool, int]:
        is_number = _are_numbers(given[name])
        return not is_number, name not in _FIRST_ON_X, -given[name].nunique()

    return sorted(names, key=rank)


def _panels(
    table: pd.DataFrame, swept: Sequence[str], chosen: Mapping[str, Any]
) -> tuple[Figure, str]:
    """The figure, and what its marks mean."""
    x, line, *rest = (*swept, "")[: max(2, len(swept))]
    parts = list(table.groupby(rest, dropna=False, sort=False)) if rest else [((), table)]
    columns = min(3, len(parts))
    num_rows = math.ceil(len(parts) / columns)
    width, height = (7.5, 4.6) if len(parts) == 1 else (5.2, 3.9)
    figure = Figure(figsize=(width * columns, 0.8 + height * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, columns, squeeze=False).ravel()
    for axes in grid[len(parts) :]:
        axes.set_axis_off()
    is_map = bool(line) and table[line].nunique(dropna=False) > MAX_LINES
    for axes, (values, part) in zip(grid, parts, strict=False):
        is_here = all(_same(chosen[n], v) for n, v in zip(rest, values, strict=True))
        mark = chosen if is_here else None
        (_heat_map if is_map else _lines)(axes, part, table, (x, line), mark)
        heading = ", ".join(f"{_word(n)} {_say(v)}" for n, v in zip(rest, values, strict=True))
        axes.set(title=heading)
    lost = "; ✗ diverged" * bool(table["score"].isna().any())
    if is_map:
        return figure, f" (bold){lost}"
    if line:
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, handlelength=3.5)
    below = (table["score"] < table["score"].max() - DEPTH).any()
    return figure, " (shaded)" + "; ▽ below the picture" * bool(below) + lost


def _lines(
    axes: Axes,
    part: pd.DataFrame,
    table: pd.DataFrame,
    names: tuple[str, str],
    mark: Mapping[str, Any] | None,
) -> None:
    """Accuracy along x, one line a value of the second parameter, on a y that all panels share."""
    x, line = names
    place = _scale(axes, table[x], x)
    best = table["score"].max()
    # Deep enough for what fails, and no deeper; high enough for what is flat to look flat.
    lowest = min(max(table["score"].min(), best - DEPTH), best - 2 * FLAT)
    margin = 0.06 * (best - lowest)
    bottom, top = lowest - 2 * margin, best + 2 * margin
    axes.axhspan(best - FLAT, best, color=GREEN, alpha=0.13, linewidth=0)
    for look, value in zip(_LINES, _ordered(table[line]) if line else [None], strict=False):
        own = part[[_same(entry, value) for entry in part[line]]] if line else part
        own = own.assign(place=[place(entry) for entry in own[x]]).sort_values("place")
        label = f"{_word(line)} {_say(value)}" if line else "_nolegend_"
        size = 5 if len(own) <= 20 else 3.5
        axes.plot(own["place"], own["score"], label=label, markersize=size, **look)
        for marker, gone in (("v", own["score"] < bottom), ("x", own["score"].isna())):
            lost = own["place"][gone]
            axes.plot(
                *(lost, np.full(len(lost), bottom + 0.5 * margin)),
                linestyle="",
                marker=marker,
                color=look["color"],
                markersize=7,
                fillstyle="none",
            )
    if mark is not None and not math.isnan(mark_score := _score_of(part, names, mark)):
        axes.plot(
            *([place(mark[x])], [max(mark_score, bottom)]),
            linestyle="",
            marker="*",
            markersize=17,
            markerfacecolor="#F0E442",
            markeredgecolor="black",
            zorder=5,
        )
    axes.set(xlabel=_word(x), ylim=(bottom, top))


def _scale(axes: Axes, values: pd.Series[Any], name: str) -> Any:
    """Prepare the x axis, and return what tells where on it a value lies."""
    distinct = _ordered(values)
    if not _are_numbers(values) or min(distinct) <= 0 or max(distinct) / min(distinct) < 10:
        # One step a value: a zero has no place on a scale of powers, nor has a word.
        axes.set_xticks(range(len(distinct)), [_say(value) for value in distinct])
        return lambda value: next(i for i, other in enumerate(distinct) if _same(other, value))
    axes.set_xscale("log")
    if len(distinct) <= 8:
        axes.set_xticks(distinct, [_say(value) for value in distinct])
    else:
        axes.xaxis.set_major_locator(LogLocator(numticks=13))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    return float


def _heat_map(
    axes: Axes,
    part: pd.DataFrame,
    table: pd.DataFrame,
    names: tuple[str, str],
    mark: Mapping[str, Any] | None,
) -> None:
    x, line = names
    columns, rows = _ordered(table[x]), _ordered(table[line])
    scores = np.array([[_score_of(part, names, {x: c, line: r}) for c in columns] for r in rows])
    best = table["score"].max()
    shades = mpl.colormaps["Blues"].with_extremes(bad="#F3F4F6")
    low = max(table["score"].min(), best - DEPTH)
    axes.imshow(np.clip(scores, low, None), cmap=shades, vmin=low, vmax=best, aspect="auto")
    for row, column in np.ndindex(scores.shape):
        score = scores[row, column]
        text = "✗" if math.isnan(score) else f"{score:.0f}" if len(columns) > 9 else f"{score:.1f}"
        is_dark = score > low + 0.6 * (best - low)
        axes.text(
            *(column, row, text),
            ha="center",
            va="center",
            fontsize=9,
            color="white" if is_dark else "black",
            weight="bold" if score >= best - FLAT else "normal",
        )
    if mark is not None:
        column, row = columns.index(mark[x]), rows.index(mark[line])
        axes.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=2)
        )
        axes.text(
            *(column + 0.45, row - 0.45, "★"),
            ha="right",
            va="top",
            color="#F0E442",
            path_effects=outlined(2, "black"),
        )
    axes.set_xticks(range(len(columns)), [_say(value) for value in columns], rotation=45)
    axes.set_yticks(range(len(rows)), [_say(value) for value in rows])
    axes.set(xlabel=_word(x), ylabel=_word(line))
    axes.grid(False)


def _score_of(part: pd.DataFrame, names: Sequence[str], setting: Mapping[str, Any]) -> float:
    here = np.ones(len(part), dtype=bool)
    for name in filter(None, names):
        here &= [_same(entry, setting[name]) for entry in part[name]]
    return float(part["score"][here].iloc[0]) if here.any() else math.nan


def _are_numbers(values: pd.Series[Any]) -> bool:
    is_numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return is_numeric and not values.isna().any()


def _plain(value: Any) -> Any:
    """What tables can sort and compare."""
    return value if value is None or isinstance(value, (Real, str)) else str(value)


def _ordered(values: pd.Series[Any]) -> list[Any]:
    """The distinct values: numbers by size, words in the order in which they came."""
    distinct = values.drop_duplicates()
    return list(distinct.sort_values() if _are_numbers(values) else distinct)


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) or (pd.isna(one) and pd.isna(other))


def _word(name: str) -> str:
    return _WORDS.get(name, name.replace("_", " "))


def _say(value: Any, form: str = ".3g") -> str:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return f"{value:{form}}".replace("e-0", "e-") if is_number else str(value)


def _power(value: float) -> str:
    """A power of ten as people write it: 0.01, 1, 100, 10⁻⁶."""
    exponent = round(math.log10(value))
    return f"{value:g}" if -3 <= exponent <= 3 else f"10{str(exponent).translate(_DIGITS)}"
