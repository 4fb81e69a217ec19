"""Pictures of pretraining: what the network saw, and how it learnt.

Each function takes numpy arrays, writes a PNG with its meaning in words, and beside it, under the
same name, a CSV of the numbers that are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from moco_eval.canvas import BLUE, GREEN, VERMILLION, Floats, level, show, style
from moco_eval.pictures.writing import write


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
        alt = f"{num_views} views of each of {num_images} images, as the network sees them."
        write(figure, path, title=title, alt=alt)


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
        loss, top1 = (smooth[name] for name in ("loss", "contrast_top1"))
        alt = (
            f"Pretraining over {len(frame):,} steps: loss from {loss.iloc[0]:.2f} to"
            f" {loss.iloc[-1]:.2f}, where guessing has {chance_loss:.2f}; contrastive top-1 from"
            f" {top1.iloc[0]:.1f} to {top1.iloc[-1]:.1f} %, where guessing has {chance_top1:.2g} %."
        )
        write(figure, path, title=f"Pretraining{smoothed}", alt=alt, numbers=frame)


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
        last = frame.iloc[-1]
        alt = (
            f"Embeddings at the last look: s.d. of a dimension {last[names[0]]:.2f}, where 1 is"
            f" even and 0 collapsed; effective rank {last[names[1]]:.0f} of {dim}; cosine"
            f" {last[names[2]]:.2f} of the same image and {last[names[3]]:.2f} of others."
        )
        title = "Embeddings of one batch while pretraining"
        write(figure, path, title=title, alt=alt, numbers=frame)


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
        alt = (
            f"kNN top-1 while pretraining: from {points[0][1]:.1f} % after {points[0][0]:g} epochs"
            f" to {top1:.1f} % after {epoch:g}, where guessing has {chance:.3g} %."
        )
        title = "kNN top-1 (%) while pretraining"
        write(figure, path, title=title, alt=alt, numbers=frame.assign(chance=chance))


def _ticks_up_to(axes: Axes, top: float) -> None:
    """Leave out ticks of values that cannot be; the room above them is for text."""
    bottom = axes.get_ylim()[0]
    axes.set_yticks([tick for tick in axes.get_yticks() if bottom <= tick < top + 1e-6])


def _steps_below(axes: Axes) -> None:
    axes.set(xlabel="step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
