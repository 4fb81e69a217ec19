"""Whether a classifier has learnt anything: judged on the images that it was trained on.

Not on the test set: a test set may be hard, or labelled otherwise, and then the number is what it
is. Not by a fixed percentage either: 1 % of 1,000 classes, from a random encoder, is an honest
result. What counts is the answer that needs no features: to say each class as often as it occurs.
Its cross-entropy is the labels' entropy, and its hits are the commonest class. A classifier has
learnt nothing if

- its loss is not finite; or
- its loss is ``DIVERGED`` times that entropy or more: it is sure of wrong answers, and its steps
  have lost all proportion to the features. (A published rate on features that it does not suit
  gives 10 times the entropy, and an accuracy that means something: that is told, not refused.); or
- it hits no more images than the commonest class, within 3 s.d. of a binomial draw, and its loss
  is ``NOTHING`` of that entropy or more. A weak encoder on many images passes by either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DIVERGED = 100.0
NOTHING = 0.98


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How well a classifier answers for the images that it was trained on.

    Attributes:
        loss: Mean loss; cross-entropy where ``baseline`` is not said.
        top1: In percent.
        baseline: The loss of the best answer without features; the labels' entropy if left out.
    """

    loss: float
    top1: float
    baseline: float | None = None


def fault_of(fit: Fit, labels: Tensor) -> str:
    """Why a classifier says nothing of its encoder, with the numbers; empty where it does.

    Args:
        fit: Of the classifier.
        labels: ``(N,)`` of the images that it was trained on.
    """
    shares = torch.bincount(labels).double() / len(labels)
    chance = shares.max().item()
    entropy = entropy_of(labels)
    baseline = entropy if fit.baseline is None else fit.baseline
    spread = math.sqrt(chance * (1 - chance) / len(labels))
    costs = f"its loss is {fit.loss:.3g}, and knowing nothing costs {baseline:.3g}"
    if not math.isfinite(fit.loss):
        found = "has diverged: its loss is not finite"
    elif fit.loss >= DIVERGED * baseline > 0:
        found = f"has diverged: {costs}"
    elif fit.top1 <= 100 * (chance + 3 * spread) and fit.loss >= NOTHING * baseline > 0:
        found = f"is no better than chance: {costs}"
    else:
        return ""
    return (
        f"{found}. It gets {fit.top1:.2f} % of its training images right, and always saying the "
        f"commonest class {100 * chance:.2f} %"
    )


def entropy_of(labels: Tensor) -> float:
    """The cross-entropy of saying each class as often as it occurs among ``labels`` ``(N,)``."""
    shares = torch.bincount(labels).double() / len(labels)
    entropy: float = -torch.special.xlogy(shares, shares).sum().item()
    return entropy
