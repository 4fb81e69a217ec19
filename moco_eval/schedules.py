"""The learning rate as a pure function of the position in training."""

from __future__ import annotations

import math
from collections.abc import Sequence


def cosine(epoch: int, num_epochs: int) -> float:
    """Half a cosine from 1 to 0, constant within an epoch as in MoCo v2's code."""
    return 0.5 * (1 + math.cos(math.pi * epoch / num_epochs))


def step_drops(position: int, drops: Sequence[int], factor: float = 0.1) -> float:
    """``factor`` to the power of how many ``drops`` lie at or before ``position``."""
    return factor ** sum(position >= drop for drop in drops)


def warm_up(step: int, num_steps: int) -> float:
    """Rise linearly over the first ``num_steps`` updates, then 1; 0 steps mean none."""
    return min(1.0, (step + 1) / num_steps) if num_steps else 1.0


def warm_up_then_cosine(position: float, warmup: float, total: float) -> float:
    """Rise linearly from 0 to 1, then fall to 0 on half a cosine, changing in every step.

    As ``adjust_learning_rate`` of facebookresearch/moco-v3, main_moco.py. Unlike ``warm_up``, the
    first step's rate is 0.

    Args:
        position: Epochs done, with the fraction of the current one.
        warmup: Epochs of the rise.
        total: Epochs of the whole training.
    """
    if position < warmup:
        return position / warmup
    return 0.5 * (1 + math.cos(math.pi * (position - warmup) / (total - warmup)))


def cosine_to_one(start: float, position: float, total: float) -> float:
    """Rise from ``start`` to 1 on half a cosine, as MoCo v3's key momentum does.

    Args:
        start: The value at position 0.
        position: Epochs done, with the fraction of the current one.
        total: Epochs of the whole training.
    """
    return 1 - 0.5 * (1 + math.cos(math.pi * position / total)) * (1 - start)
