"""A probe that has learnt nothing is refused, with advice; one that hardly has is told of."""

from __future__ import annotations

from torch import Tensor

from moco_eval.chance import Fit, entropy_of, fault_of
from moco_eval.errors import DivergedError


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
    fault = fault_of(fit, labels)
    if fault:
        rate = f"learning rate {lr:.3g}, " if lr else ""
        raise DivergedError(
            f"The probe {fault}; {rate}mean feature norm {feature_norm:.3g}. {_advice(lr)}"
        )


def caution(fit: Fit, labels: Tensor) -> str:
    """What to say of a probe that has learnt something and is still sure of wrong answers."""
    entropy = entropy_of(labels)
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
