"""All encoders at a glance: a heat map over the tasks, and accuracy against its cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from moco_eval.canvas import GREY, shorten, style
from moco_eval.pictures.looks import FILLS
from moco_eval.pictures.writing import counted, write
from moco_eval.report.summary import Summary

Floats = NDArray[np.float64]

# More would be too small to read: encoders with most tasks, and tasks with most encoders, first.
MAX_ROWS, MAX_COLUMNS = 40, 24
# Encoders that a legend can tell apart; of more only those on the front are named.
MAX_NAMED = 14
PANELS_A_ROW = 3
MAX_PANELS = 18
# Deviations beyond it look alike.
_Z_LIMIT = 2.6
_MARKERS = "osDv^P*Xhp"


def heat_map(summaries: Sequence[Summary], encoders: Sequence[str], folder: Path) -> Path | None:
    """Draw ``heat_map.png``: primary metrics, shaded by how far from their column's mean they are.

    Args:
        summaries: Of all encoders.
        encoders: The rows, in their order.
        folder: Where it goes.

    Returns:
        The picture; None where there are fewer than two encoders.
    """
    if len(encoders) < 2:
        return None
    table = _by_column(summaries, encoders)
    rows, columns = _most_filled(table)
    shown = table.loc[rows, columns]
    z = _standardized(summaries, table).loc[rows, columns]
    left_out = _left_out(len(table) - len(rows), "encoder", len(table.columns) - len(columns))
    with style():
        figure = _heat_figure(shown, z, table)
        return write(
            figure,
            folder / "heat_map.png",
            title=f"Primary metrics (%); green is better than the column's mean{left_out}",
            alt=f"Primary metrics of {counted(len(rows), 'encoder')} on "
            f"{counted(len(columns), 'task')}, shaded by z-score. {_best_of(z)}",
            numbers=_heat_numbers(shown, z, table),
        )


def _by_column(summaries: Sequence[Summary], encoders: Sequence[str]) -> pd.DataFrame:
    """Means of primary metrics, encoders x tasks; of weights that share a name the newest."""
    tasks = dict.fromkeys(_task(summary) for summary in summaries)
    table = pd.DataFrame(np.nan, index=list(encoders), columns=list(tasks))
    for summary in sorted(summaries, key=lambda each: max(run["created"] for run in each.runs)):
        table.loc[summary.encoder, _task(summary)] = summary.primary.mean
    return table


def _task(summary: Summary) -> str:
    """Protocol, data and metric; version and recipe stand in the tables."""
    protocol, version, recipe, dataset, _, metric = summary.column
    return f"{protocol}@{version} {recipe}\n{dataset} {metric}"


def _standardized(summaries: Sequence[Summary], table: pd.DataFrame) -> pd.DataFrame:
    """How many sample s.d. each value is better than its column's mean; 0 where all are equal."""
    directions = {_task(each): 1.0 if each.primary.higher_better else -1.0 for each in summaries}
    spread = table.std(ddof=1)
    z = (table - table.mean()) / spread.where(spread > 1e-9, np.inf)
    better: pd.DataFrame = z * pd.Series(directions)[table.columns]
    return better


