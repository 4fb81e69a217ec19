"""Pictures of pretraining: what the network saw, how it learnt; and of what a detector finds.

Each function takes numpy arrays, writes a PNG, and beside it, under the same name, a CSV of the
numbers that are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from moco_eval.canvas import (
    BLUE,
    CLASS_COLORS,
    GREEN,
    VERMILLION,
    Floats,
    level,
    outlined,
    save,
    save_numbers,
    show,
    style,
)


@dataclass(frozen=True, kw_only=True)
class Objects:
    """What is, or was found, in one scene.

    Attributes:
        boxes: ``(N, 4)``: left, top, right, bottom, in pixels.
        names: The class of each box.
        scores: ``(N,)`` confidences from 0 to 1; None for ground truth.
        masks: ``(N, H, W)`` booleans; None where there are only boxes.
    """

    boxes: Floats
    names: Sequence[str]
    scores: Floats | None = None
    masks: NDArray[np.bool_] | None = None


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One scene with its ground truth and a detector's answer; image ``(H, W, 3)`` on 0-1."""

    image: Floats
    truth: Objects
    predicted: Objects


def views_sheet(views: Floats, path: Path, *, title: str) -> None:
    """Draw the views of some images as the network sees them: one image a column.

    Args:
        views: ``(N, V, H, W, 3)`` on 0-1: V views of each of N images.
        path: The PNG.
        title: What they are.
    """
    num_images, num_views = views.shape[:2]
    with style():
        figure = Figure(figsize=(0.6 + 1.1 * num_images, 0.45 + 1.1 * num_views))
        figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.04, wspace=0.02, hspace=0.02)
        axes = figure.subplots(num_views, num_images, squeeze=False)
        for row in range(num_views):
            for column in range(num_images):
                show(axes[row, column], views[column, row])
            axes[row, 0].set_ylabel(f"view {row + 1}")
        save(figure, path, title=title)


