"""All encoders at a glance: a heat map over the tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from moco_eval.canvas import shorten, style
from moco_eval.pictures.writing import counted, write
from moco_eval.report.summary import Summary

# More would be too small to read: encoders with most tasks, and tasks with most encoders, first.
MAX_ROWS, MAX_COLUMNS = 40, 24
# Deviations beyond it look alike.
_Z_LIMIT = 2.6


def draw(summaries: Sequence[Summary], encoders: Sequence[str], folder: Path) -> Path | None:
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
    tasks = dict.fromkeys(summary.task for summary in summaries)
    table: pd.DataFrame = pd.DataFrame(np.nan, index=list(encoders), columns=list(tasks))
    for summary in sorted(summaries, key=lambda each: max(run["created"] for run in each.runs)):
        table.loc[summary.encoder, summary.task] = summary.primary.mean
    return table


def _standardized(summaries: Sequence[Summary], table: pd.DataFrame) -> pd.DataFrame:
    """How many sample s.d. each value is better than its column's mean.

    0 where all are equal, no number where there is but one.
    """
    directions = {each.task: 1.0 if each.primary.higher_better else -1.0 for each in summaries}
    spread = table.std(ddof=1)
    z = (table - table.mean()) / spread.mask(spread < 1e-9, np.inf)
    better: pd.DataFrame = z.mul(pd.Series(directions)[table.columns], axis="columns")
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
    axes.tick_params(
        top=True, labeltop=True, bottom=False, labelbottom=False, length=0, labelsize=9
    )
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
