"""A map of features in the plane: which classes lie apart, and which on each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from moco_eval.canvas import CLASS_COLORS, outlined, shorten, style
from moco_eval.pictures.writing import write

Array = NDArray[Any]

MAX_POINTS = 3000
MAX_CLASSES = 20
MAX_DIM = 50
PERPLEXITY = 30
SEED = 0

# Fewer make no neighbourhood.
_MIN_POINTS = 10
_MARKERS = "osD"  # with seven colours, 21 looks for 20 classes


def draw(
    features: Array, labels: Array, names: Sequence[str], folder: Path, *, title: str
) -> Path | None:
    """Draw ``map.png``: t-SNE (van der Maaten and Hinton, JMLR 9, 2008) of test features.

    Of many classes some are drawn at random, since more cannot be told apart; of many images, too.
    The draws and t-SNE depend on ``SEED`` alone.

    Args:
        features: ``(M, D)``; more dimensions than 50 are first reduced to those by PCA. Rows with
            a value that is no number are left out.
        labels: ``(M,)`` classes from 0.
        names: Of the classes.
        folder: Where it goes.
        title: What it is of.

    Returns:
        The picture; None where fewer than 10 images remain, or where all features are the same.
    """
    usable: Array = np.isfinite(features.sum(axis=1))
    chosen = _choose(usable, labels)
    if len(chosen) < _MIN_POINTS or np.ptp(features[chosen], axis=0).max() == 0:
        return None
    perplexity = min(PERPLEXITY, (len(chosen) - 1) // 3)
    points = _embed(features[chosen].astype(np.float64), perplexity)
    frame = pd.DataFrame(
        {
            "image": chosen,
            "index": labels[chosen],
            "class": [names[label] for label in labels[chosen]],
            "x": points[:, 0].round(4),
            "y": points[:, 1].round(4),
        }
    )
    num_classes, num_shown = len(np.unique(labels)), frame["index"].nunique()
    which = f"{num_shown} of {num_classes:,} classes, " if num_shown < num_classes else ""
    reduced = f"PCA to {MAX_DIM} dimensions first, " if features.shape[1] > MAX_DIM else ""
    of_all = f" of {len(labels):,}" if len(chosen) < len(labels) else ""
    with style():
        return write(
            _map(frame, names),
            folder / "map.png",
            title=f"{title}\nt-SNE of {len(chosen):,}{of_all} test features: {which}{reduced}"
            f"perplexity {perplexity}, seed {SEED}",
            alt=f"Map by t-SNE of {len(chosen):,} test features of {num_shown} classes.",
            numbers=frame,
        )


def _choose(usable: Array, labels: Array) -> Array:
    """Indices of the images to draw, ascending."""
    generator = np.random.default_rng(SEED)
    classes = np.unique(labels[usable])
    if len(classes) > MAX_CLASSES:
        classes = generator.choice(classes, MAX_CLASSES, replace=False)
    chosen = np.flatnonzero(usable & np.isin(labels, classes))
    if len(chosen) > MAX_POINTS:
        chosen = np.sort(generator.choice(chosen, MAX_POINTS, replace=False))
    return chosen


def _embed(features: Array, perplexity: float) -> Array:
    # Seconds to import; only this picture needs them.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if features.shape[1] > MAX_DIM:
        num_components = min(MAX_DIM, len(features))
        features = PCA(num_components, random_state=SEED).fit_transform(features)
    tsne = TSNE(perplexity=perplexity, random_state=SEED, init="pca", learning_rate="auto")
    points: Array = tsne.fit_transform(features)
    return points


def _map(frame: pd.DataFrame, names: Sequence[str]) -> Figure:
    """The points, each class with a look of its own, and its number or name where it lies."""
    figure = Figure(figsize=(9.5, 7), layout="constrained")
    axes = figure.subplots()
    shown = sorted(frame["index"].unique())
    are_short = max(len(names[label]) for label in shown) <= 12
    size = 30 if len(frame) <= 1000 else 14
    for place, label in enumerate(shown):
        own = frame[frame["index"] == label]
        entry = names[label] if are_short else f"{label}: {shorten(names[label], 26)}"
        axes.scatter(
            own["x"],
            own["y"],
            s=size,
            c=CLASS_COLORS[place % len(CLASS_COLORS)],
            marker=_MARKERS[place // len(CLASS_COLORS) % len(_MARKERS)],
            edgecolors="#374151",
            linewidths=0.4,
            # What starts with an underscore would be left out of the legend.
            label=f" {entry}",
        )
    centres = frame.groupby("index")[["x", "y"]].median().to_numpy()
    texts = [names[label] if are_short else str(label) for label in shown]
    _place_texts(axes, centres, texts)
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_visible(False)
    figure.legend(title="class", loc="outside right center", markerscale=math.sqrt(30 / size))
    return figure


def _place_texts(axes: Axes, centres: Array, texts: Sequence[str]) -> None:
    """Write each text at its centre, or as near above or below it as others leave room."""
    width, height = np.ptp(np.column_stack([axes.get_xlim(), axes.get_ylim()]), axis=0)
    line = 0.035 * height
    # No move, a quarter of a line up, one down, two up and so on.
    moves = [(move + 1) // 2 * (-1) ** (move + 1) * line / 4 for move in range(16 * len(texts))]
    taken: list[tuple[float, float, float]] = []
    for (x, y), text in zip(centres.tolist(), texts, strict=True):
        half = 0.006 * width * (len(text) + 1)
        around = [(s, t) for s, t, other in taken if abs(x - s) < half + other]
        free = (y + move for move in moves if all(abs(y + move - t) >= line for _, t in around))
        top = next(free, y)
        taken.append((x, top, half))
        axes.text(x, top, text, ha="center", va="center", weight="bold", path_effects=outlined())
