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
