"""SVMs of a few positives a class and more negatives, drawn anew several times.

Source: facebookresearch/vissl@09270ed2, extra_scripts/create_low_shot_samples.py and
vissl/utils/svm_utils/svm_low_shot_trainer.py.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from moco_eval.data.sampler import keyed_generator
from moco_eval.data.splits import ABSENT, PRESENT
from moco_eval.errors import DataError
from moco_eval.probes.one_vs_rest import (
    Problem,
    Svm,
    for_each_class,
    say_unconverged,
    targets_of,
)
from moco_eval.probes.svm_recipes import LowShotRecipe
from moco_eval.records import Outcome


def evaluate(problem: Problem, recipe: LowShotRecipe, seed: int, facts: dict[str, Any]) -> Outcome:
    """Fit and judge every class with every number of shots, draw and C.

    Args:
        problem: Features and labels of both splits.
        recipe: The numbers.
        seed: Decides the draws.
        facts: What a record says of the features.

    Raises:
        DataError: If some class has too few images for the smallest number of shots.
    """
    feasible = [k for k in sorted(recipe.shots, reverse=True) if _has_enough(problem, k)]
    if not feasible:
        raise DataError(
            f"Some class has fewer than {min(recipe.shots)} training images that show it or "
            f"{_num_negatives(problem, min(recipe.shots))} that do not. Take fewer: --set shots=[1]"
        )
    rows = for_each_class(
        problem,
        lambda number: _draws_judged(problem, recipe, seed, number, feasible),
    )
    num_fits = len(problem.classes) * len(feasible) * recipe.num_draws * len(recipe.costs)
    unconverged = int(rows[:, 0].sum())
    say_unconverged(unconverged, num_fits, recipe.max_iter)

    # Mean over the classes first: (shots, draws, costs).
    shape = (len(problem.classes), len(feasible), recipe.num_draws, len(recipe.costs))
    maps = 100 * rows[:, 1:].reshape(shape).nanmean(0)
    metrics, by_shots = {}, {}
    for k, found in zip(feasible, maps, strict=True):
        own = found[:, recipe.costs.index(recipe.c)].tolist()
        best = int(found.mean(0).argmax())
        metrics[f"mAP_k{k}"] = statistics.fmean(own)
        metrics[f"mAP_k{k}_best_on_test"] = statistics.fmean(found[:, best].tolist())
        by_shots[str(k)] = {
            "mAP_by_draw": own,
            "sd": _sd(own),
            "best_on_test": {"c": recipe.costs[best], "sd": _sd(found[:, best].tolist())},
            "images_sha256": _digest_of_draws(problem, recipe, seed, k),
        }
    return Outcome(
        metrics=metrics,
        num_test=len(problem.test),
        details={
            **facts,
            "c": recipe.c,
            "by_shots": by_shots,
            "shots_left_out": sorted(set(recipe.shots) - set(feasible)),
            "num_fits": num_fits,
            "num_unconverged": unconverged,
        },
    )


def _draws_judged(
    problem: Problem, recipe: LowShotRecipe, seed: int, number: int, shots: Sequence[int]
) -> list[float]:
    """How many fits ran out of passes, then the class's test AP by shots, draw and C."""
    aps, unconverged = [], 0
    for k in shots:
        for draw in range(recipe.num_draws):
            drawn = _draw(problem, number, k, keyed_generator(seed, k, draw, number)).numpy()
            targets = targets_of(problem.train_labels[drawn, number])
            for cost in recipe.costs:
                svm = Svm.fit(problem.train[drawn], targets, recipe, cost, seed)
                aps.append(problem.average_precision(svm.scores(problem.test), number))
                unconverged += svm.is_unconverged
    return [unconverged, *aps]


def take_shots(
    labels: Tensor, num_positives: int, num_negatives: int, generator: torch.Generator
) -> Tensor:
    """Indices of so many images that show a class and so many that do not; difficult ones neither.

    Args:
        labels: Of one class ``(N,)``.
        num_positives: At most as many as there are.
        num_negatives: Likewise.
        generator: Decides which.
    """
    parts = []
    for label, number in ((PRESENT, num_positives), (ABSENT, num_negatives)):
        members = (labels == label).nonzero().flatten()
        assert len(members) >= number, f"{number} of {len(members)} images"
        parts.append(members[torch.randperm(len(members), generator=generator)[:number]])
    return torch.cat(parts).sort().values


def _draw(problem: Problem, number: int, k: int, generator: torch.Generator) -> Tensor:
    return take_shots(problem.train_labels[:, number], k, _num_negatives(problem, k), generator)


def _num_negatives(problem: Problem, k: int) -> int:
    return k * (len(problem.classes) - 1)


def _has_enough(problem: Problem, k: int) -> bool:
    positives = (problem.train_labels == PRESENT).sum(0).min()
    negatives = (problem.train_labels == ABSENT).sum(0).min()
    return bool(positives >= k and negatives >= _num_negatives(problem, k))


def _digest_of_draws(problem: Problem, recipe: LowShotRecipe, seed: int, k: int) -> str:
    """Stands for the thousands of indices that all classes' draws have together."""
    digest = hashlib.sha256()
    for draw in range(recipe.num_draws):
        for number in range(len(problem.classes)):
            drawn = _draw(problem, number, k, keyed_generator(seed, k, draw, number))
            digest.update(repr(drawn.tolist()).encode())
    return digest.hexdigest()


def _sd(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
