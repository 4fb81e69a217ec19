"""Whether a probe has learnt anything: judged on the images that it was trained on.

Not on the test set: a test set may be hard, or labelled otherwise, and then the number is what it
is. Not by a fixed percentage either: 1 % of 1,000 classes, from a random encoder, is an honest
result. What counts is the answer that needs no features: to say each class as often as it occurs.
Its cross-entropy is the labels' entropy, and its hits are the commonest class. A probe fails if

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

from moco_eval.errors import DivergedError

DIVERGED = 100.0
NOTHING = 0.98


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How well a probe answers for the images that it was trained on.

    Attributes:
        loss: Mean loss; cross-entropy where ``baseline`` is not said.
        top1: In percent.
        baseline: The loss of the best answer without features; the labels' entropy if left out.
    """

    loss: float
    top1: float
    baseline: float | None = None


def require_learnt(
    fit: Fit, labels: Tensor, *, feature_norm: float, lr: float | None = None
) -> None:
    """Refuse a result that says nothing of the encoder.

    Args:
        fit: Of the probe.
        labels: ``(N,)`` of the images that it was trained on.
        feature_norm: Their features' mean length.
        lr: The learning rate, with the batch's size in it; None for a probe that has none.

    Raises:
        DivergedError: With the numbers, and what to try.
    """
    shares = torch.bincount(labels).double() / len(labels)
    chance = shares.max().item()
    entropy = -torch.special.xlogy(shares, shares).sum().item()
    baseline = entropy if fit.baseline is None else fit.baseline
    spread = math.sqrt(chance * (1 - chance) / len(labels))
    if not math.isfinite(fit.loss):
        found = "The probe has diverged: its loss is not finite"
    elif fit.loss >= DIVERGED * baseline > 0:
        found = (
            f"The probe has diverged: its loss is {fit.loss:.3g}, and knowing nothing costs "
            f"{baseline:.3g}"
        )
    elif fit.top1 <= 100 * (chance + 3 * spread) and fit.loss >= NOTHING * baseline:
        found = (
            f"The probe is no better than chance: its loss is {fit.loss:.3g}, and knowing nothing "
            f"costs {baseline:.3g}"
        )
    else:
        return
    rate = f"learning rate {lr:.3g}, " if lr else ""
    raise DivergedError(
        f"{found}. It gets {fit.top1:.2f} % of its training images right, and always saying the "
        f"commonest class {100 * chance:.2f} %; {rate}mean feature norm {feature_norm:.3g}. "
        f"{_advice(lr)}"
    )


def caution(fit: Fit, labels: Tensor) -> str:
    """What to say of a probe that has learnt something and is still sure of wrong answers."""
    shares = torch.bincount(labels).double() / len(labels)
    entropy = -torch.special.xlogy(shares, shares).sum().item()
    if fit.loss < entropy:
        return ""
    return (
        f"Its loss of {fit.loss:.3g} is above the {entropy:.3g} of knowing nothing: the learning "
        "rate is too large for these features. --recipe grid finds one, --recipe lbfgs needs none."
    )


def _advice(lr: float | None) -> str:
    if lr is None:
        return "Look at the features with: moco-eval check"
    return (
        "A learning rate suits features of one length: try another (--set lr=...), features "
        "brought to one scale (--set batch_norm=true), many rates at once (--recipe grid), or "
        "none (--recipe lbfgs). If all fail alike, look at the features: moco-eval check"
    )