def pretraining_curve(
    metrics: Sequence[Mapping[str, Any]], path: Path, *, chance_loss: float, chance_top1: float
) -> None:
    """Draw the contrastive loss and accuracy against what guessing reaches.

    Args:
        metrics: Rows with ``step``, ``epoch``, ``loss`` and ``contrast_top1`` in percent.
        path: The PNG.
        chance_loss: The loss of guessing: ln(1 + K) with K negatives, times what the loss is scaled
            by.
        chance_top1: The accuracy of guessing in percent: 100 / (1 + K).
    """
    frame = pd.DataFrame(metrics)[["step", "epoch", "loss", "contrast_top1"]]
    window = max(1, len(frame) // 40)
    smooth = frame.rolling(window, center=True, min_periods=1).mean()
    panels = (
        ("loss", "contrastive loss", chance_loss, f"chance: {chance_loss:.2f}"),
        ("contrast_top1", "contrastive top-1 (%)", chance_top1, f"chance: {chance_top1:.2g} %"),
    )
    with style():
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        for axes, (name, title, chance, label) in zip(figure.subplots(1, 2), panels, strict=True):
            axes.plot(frame["step"], frame[name], color=BLUE, alpha=0.25, linewidth=0.8)
            axes.plot(frame["step"], smooth[name], color=BLUE)
            level(axes, chance, label)
            axes.set(title=title)
            axes.margins(y=0.1)
            _steps_below(axes)
        smoothed = f" (bold: mean of {window} steps)" if window > 1 else ""
        save(figure, path, title=f"Pretraining{smoothed}")
    save_numbers(frame, path)


def embeddings_panel(metrics: Sequence[Mapping[str, Any]], path: Path, *, dim: int) -> None:
    """Draw how far the embeddings lie apart while a network trains: what a collapse looks like.

    Args:
        metrics: Rows, of which those with ``embedding_sd``, ``effective_rank``,
            ``positive_similarity`` and ``negative_similarity`` are drawn; at least one.
        path: The PNG.
        dim: How many dimensions the embeddings can use.
    """
    names = ["embedding_sd", "effective_rank", "positive_similarity", "negative_similarity"]
    rows = [row for row in metrics if "embedding_sd" in row]
    frame = pd.DataFrame(rows)[["step", *names]]
    # Points where there are few; a crowd of them would hide the line.
    points: dict[str, Any] = {"marker": "o" if len(frame) <= 60 else "", "markersize": 3}
    with style():
        figure = Figure(figsize=(11.2, 3.4), layout="constrained")
        spread, rank, similarity = figure.subplots(1, 3)
        for axes, name, best, label, title in (
            (spread, names[0], 1, "even over the sphere: 1", "s.d. of a dimension (times √D)"),
            (rank, names[1], dim, f"possible: {dim}", "effective rank (dimensions)"),
        ):
            axes.plot(frame["step"], frame[name], color=BLUE, **points)
            level(axes, best, label, color=GREEN)
            level(axes, 0, "collapsed: 0")
            axes.set(title=title, ylim=(-0.04 * best, 1.2 * best))
            _ticks_up_to(axes, best)
        for name, label, line in (
            (names[2], "same image", {"color": BLUE}),
            (names[3], "other images", {"color": VERMILLION, "linestyle": "--"}),
        ):
            similarity.plot(frame["step"], frame[name], label=label, **line, **points)
        lowest = min(0.0, frame[names[2:]].min(axis=None))
        similarity.set(title="cosine of query and key", ylim=(lowest - 0.05, 1.25))
        _ticks_up_to(similarity, 1)
        similarity.legend(loc="upper right", ncols=2, handlelength=3)
        for axes in (spread, rank, similarity):
            _steps_below(axes)
        save(figure, path, title="Embeddings of one batch while pretraining")
    save_numbers(frame, path)


def knn_curve(points: Sequence[tuple[float, float]], path: Path, *, chance: float) -> None:
    """Draw the kNN top-1 of a network while it trains.

    Args:
        points: (finished epochs, top-1 in percent).
        path: The PNG.
        chance: The top-1 of guessing, in percent.
    """
    frame = pd.DataFrame(points, columns=["epoch", "knn_top1"])
    epoch, top1 = points[-1]
    with style():
        figure = Figure(figsize=(5.4, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.plot(frame["epoch"], frame["knn_top1"], color=BLUE, marker="o", markersize=5)
        axes.annotate(f"{top1:.1f}", (epoch, top1), (0, 7), textcoords="offset points", ha="center")
        level(axes, chance, f"chance: {chance:.3g} %")
        axes.set(xlabel="epochs", ylim=(0, 105))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        save(figure, path, title="kNN top-1 (%) while pretraining")
    save_numbers(frame.assign(chance=chance), path)


def detections(scenes: Sequence[Scene], path: Path, *, title: str) -> None:
    """Draw ground truth beside prediction, two scenes a row.

    Args:
        scenes: What to draw; predictions below the score one cares for are already left out.
        path: The PNG.
        title: Whose predictions they are.
    """
    names = sorted({name for s in scenes for o in (s.truth, s.predicted) for name in o.names})
    colors = {name: CLASS_COLORS[i % len(CLASS_COLORS)] for i, name in enumerate(names)}
    num_rows = math.ceil(len(scenes) / 2)
    with style():
        figure = Figure(figsize=(11.2, 0.5 + 2.9 * num_rows))
        figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.05, wspace=0.02, hspace=0.02)
        grid = figure.subplots(num_rows, 5, squeeze=False, width_ratios=[1, 1, 0.1, 1, 1])
        for axes in grid.flat:
            axes.set_axis_off()
        places = [place for row in grid for place in (row[:2], row[3:])]
        for scene, (left, right) in zip(scenes, places, strict=False):
            for axes, objects, heading in (
                (left, scene.truth, "ground truth"),
                (right, scene.predicted, "prediction"),
            ):
                show(axes, scene.image)
                axes.set_title(heading)
                _draw_objects(axes, objects, colors, scene.image.shape)
        save(figure, path, title=title)
    save_numbers(_object_frame(scenes), path)


def _draw_objects(
    axes: Axes, objects: Objects, colors: Mapping[str, str], shape: tuple[int, ...]
) -> None:
    height, width = shape[:2]
    for index, (box, name) in enumerate(zip(objects.boxes, objects.names, strict=True)):
        x0, y0, x1, y1 = box
        color = colors[name]
        if objects.masks is not None:
            layer = np.zeros((height, width, 4))
            layer[objects.masks[index]] = mpl.colors.to_rgba(color, 0.45)
            axes.imshow(layer, interpolation="nearest")
        frame = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, linewidth=1.6)
        frame.set_path_effects(outlined(2.8, "black"))
        axes.add_patch(frame)
        text = name if objects.scores is None else f"{name} {objects.scores[index]:.2f}"
        axes.text(
            x0,
            y0,
            text,
            fontsize=9,
            # Above the box and to the right, but inside the picture.
            va="bottom" if y0 > 0.08 * height else "top",
            ha="left" if x0 < 0.75 * width else "right",
            bbox={"facecolor": color, "edgecolor": "none", "pad": 1.2},
        )


def _object_frame(scenes: Sequence[Scene]) -> pd.DataFrame:
    rows = []
    for number, scene in enumerate(scenes, start=1):
        for kind, objects in (("truth", scene.truth), ("prediction", scene.predicted)):
            scores = [None] * len(objects.names) if objects.scores is None else objects.scores
            for box, name, score in zip(objects.boxes, objects.names, scores, strict=True):
                rows.append((number, kind, name, score, *box))
    columns = ["scene", "kind", "class", "score", "x0", "y0", "x1", "y1"]
    frame: pd.DataFrame = pd.DataFrame(rows, columns=columns)
    rounded: pd.DataFrame = frame.round(4)
    return rounded


def _ticks_up_to(axes: Axes, top: float) -> None:
    """Leave out ticks of values that cannot be; the room above them is for text."""
    bottom = axes.get_ylim()[0]
    axes.set_yticks([tick for tick in axes.get_yticks() if bottom <= tick < top + 1e-6])


def _steps_below(axes: Axes) -> None:
    axes.set(xlabel="step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
