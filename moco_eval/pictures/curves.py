"""How a training went: its losses and its learning rate by step."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from moco_eval.canvas import style
from moco_eval.pictures.looks import LINES
from moco_eval.pictures.writing import write

# Lines of more points are drawn faintly under their running mean over this share of them.
MAX_POINTS = 60
SMOOTHED_SHARE = 0.03
# What is no loss in a row of metrics.jsonl.
_NO_LOSS = {"step", "lr"}


def read(metrics: Path) -> pd.DataFrame:
    """The rows of a ``metrics.jsonl`` by step: ``step``, the losses, ``lr``.

    A run that went on from a checkpoint may have written a step twice: the later row counts. A last
    line that a kill tore is left out. Without the file there are no rows.
    """
    rows: dict[int, Mapping[str, float]] = {}
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and "step" in row:
            rows[int(row["step"])] = {n: v for n, v in row.items() if _is_number(v)}
    frame: pd.DataFrame = pd.DataFrame([rows[step] for step in sorted(rows)])
    return frame


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def draw(metrics: Path, path: Path, *, title: str) -> Path | None:
    """Draw each loss and the learning rate by step.

    Args:
        metrics: The ``metrics.jsonl`` of a training: a row ``{"step": 19, NAME: loss, "lr": 0.1}``
            now and then.
        path: The picture.
        title: What it is of.

    Returns:
        The picture; None where the file is missing or holds fewer than two steps with a loss.
    """
    frame = read(metrics)
    names = [
        str(name)
        for name in frame
        if _is_loss(str(name)) and np.isfinite(frame[name].astype(float)).any()
    ]
    if len(frame) < 2 or not names:
        return None
    first, last = (frame[names].ffill().bfill().iloc[place].sum() for place in (0, -1))
    num_steps = int(frame["step"].iloc[-1]) + 1
    with style():
        return write(
            _panels(frame, names),
            path,
            title=f"{title}\nTraining: {num_steps:,} steps",
            alt=f"Training losses over {num_steps:,} steps, their sum from {first:.3g} to "
            f"{last:.3g}.",
            numbers=frame,
        )


def _is_loss(name: str) -> bool:
    return "loss" in name


def _panels(frame: pd.DataFrame, names: Sequence[str]) -> Figure:
    """The losses above, the learning rate below, by the same steps."""
    figure = Figure(figsize=(8.4, 5.8), layout="constrained")
    has_rate = "lr" in frame and bool(frame["lr"].notna().any())
    ratios = [3, 1] if has_rate else [1]
    upper, *lower = figure.subplots(
        len(ratios), 1, sharex=True, height_ratios=ratios, squeeze=False
    ).ravel()
    steps = frame["step"].to_numpy() + 1
    for number, name in enumerate(names):
        _line(upper, steps, frame[name].astype(float), {"label": f" {name}"} | _look(number))
    upper.set(ylabel="loss", ylim=(0, _top(frame[names])))
    figure.legend(loc="outside right upper", handlelength=3.5)
    for axes in lower:
        axes.plot(steps, frame["lr"], color="black")
        axes.set(ylabel="learning rate", ylim=(0, 1.1 * frame["lr"].max() or 1))
    bottom = [upper, *lower][-1]
    bottom.set(xlabel="step", xlim=(0, steps[-1] * 1.01))
    bottom.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    bottom.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return figure


def _look(number: int) -> dict[str, Any]:
    look = {key: value for key, value in LINES[number % len(LINES)].items() if key != "marker"}
    return look | {"linewidth": 1.8}


def _line(axes: Axes, steps: Any, values: pd.Series[float], look: Mapping[str, Any]) -> None:
    if len(values) > MAX_POINTS:
        axes.plot(steps, values, color=look["color"], linewidth=0.7, alpha=0.35)
        window = max(3, math.ceil(SMOOTHED_SHARE * len(values)))
        values = values.rolling(window, center=True, min_periods=1).mean()
    axes.plot(steps, values, **look)


def _top(losses: pd.DataFrame) -> float:
    """High enough for all but the first steps, whose losses may be of another order."""
    values = losses.to_numpy(dtype=np.float64)
    usual = np.nanquantile(values[np.isfinite(values)], 0.995)
    return float(1.1 * usual) or 1.0
