"""All encoders at a glance: accuracy against its cost, a panel a task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from moco_eval.canvas import GREY, shorten, style
from moco_eval.pictures.looks import FILLS
from moco_eval.pictures.writing import counted, write
from moco_eval.report.summary import Summary

# Encoders that a legend can tell apart; of more only the extremes are named.
MAX_NAMED = 24
PANELS_A_ROW = 3
MAX_PANELS = 18
# As many as share no factor with the number of colours.
_MARKERS = "osDv^P*Xp"

Looks = Mapping[str, tuple[str, str]]


def draw(summaries: Sequence[Summary], encoders: Sequence[str], folder: Path) -> Path | None:
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
        named = "" if looks else "; named: the cheapest and the best"
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
    for task in dict.fromkeys(summary.task for summary in summaries):
        own = [each for each in summaries if each.task == task]
        kind = "device_s" if all("device_s" in each.costs for each in own) else "wall_s"
        if len({each.encoder for each in own}) < 2 or not all(kind in s.costs for s in own):
            continue
        rows += [
            {
                "task": task,
                "encoder": each.encoder,
                "mean": each.primary.mean,
                "sd": math.nan if each.primary.sd is None else each.primary.sd,
                "seconds": max(each.costs[kind], 1e-3),
                "kind": "device" if kind == "device_s" else "wall",
                "higher_better": each.primary.higher_better,
            }
            for each in sorted(own, key=lambda each: encoders.index(each.encoder))
        ]
    frame: pd.DataFrame = pd.DataFrame(rows)
    return frame


def _looks(encoders: Sequence[str]) -> Looks:
    """A colour and a marker for each; none where they are too many to tell apart."""
    if len(encoders) > MAX_NAMED:
        return {}
    return {
        name: (FILLS[place % len(FILLS)], _MARKERS[place % len(_MARKERS)])
        for place, name in enumerate(encoders)
    }


def _cost_figure(frame: pd.DataFrame, tasks: Sequence[str], looks: Looks) -> Figure:
    columns = min(PANELS_A_ROW, len(tasks))
    num_rows = math.ceil(len(tasks) / columns)
    width = max(6.5, 3.9 * columns)
    names = [shorten(name, 34) for name in looks]
    num_beside = max(1, int(width / (0.6 + 0.09 * max(map(len, names), default=0))))
    legend = 0.22 * math.ceil(len(names) / num_beside)
    size = (width, 0.7 + legend + 2.9 * num_rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(num_rows, columns, squeeze=False).ravel()
    for axes in grid[len(tasks) :]:
        axes.set_axis_off()
    for axes, task in zip(grid, tasks, strict=False):
        _cost_panel(axes, frame[frame["task"] == task], looks)
        axes.set(title="\n".join(shorten(line, 40) for line in task.split("\n")))
    if looks:
        handles = [
            Line2D([], [], color=color, marker=marker, linestyle="", markeredgecolor="k")
            for color, marker in looks.values()
        ]
        figure.legend(handles, names, loc="outside lower left", ncols=min(num_beside, len(names)))
    return figure


def _cost_panel(axes: Axes, part: pd.DataFrame, looks: Looks) -> None:
    columns = (part[name].tolist() for name in ("encoder", "seconds", "mean", "sd"))
    for encoder, seconds, mean, sd in zip(*columns, strict=True):
        color, marker = looks.get(encoder, (GREY, "o"))
        axes.errorbar(
            *(seconds, mean),
            yerr=None if math.isnan(sd) else sd,
            color=color,
            marker=marker,
            markersize=7,
            markeredgecolor="black",
            markeredgewidth=0.6,
            elinewidth=1.2,
        )
    for name, seconds, mean in () if looks else _front(part):
        axes.annotate(shorten(name, 26), (seconds, mean), (0, 7), textcoords="offset points")
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
    """The cheapest and the best point: name, seconds, mean; one where they lie close together."""
    sign = 1 if part["higher_better"].iloc[0] else -1
    best = part.assign(rank=sign * part["mean"]).sort_values(["rank", "seconds"]).iloc[-1]
    cheapest = part.sort_values(["seconds", "encoder"]).iloc[0]
    height = float(part["mean"].max() - part["mean"].min())
    is_apart = abs(float(best["mean"]) - float(cheapest["mean"])) > 0.2 * height
    named = [best, cheapest] if is_apart else [best]
    return [(str(row["encoder"]), float(row["seconds"]), float(row["mean"])) for row in named]


def _flat(task: str) -> str:
    return task.replace("\n", " on ")
