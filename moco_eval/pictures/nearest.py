"""What features find alike: images with their nearest neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageOps

from moco_eval.canvas import (
    GREEN,
    VERMILLION,
    Floats,
    outlined,
    shorten,
    show,
    style,
)
from moco_eval.pictures.writing import write

Array = NDArray[Any]

NUM_QUERIES = 5  # of the best, and of the worst
MAX_NEIGHBOURS = 8
SIDE = 128


def draw(
    arrays: Mapping[str, Array],
    images: tuple[Sequence[Any], Sequence[Any]],
    names: Sequence[str],
    folder: Path,
    *,
    title: str,
) -> Path | None:
    """Draw ``neighbours.png``: the test images whose neighbours are right most and least often.

    Of those with as many neighbours of their own class the nearest come first: the best are the
    surest, and so are the worst. No class gives two of them while others have one.

    Args:
        arrays: ``neighbours`` ``(M, k)``, ``labels`` ``(M,)``, ``train_labels`` ``(N,)`` and, where
            it is known, ``similarities`` ``(M, k)``.
        images: The test and the training images, decoded when indexed.
        names: Of the classes.
        folder: Where it goes.
        title: What it is of.

    Returns:
        The picture; None where there are no neighbours.
    """
    found, labels = arrays["neighbours"], arrays["labels"]
    num_queries, k = found.shape
    if not k:
        return None
    right = arrays["train_labels"][found] == labels[:, None]
    similarities = arrays.get("similarities", np.full(found.shape, np.nan))
    chosen = choose(right.sum(1), np.nan_to_num(similarities).mean(1), labels)
    shown = min(k, MAX_NEIGHBOURS)
    captions = [
        f"{rank}\n{shorten(names[labels[query]], 18)}\n{right[query].sum()} of {k}"
        for rank, query in chosen
    ]
    queries = [query for _, query in chosen]
    path = folder / "neighbours.png"
    draw_grid(
        np.stack([_pixels(images[0][query]) for query in queries]),
        np.stack([[_pixels(images[1][i]) for i in row] for row in found[queries, :shown]]),
        right[queries, :shown],
        path,
        title=f"{title}\nNearest training images of the best and the worst of {num_queries:,} test"
        f" images: how many of the {k} nearest are of its class"
        + (f", the first {shown} shown" if shown < k else ""),
        captions=captions,
        numbers=_numbers(chosen, arrays, similarities, names),
    )
    return path


def choose(hits: Array, nearness: Array, labels: Array) -> list[tuple[str, int]]:
    """The queries to draw: (``best 1`` and so on, index), the best first, the worst last.

    Args:
        hits: ``(M,)``: how many neighbours are of the query's class.
        nearness: ``(M,)``, which decides between queries with as many.
        labels: ``(M,)``.
    """
    places = np.arange(len(hits))
    best = np.lexsort((places, -nearness, -hits))
    num_best = min(NUM_QUERIES, (len(hits) + 1) // 2)
    picked = _of_many_classes(best, labels, num_best)
    worst = np.lexsort((places, -nearness, hits))
    worst = worst[~np.isin(worst, picked)]
    picked_worst = _of_many_classes(worst, labels, min(NUM_QUERIES, len(worst)))
    return [
        *((f"best {rank}", query) for rank, query in enumerate(picked, start=1)),
        *((f"worst {rank}", query) for rank, query in enumerate(picked_worst, start=1)),
    ]


def _of_many_classes(order: Array, labels: Array, number: int) -> list[int]:
    """The first ``number`` in this order, each class once before any comes again."""
    _, first = np.unique(labels[order], return_index=True)
    of_new_class = np.zeros(len(order), dtype=bool)
    of_new_class[first] = True
    # Stable: within both parts the order stays.
    again = np.argsort(~of_new_class, kind="stable")[:number]
    kept: list[int] = order[np.sort(again)].tolist()
    return kept


def _numbers(
    chosen: Sequence[tuple[str, int]],
    arrays: Mapping[str, Array],
    similarities: Array,
    names: Sequence[str],
) -> pd.DataFrame:
    labels, train_labels = arrays["labels"], arrays["train_labels"]
    rows = [
        {
            "query": what,
            "test_image": query,
            "class": names[labels[query]],
            "rank": rank,
            "train_image": neighbour,
            "neighbour_class": names[train_labels[neighbour]],
            "correct": bool(train_labels[neighbour] == labels[query]),
            "similarity": round(float(similarity), 4),
        }
        for what, query in chosen
        for rank, (neighbour, similarity) in enumerate(
            zip(arrays["neighbours"][query], similarities[query], strict=True), start=1
        )
    ]
    frame: pd.DataFrame = pd.DataFrame(rows)
    return frame


def _pixels(image: Any) -> Floats:
    """An image on 0-1 as ``(SIDE, SIDE, 3)``, whole, with white beside it where it is not square.

    Args:
        image: A Pillow image, or an array of bytes.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
    # Small ones in hard squares, as they are; large ones smoothly.
    resampling = Image.Resampling.NEAREST if max(picture.size) < SIDE else Image.Resampling.LANCZOS
    square = ImageOps.pad(picture.convert("RGB"), (SIDE, SIDE), resampling, color="white")
    return np.asarray(square) / 255.0


