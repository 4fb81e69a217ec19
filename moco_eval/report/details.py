"""Pictures of what records tell beside their metrics: choices, curves, classes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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
    if "sensitivity" not in without and (rows := tried(summary.runs)):
        heading = f"Sensitivity: {summary.label}"
        name = _name(summary, "sensitivity")
        made.append(
            drawn(lambda folder: sensitivity.draw(rows, folder, title=title), title=heading, name=name)
        )
    for name, (x, lines) in curves(summary.runs).items():
        made.append(
            drawn(
                lambda folder, x=x, lines=lines: _draw_curve(x, lines, folder, title=title),
                title=f"{x[1]}: {summary.label}",
                name=_name(summary, name),
            )
        )
    if "per_class" not in without:
        made += _classes(summary, title)
    return [picture for picture in made if picture]


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


Axis = tuple[str, str]  # what x is, what is measured


def curves(runs: Sequence[Record]) -> dict[str, tuple[Axis, list[tuple[list[float], list[float]]]]]:
    """Curves among the details, one line a seed, by the picture's name."""
    found: dict[str, tuple[Axis, list[tuple[list[float], list[float]]]]] = {}
    epochs = [_selection(run).get("test_top1_by_epoch") for run in runs]
    lines = [(list(map(float, range(1, len(e) + 1))), e) for e in epochs if _is_line(e)]
    if lines:
        found["by_epoch"] = (("epoch", "Test top-1 by epoch (%)"), lines)
    shots = [run["details"].get("by_shots") for run in runs]
    lines = []
    for each in shots:
        if isinstance(each, Mapping) and len(each) > 1:
            counts = sorted(each, key=int)
            means = [float(np.mean(each[count]["mAP_by_draw"])) for count in counts]
            lines.append(([float(count) for count in counts], means))
    if lines:
        found["by_shots"] = (("images a class", "mAP by number of images (%)"), lines)
    return found


def _is_line(values: Any) -> bool:
    return isinstance(values, list) and len(values) > 1 and all(v is not None for v in values)


def _draw_curve(
    x: Axis, lines: Sequence[tuple[list[float], list[float]]], folder: Path, *, title: str
) -> Path:
    with style():
        figure = Figure(figsize=(7.5, 4.2), layout="constrained")
        axes = figure.subplots()
        # Few points are seen only with marks.
        marker = "o" if max(len(xs) for xs, _ in lines) <= 12 else ""
        for xs, ys in lines:
            faint = 0.35 if len(lines) > 1 else 1.0
            axes.plot(xs, ys, color=BLUE, alpha=faint, linewidth=1.2, marker=marker, markersize=4)
        means = pd.DataFrame([dict(zip(xs, ys, strict=True)) for xs, ys in lines]).mean().sort_index()
        if len(lines) > 1:
            axes.plot(means.index, means, color=BLUE, linewidth=2.2)
        axes.set(xlabel=x[0])
        if x[0] == "epoch":
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        else:
            axes.set_xscale("log")
            axes.set_xticks(means.index, [f"{place:g}" for place in means.index])
            axes.minorticks_off()
        several = f"; bold: mean of {len(lines)} seeds" if len(lines) > 1 else ""
        rows = [
            {"line": number, x[0]: place, "value": round(value, 4)}
            for number, (xs, ys) in enumerate(lines, start=1)
            for place, value in zip(xs, ys, strict=True)
        ]
        return write(
            figure,
            folder / "curve.png",
            title=f"{title}\n{x[1]}{several}",
            alt=f"{x[1]}, mean of {counted(len(lines), 'seed')}: {means.iloc[0]:.1f} at {x[0]}"
            f" {means.index[0]:g}, {means.iloc[-1]:.1f} at {means.index[-1]:g}.",
            numbers=pd.DataFrame(rows),
        )


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
                lambda folder, means=means, names=names, measure=measure: by_class.draw_values(
                    means, names, folder / "classes.png", title=title, measure=measure
                ),
                title=f"{measure[1]} by class{kind}: {summary.label}",
                name=_name(summary, name),
            )
        )
    return made


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def _seeds(summary: Summary) -> str:
    return f"seed {summary.seeds[0]}" if len(summary.seeds) == 1 else f"{len(summary.seeds)} seeds"


def _name(summary: Summary, what: str) -> str:
    protocol, version, recipe, dataset, *_ = summary.column
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{protocol}-{version}-{recipe}-{dataset}-{what}")
