"""Pictures of what records tell beside their metrics: choices, curves, classes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from moco_eval.canvas import BLUE, style
from moco_eval.pictures import by_class, sensitivity
from moco_eval.pictures.writing import counted, write
from moco_eval.report.picture import Picture, drawn
from moco_eval.report.summary import Summary

Record = Mapping[str, Any]

# A detail of so many numbers by class, such as ``AP_by_class``.
_BY_CLASS = re.compile(r"(?P<metric>\w+?)_by_class(?P<kind>_mask|_kp)?")
_KINDS = {"_mask": ", masks", "_kp": ", keypoints", None: ""}
_NAMES = {"AP": "Average precision", "IoU": "Intersection over union", "top1": "Accuracy"}


def pictures_of(summary: Summary, *, without: frozenset[str] = frozenset()) -> list[Picture]:
    """What the records of one encoder under one protocol allow to draw.

    Args:
        summary: The runs.
        without: Kinds that the runs have drawn themselves, such as ``sensitivity``.
    """
    made: list[Picture | None] = []
    title = f"{summary.encoder}, {summary.label}, {_seeds(summary)}"
    rows = [] if "sensitivity" in without else tried(summary.runs)
    if rows:
        made.append(
            drawn(
                partial(_draw_sensitivity, rows, title=title),
                title=f"Sensitivity: {summary.label}",
                name=_name(summary, "sensitivity"),
            )
        )
    for curve in curves(summary.runs):
        made.append(
            drawn(
                partial(_draw_curve, curve, title=title),
                title=f"{curve.title}: {summary.label}",
                name=_name(summary, curve.name),
            )
        )
    if "per_class" not in without:
        made += _classes(summary, title)
    return [picture for picture in made if picture]


def _draw_sensitivity(
    rows: Sequence[Mapping[str, Any]], folder: Path, *, title: str
) -> Path | None:
    return sensitivity.draw(rows, folder, title=title)


def tried(runs: Sequence[Record]) -> list[dict[str, Any]]:
    """Every tried setting with its held-out score, of every seed, as ``sensitivity`` draws them."""
    rows: list[dict[str, Any]] = []
    chosen = []
    for run in runs:
        told = _selection(run)
        rows += _settings(told)
        chosen.append(told.get("chosen"))
    if len(chosen) > 1 and any(choice != chosen[0] for choice in chosen):
        # No setting is the choice of all seeds.
        return [{name: value for name, value in row.items() if name != "chosen"} for row in rows]
    return rows


def _selection(run: Record) -> Mapping[str, Any]:
    told = run["details"].get("selection")
    return told if isinstance(told, Mapping) else {}


def _settings(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings of one run's selection, whatever the shape in which its protocol tells them."""
    chosen = told.get("chosen")
    for kind in ("c", "lambda"):
        scores = told.get(f"by_{kind}")
        if isinstance(scores, Mapping):
            return [
                {kind: float(value), **_scores(row), "chosen": float(value) == chosen}
                for value, row in scores.items()
            ]
    for kind in ("by_head", "by_pair"):
        if isinstance(told.get(kind), list):
            return [
                dict(row, chosen=isinstance(chosen, Mapping) and _holds(row, chosen))
                for row in told[kind]
                if isinstance(row, Mapping)
            ]
    if isinstance(told.get("score_by_lr"), Mapping):
        return [
            {"lr": float(lr), "AP": score, "chosen": float(lr) == told.get("lr")}
            for lr, score in told["score_by_lr"].items()
        ]
    by_class = told.get("by_class")
    if isinstance(by_class, Mapping):
        by_cost: dict[str, list[float]] = defaultdict(list)
        for curve in by_class.values():
            for cost, score in curve.items():
                by_cost[cost].append(score)
        return [{"c": float(c), "mAP": float(np.nanmean(values))} for c, values in by_cost.items()]
    return []


def _scores(row: Any) -> dict[str, Any]:
    return dict(row) if isinstance(row, Mapping) else {"top1": row}