def draw_grid(  # noqa: PLR0913 - what is drawn, then what is said of it
    queries: Floats,
    neighbours: Floats,
    correct: NDArray[np.bool_],
    path: Path,
    *,
    title: str,
    captions: Sequence[str],
    numbers: pd.DataFrame,
) -> None:
    """Draw each query with its nearest neighbours, framed by whether they share its class.

    Args:
        queries: ``(N, H, W, 3)`` on 0-1.
        neighbours: ``(N, k, H, W, 3)``, nearest first.
        correct: ``(N, k)``.
        path: The PNG.
        title: What they are.
        captions: What stands left of each query.
        numbers: The CSV.
    """
    num_queries, k = correct.shape
    room = 0.09 * max((len(line) for text in captions for line in text.splitlines()), default=0)
    with style():
        figure = Figure(figsize=(1.6 + room + 1.15 * k, 0.75 + 1.15 * num_queries))
        figure.set_layout_engine("constrained", w_pad=0.07, h_pad=0.07, wspace=0, hspace=0)
        # An empty, narrow column parts the query from its neighbours.
        widths = [1, 0.25, *[1] * k]
        grid = figure.subplots(num_queries, k + 2, squeeze=False, width_ratios=widths)
        for row, image, found, flags in zip(grid, queries, neighbours, correct, strict=True):
            show(row[0], image)
            row[1].set_axis_off()
            for axes, neighbour, flag in zip(row[2:], found, flags, strict=True):
                show(axes, neighbour)
                _frame(axes, bool(flag))
        for axes, caption in zip(grid[:, 0], captions, strict=True):
            axes.set_ylabel(caption, rotation=0, ha="right", va="center", labelpad=6)
        grid[0, 0].set_title("query", loc="center")
        for rank, axes in enumerate(grid[0, 2:], start=1):
            axes.set_title(str(rank), loc="center")
        share = f"{100 * correct.mean():.0f} % of these share the query's class"
        write(
            figure,
            path,
            title=title,
            alt=f"{num_queries} images, each with its {k} nearest neighbours; {share}.",
            numbers=numbers,
        )


def _frame(axes: Axes, correct: bool) -> None:
    """A green frame and a tick, or a red one and a cross."""
    color = GREEN if correct else VERMILLION
    axes.spines[:].set(visible=True, color=color, linewidth=3)
    axes.text(
        0.95,
        0.03,
        "✓" if correct else "✗",
        transform=axes.transAxes,
        ha="right",
        va="bottom",
        color=color,
        fontsize=14,
        path_effects=outlined(),
    )
