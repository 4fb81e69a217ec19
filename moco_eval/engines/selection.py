"""The learning rate that suits an encoder, chosen on training images that are held out."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from moco_eval import distributed
from moco_eval.engines.recipe import Training
from moco_eval.errors import DivergedError

# Of the training images, one in so many judges the learning rates.
JUDGES = 5

R = TypeVar("R", bound=Training)


def select_lr(recipe: R, judge: Callable[[R], float]) -> tuple[R, dict[str, Any]]:
    """Take the learning rate of ``recipe.lr_grid`` that does best, as SimSiam does per encoder.

    Unlike SimSiam (arXiv:2011.10566, section 5), whose paper names no held-out images: the test
    set judges nothing. Of equal rates the smaller one is taken; one that diverges is worse than
    any.

    Args:
        recipe: Its grid may be empty; then it is returned as it is.
        judge: Trains with a recipe of one learning rate and returns its score, higher is better.

    Returns:
        The recipe with the chosen rate and no grid, and what a record says of the choice.

    Raises:
        DivergedError: If every rate diverges.
    """
    if not recipe.lr_grid:
        return recipe, {}
    scores: dict[float, float] = {}
    for lr in sorted(set(recipe.lr_grid)):
        try:
            scores[lr] = judge(dataclasses.replace(recipe, lr=lr, lr_grid=()))
        except DivergedError as error:
            scores[lr] = -math.inf
            if distributed.rank() == 0:
                print(f"lr {lr:g}: {error}", flush=True)
    best = max(scores, key=lambda lr: (scores[lr], -lr))
    if scores[best] == -math.inf:
        raise DivergedError(f"Training diverged with every learning rate of {recipe.lr_grid}.")
    told = {f"{lr:g}": None if s == -math.inf else round(s, 4) for lr, s in scores.items()}
    chosen = {"lr": best, "score_by_lr": told, "judged_on": f"1 in {JUDGES} training images"}
    return dataclasses.replace(recipe, lr=best, lr_grid=()), {"selection": chosen}


def judges(names: Sequence[str]) -> list[bool]:
    """Which of the training images, told by name, are held out to judge: always the same ones.

    Args:
        names: Of the images; their order does not matter.

    Returns:
        For each whether it judges: one in ``JUDGES``, but one at least.
    """
    chosen = sorted(range(len(names)), key=lambda place: (_number(names[place]), names[place]))
    judging = set(chosen[: max(1, len(names) // JUDGES)])
    return [place in judging for place in range(len(names))]


def _number(name: str) -> int:
    digest = hashlib.blake2b(name.encode(), digest_size=8, key=b"judge").digest()
    return int.from_bytes(digest, "big")
