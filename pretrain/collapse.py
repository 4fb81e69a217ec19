"""Whether a run learns: the spread of its embeddings, and a sentence on how it went.

The loss alone does not tell. It starts low, for the queue's random keys are easily told apart,
rises to that of guessing, ln(1 + K), and falls from there when there is learning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor
from torch.nn import functional as F

STATISTICS = ("embedding_sd", "effective_rank", "positive_similarity", "negative_similarity")

MEDIAN_OVER_STEPS = 20
# A tenth below the loss of guessing counts as having left it.
LEFT_CHANCE = 0.9
# Fewer dimensions than this share, or a smaller spread than this, and images look alike.
COLLAPSED_SHARE = 0.05
COLLAPSED_SD = 0.1


@torch.no_grad()
def embedding_statistics(queries: Tensor, keys: Tensor) -> dict[str, float]:
    """Measure how far the embeddings of one batch lie apart.

    Args:
        queries: ``(N, D)`` of N > 1 images, of any length; normalised here.
        keys: ``(N, D)`` of the same images' other views.

    Returns:
        ``embedding_sd``: the mean over dimensions of the queries' standard deviation, times
        sqrt(D): 1 when they are spread evenly over the sphere, 0 when all are one.
        ``effective_rank``: exp of the entropy of the centred queries' normalised singular values
        (Roy and Vetterli, EUSIPCO 2007, section 2); at most D and N - 1, 0 when all are one.
        ``positive_similarity`` and ``negative_similarity``: the mean cosine of a query with its
        own image's key, and with the other images' keys.
    """
    num_images, dim = queries.shape
    assert num_images > 1, "one image has no spread"
    q, k = (F.normalize(part.detach().cpu().double(), dim=1) for part in (queries, keys))
    positives = (q * k).sum()
    negatives = q.sum(0) @ k.sum(0) - positives
    return {
        "embedding_sd": q.std(0, correction=0).mean().item() * dim**0.5,
        "effective_rank": _effective_rank(q - q.mean(0)),
        "positive_similarity": positives.item() / num_images,
        "negative_similarity": negatives.item() / (num_images * (num_images - 1)),
    }


def _effective_rank(centred: Tensor) -> float:
    singular_values = torch.linalg.svdvals(centred)
    # Unit vectors have a matrix of norm sqrt(N); what is this much smaller is float32's rounding.
    singular_values = singular_values[singular_values > 1e-6 * len(centred) ** 0.5]
    if len(singular_values) == 0:
        return 0.0
    shares = singular_values / singular_values.sum()
    rank: float = torch.special.entr(shares).sum().exp().item()
    return rank


def verdict(rows: Sequence[Mapping[str, float]], *, chance_loss: float, dim: int) -> str:
    """Say in one sentence how a run went.

    Args:
        rows: Of ``metrics.jsonl``, from the first step to the last: ``step`` and ``loss``; some
            with ``knn_top1`` or the numbers of ``embedding_statistics``.
        chance_loss: The loss of guessing: ln(1 + K) with a queue, ln(N) within a batch of N.
        dim: How many dimensions the embeddings can use: theirs, or one less than the images whose
            statistics were taken where that is fewer.
    """
    said = [_on_the_loss(rows, chance_loss)]
    points = [row["knn_top1"] for row in rows if "knn_top1" in row]
    if points:
        said.append(f"kNN {points[-1]:.1f}")
    spread = [row for row in rows if "effective_rank" in row]
    if spread:
        said.append(_on_the_spread(spread[-1], dim))
    return "; ".join(said)


def _on_the_loss(rows: Sequence[Mapping[str, float]], chance: float) -> str:
    losses = np.array([row["loss"] for row in rows])
    window = min(MEDIAN_OVER_STEPS, len(losses))
    smooth = np.median(sliding_window_view(losses, window), axis=1)
    at_chance = np.flatnonzero(smooth >= LEFT_CHANCE * chance)
    if len(at_chance) == 0:
        return (
            f"the loss never came near chance ({chance:.2f}; at most {smooth.max():.2f}), so that "
            "it cannot tell whether the run learnt: look at kNN"
        )
    first, last = at_chance[0], at_chance[-1]
    if last + 1 < len(smooth):
        return f"loss left chance at step {rows[last + window]['step']:,}"
    advice = "lower lr, keep key_momentum near 1, and look at views.png"
    if last - first + 1 == len(at_chance):
        return f"the loss never left chance ({chance:.2f}): the run has failed; {advice}"
    return f"the loss left chance ({chance:.2f}) and came back: the run has failed; {advice}"


def _on_the_spread(row: Mapping[str, float], dim: int) -> str:
    used = f"{row['effective_rank']:.0f} of {dim} dimensions"
    sd = row["embedding_sd"]
    if row["effective_rank"] < COLLAPSED_SHARE * dim or sd < COLLAPSED_SD:
        return f"the embeddings have collapsed: they use {used}, with a spread of {sd:.2f}"
    return f"embeddings use {used}"