def _most_filled(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The rows and columns that are shown, in the table's order."""
    kept: list[list[str]] = []
    for axis, most in ((1, MAX_ROWS), (0, MAX_COLUMNS)):
        filled = table.notna().sum(axis=axis)
        chosen = set(filled.sort_values(ascending=False, kind="stable").index[:most])
        kept.append([name for name in filled.index if name in chosen])
    return kept[0], kept[1]


def _left_out(num_rows: int, row: str, num_columns: int) -> str:
    words = [counted(num_rows, row)] * bool(num_rows)
    words += [counted(num_columns, "task")] * bool(num_columns)
    return f"; {' and '.join(words)} with fewer numbers not shown" if words else ""


def _heat_figure(shown: pd.DataFrame, z: pd.DataFrame, table: pd.DataFrame) -> Figure:
    names = [shorten(str(name), 34) for name in shown.index]
    width = 1.2 + 0.085 * max(map(len, names)) + 0.78 * len(shown.columns)
    figure = Figure(figsize=(max(6.5, width), 3.1 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots()
    shades = mpl.colormaps["PRGn"].with_extremes(bad="#F3F4F6")
    picture = axes.imshow(z, cmap=shades, vmin=-_Z_LIMIT, vmax=_Z_LIMIT, aspect="auto")
    scale = figure.colorbar(picture, location="bottom", shrink=0.5, aspect=32, pad=0.02)
    scale.set_label("sample s.d. better than the column's mean", fontsize=9)
    scale.outline.set_visible(False)
    for row, column in np.ndindex(shown.shape):
        value, distance = shown.iloc[row, column], z.iloc[row, column]
        is_dark = abs(distance) > 0.67 * _Z_LIMIT
        axes.text(
            *(column, row, "–" if math.isnan(value) else f"{value:.1f}"),
            ha="center",
            va="center",
            fontsize=9,
            color="white" if is_dark else "black",
        )
    spread, counts = table.std(ddof=1), table.notna().sum()
    heads = [_heading(str(task), counts[task], spread[task]) for task in shown.columns]
    axes.set_xticks(range(len(heads)), heads, rotation=45, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    axes.grid(False)
    return figure


def _heading(task: str, count: int, spread: float) -> str:
    said = f"n {count}" if math.isnan(spread) else f"n {count}, s.d. {spread:.1f}"
    return "\n".join([*(shorten(line, 30) for line in task.split("\n")), said])


def _best_of(z: pd.DataFrame) -> str:
    """Which encoder is best on average over the tasks that it has."""
    means = z.mean(axis=1).dropna()
    if means.empty:
        return "No column has two numbers."
    best, worst = str(means.idxmax()), str(means.idxmin())
    return (
        f"Highest on average: {shorten(best, 60)} ({means[best]:+.1f}); lowest:"
        f" {shorten(worst, 60)} ({means[worst]:+.1f})."
    )


def _heat_numbers(shown: pd.DataFrame, z: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    spread, counts = table.std(ddof=1), table.notna().sum()
    rows = [
        {
            "encoder": encoder,
            "task": str(task).replace("\n", " on "),
            "mean": round(float(shown.loc[encoder, task]), 4),
            "z": round(float(z.loc[encoder, task]), 4),
            "n_encoders": int(counts[task]),
            "sd_encoders": round(float(spread[task]), 4),
        }
        for encoder in shown.index
        for task in shown.columns
        if not math.isnan(float(shown.loc[encoder, task]))
    ]
    frame: pd.DataFrame = pd.DataFrame(rows)
    return frame


def cost(summaries: Sequence[Summary], encoders: Sequence[str], folder: Path) -> Path | None:
    """Draw ``cost.png``: the primary metric by what a run took, a panel a task.

    Device seconds where the records of a task have them, else seconds of the clock.

    Args:
        summaries: Of all encoders.
        encoders: In their order.
        folder: Where it goes.

    Returns:
        The picture; None where no task has two encoders.
    """
    frame = _costs(summaries, encoders)
    if frame.empty:
        return None
    tasks = list(dict.fromkeys(frame["task"]))[:MAX_PANELS]
    frame = frame[frame["task"].isin(tasks)]
    looks = _looks([name for name in encoders if name in set(frame["encoder"])])
    cheapest = frame.loc[frame["seconds"].idxmin()]
    dearest = frame.loc[frame["seconds"].idxmax()]
    with style():
        figure = _cost_figure(frame, tasks, looks)
        named = "" if looks else "; named: what no other is both cheaper and better than"
        return write(
            figure,
            folder / "cost.png",
            title=f"Primary metric (%) by seconds a run, mean over seeds{named}",
            alt=f"Primary metric against seconds a run in {counted(len(tasks), 'panel')}, one a"
            f" task: from {cheapest['seconds']:.2g} s ({_flat(cheapest['task'])}) to"
            f" {dearest['seconds']:.3g} s ({_flat(dearest['task'])}).",
            numbers=frame.assign(task=frame["task"].map(_flat)).round(4),
        )


def _costs(summaries: Sequence[Summary], encoders: Sequence[str]) -> pd.DataFrame:
    rows = []
    for task in dict.fromkeys(_task(summary) for summary in summaries):
        own = [each for each in summaries if _task(each) == task]
        kind = "device_s" if all("device_s" in each.costs for each in own) else "wall_s"
        if len({each.encoder for each in own}) < 2 or not all(kind in s.costs for s in own):
            continue
        rows += [
            {
                "task": task,
                "encoder": each.encoder,
                "mean": each.primary.mean,
                "sd": each.primary.sd,
                "seconds": max(each.costs[kind], 1e-3),
                "kind": "device" if kind == "device_s" else "wall",
                "higher_better": each.primary.higher_better,
            }
            for each in sorted(own, key=lambda each: encoders.index(each.encoder))
        ]
    frame: pd.DataFrame = pd.DataFrame(rows)
    return frame


def _looks(encoders: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each; none where they are too many to tell apart."""
    if len(encoders) > MAX_NAMED:
        return {}
    return {
        name: (FILLS[place % len(FILLS)], _MARKERS[place % len(_MARKERS)])
        for place, name in enumerate(encoders)
    }


def _cost_figure(
    frame: pd.DataFrame, tasks: Sequence[str], looks: dict[str, tuple[str, str]]
) -> Figure:
    columns = min(PANELS_A_ROW, len(tasks))
    num_rows = math.ceil(len(tasks) / columns)
    legend = 0.25 * math.ceil(len(looks) / 4)
    size = (max(6.5, 3.9 * columns), 0.7 + legend + 2.9 * num_rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(num_rows, columns, squeeze=False).ravel()
    for axes in grid[len(tasks) :]:
        axes.set_axis_off()
    for axes, task in zip(grid, tasks, strict=False):
        _cost_panel(axes, frame[frame["task"] == task], looks)
        axes.set(title="\n".join(shorten(line, 40) for line in task.split("\n")))
    if looks:
        handles = [
            mpl.lines.Line2D([], [], color=color, marker=marker, linestyle="", markeredgecolor="k")
            for color, marker in looks.values()
        ]
        names = [shorten(name, 34) for name in looks]
        figure.legend(handles, names, loc="outside lower left", ncols=min(4, len(looks)))
    return figure


def _cost_panel(axes: Axes, part: pd.DataFrame, looks: dict[str, tuple[str, str]]) -> None:
    for row in part.itertuples():
        color, marker = looks.get(str(row.encoder), (GREY, "o"))
        axes.errorbar(
            *(row.seconds, row.mean),
            yerr=None if pd.isna(row.sd) else row.sd,
            color=color,
            marker=marker,
            markersize=7,
            markeredgecolor="black",
            markeredgewidth=0.6,
            elinewidth=1.2,
        )
    for name, seconds, mean in () if looks else _front(part):
        axes.annotate(shorten(name, 22), (seconds, mean), (4, 4), textcoords="offset points")
    axes.set_xscale("log")
    low, high = part["seconds"].min() / 2, part["seconds"].max() * 2
    ticks = _round_ticks(low, high)
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.margins(y=0.15)
    axes.set(xlabel=f"{part['kind'].iloc[0]} seconds")


def _round_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10 ... between two numbers; of many only powers of ten."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)]
    ticks = [tick for tick in fine if low <= tick <= high]
    return ticks if len(ticks) <= 6 else [tick for tick in ticks if f"{tick:e}"[0] == "1"]


def _front(part: pd.DataFrame) -> list[tuple[str, float, float]]:
    """What no other point is both cheaper and better than, the cheapest first; four at most."""
    sign = 1 if part["higher_better"].iloc[0] else -1
    best, front = -math.inf, []
    for row in part.sort_values(["seconds", "mean"]).itertuples():
        if sign * float(row.mean) > best:
            best = sign * float(row.mean)
            front.append((str(row.encoder), float(row.seconds), float(row.mean)))
    return front[-4:]


def _flat(task: str) -> str:
    return task.replace("\n", " on ")
