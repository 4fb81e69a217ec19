"""Whether a classifier is right as often as it says it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from moco_eval.canvas import CLASS_COLORS, GREY, VERMILLION, style
from moco_eval.pictures.writing import write

Array = NDArray[Any]


def draw(logits: Array, labels: Array, folder: Path, *, title: str) -> Path | None:
    """Draw ``reliability.png``: accuracy by confidence, and how many images are how sure.

    The bins and their error are those of ``accuracy.reliability`` (Guo et al., arXiv:1706.04599,
    section 2), so that the picture shows the ``ece`` of the record.

    Args:
        logits: ``(M, C)``; minus infinity is no chance at all. An image with a value that is no
            number is left out.
        labels: ``(M,)`` classes from 0.
        folder: Where it goes.
        title: What it is of.

    Returns:
        The picture; None where no image has an answer.
    """
    frame = _bins(logits, labels)
    some = frame[frame["n"] > 0]
    if some.empty:
        return None
    ece = ((some["accuracy"] - some["confidence"]).abs() * some["n"]).sum() / some["n"].sum()
    missing = len(labels) - some["n"].sum()
    left_out = f"; {missing:,} without an answer" if missing else ""
    says = f"expected calibration error (ECE) {ece:.1f} %"
    with style():
        return write(
            _diagram(some, width=100 / len(frame)),
            folder / "reliability.png",
            title=f"{title}\nReliability: {says}, {len(frame)} bins, {some['n'].sum():,} images"
            f"{left_out}",
            alt=f"Accuracy by confidence of {some['n'].sum():,} images; {says}.",
            numbers=frame.round(4),
        )


def _bins(logits: Array, labels: Array) -> pd.DataFrame:
    # Where torch is loaded already: the caller computed the record's own number with it.
    import torch

    from moco_eval import accuracy

    probabilities = torch.from_numpy(logits).double().softmax(1)
    answered = ~probabilities.isnan().any(1)
    confidence, right, counts = accuracy.reliability(
        probabilities[answered], torch.from_numpy(labels)[answered]
    )
    edges = np.linspace(0, 100, len(counts) + 1)
    frame: pd.DataFrame = pd.DataFrame(
        {
            "above": edges[:-1],
            "up_to": edges[1:],
            "n": counts.long().numpy(),
            "confidence": 100 * confidence.numpy(),
            "accuracy": 100 * right.numpy(),
        }
    )
    return frame


def _diagram(some: pd.DataFrame, *, width: float) -> Figure:
    figure = Figure(figsize=(6.4, 7.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    left = some["above"] + 0.04 * width
    bar = {"width": 0.92 * width, "align": "edge"}
    upper.bar(left, some["accuracy"], color=CLASS_COLORS[0], label="accuracy", **bar)
    upper.bar(
        left,
        some["confidence"] - some["accuracy"],
        bottom=some["accuracy"],
        facecolor="none",
        edgecolor=VERMILLION,
        hatch="////",
        label="gap to the mean confidence",
        **bar,
    )
    upper.plot([0, 100], [0, 100], color="black", linestyle="--", label="as sure as right")
    upper.set(ylabel="accuracy (%)", xlim=(0, 100), ylim=(0, 104))
    upper.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    lower.bar(left, some["n"], color=GREY, **bar)
    for place, n in zip(some["above"] + width / 2, some["n"], strict=True):
        text = f"{n}" if n < 10_000 else f"{n / 1000:.0f}k"
        lower.annotate(
            text, (place, n), (0, 2), textcoords="offset points", ha="center", fontsize=9
        )
    lower.set(ylabel="images", xlabel="confidence (%)", ylim=(0, 1.2 * some["n"].max()))
    lower.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    return figure