def _holds(row: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
    return all(row.get(name) == value for name, value in chosen.items())


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What changes along something, one line a seed.

    Attributes:
        name: What the picture is called.
        title: What is measured, in percent.
        x: Along what.
        lines: Of each seed, places and values.
    """

    name: str
    title: str
    x: str
    lines: tuple[dict[float, float], ...]


def curves(runs: Sequence[Record]) -> list[Curve]:
    """Curves among the details of runs that differ only by the seed."""
    told = [_selection(run).get("test_top1_by_epoch") for run in runs]
    epochs = tuple(
        {float(place): value for place, value in enumerate(line, start=1)}
        for line in told
        if isinstance(line, list) and len(line) > 1 and None not in line
    )
    by_shots = [run["details"].get("by_shots") for run in runs]
    shots = tuple(
        {float(count): float(np.mean(each["mAP_by_draw"])) for count, each in line.items()}
        for line in by_shots
        if isinstance(line, Mapping) and len(line) > 1
    )
    found = (
        Curve(name="by_epoch", title="Test top-1 by epoch", x="epoch", lines=epochs),
        Curve(name="by_shots", title="mAP by number of images", x="images a class", lines=shots),
    )
    return [curve for curve in found if curve.lines]


def _draw_curve(curve: Curve, folder: Path, *, title: str) -> Path:
    count = len(curve.lines)
    table: pd.DataFrame = pd.DataFrame(curve.lines).T.sort_index()
    means = table.mean(axis="columns")
    first, last = means.index[0], means.index[-1]
    several = f"; bold: mean of {count} seeds" if count > 1 else ""
    rows = [
        {"line": number, curve.x: place, "value": round(value, 4)}
        for number, line in enumerate(curve.lines, start=1)
        for place, value in sorted(line.items())
    ]
    with style():
        return write(
            _curve_figure(curve, table, means),
            folder / "curve.png",
            title=f"{title}\n{curve.title} (%){several}",
            alt=f"{curve.title}, mean of {counted(count, 'seed')}: {means[first]:.1f} % at"
            f" {curve.x} {first:g}, {means[last]:.1f} % at {last:g}.",
            numbers=pd.DataFrame(rows),
        )


def _curve_figure(curve: Curve, table: pd.DataFrame, means: pd.Series[float]) -> Figure:
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    # Few points are seen only with marks.
    look: dict[str, Any] = {"color": BLUE, "marker": "o" if len(means) <= 12 else ""}
    for _, line in table.items():
        axes.plot(table.index, line, alpha=0.35, linewidth=1, markersize=4, **look)
    axes.plot(means.index, means, linewidth=2.2, markersize=5, **look)
    axes.set(xlabel=curve.x)
    if curve.name == "by_epoch":
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        return figure
    axes.set_xscale("log")
    axes.set_xticks(means.index, [f"{place:g}" for place in means.index])
    axes.minorticks_off()
    return figure


def _classes(summary: Summary, title: str) -> list[Picture | None]:
    """Bars of what is told by class, means over the seeds."""
    made = []
    for name in summary.runs[0]["details"]:
        match = _BY_CLASS.fullmatch(name)
        told = [run["details"].get(name) for run in summary.runs]
        if not match or not all(isinstance(each, Mapping) and each for each in told):
            continue
        names = list(told[0])
        values = np.array([[_number(each.get(n)) for n in names] for each in told])
        means = np.where(np.isnan(values).any(axis=0), np.nan, values.mean(axis=0))
        word = match["metric"]
        kind = _KINDS[match["kind"]]
        measure = (word, _NAMES.get(word, word))
        made.append(
            drawn(
                partial(_draw_classes, (means, names), title=title, measure=measure),
                title=f"{measure[1]} by class{kind}: {summary.label}",
                name=_name(summary, name),
            )
        )
    return made


def _draw_classes(
    values: tuple[NDArray[np.float64], list[str]],
    folder: Path,
    *,
    title: str,
    measure: tuple[str, str],
) -> Path | None:
    means, names = values
    path = folder / "classes.png"
    return by_class.draw_values(means, names, path, title=title, measure=measure)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def _seeds(summary: Summary) -> str:
    return f"seed {summary.seeds[0]}" if len(summary.seeds) == 1 else f"{len(summary.seeds)} seeds"


def _name(summary: Summary, what: str) -> str:
    protocol, version, recipe, dataset, *_ = summary.column
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{protocol}-{version}-{recipe}-{dataset}-{what}")
