"""Low-shot classification: a linear probe on frozen features with a few labels a class.

Protocol ``lowshot@1``: in each draw, a fixed number of training images a class is taken with its
labels; features scaled by these images alone; multinomial logistic regression with a fixed C;
top-1 on the whole test set. The mean over the draws counts, and every draw is listed.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moco_eval import logistic
from moco_eval.data.catalog import ImageData
from moco_eval.data.sampler import keyed_generator
from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.networks.pooling import POOLED, require_kind
from moco_eval.errors import DataError, UsageError
from moco_eval.features import Precision, of_data
from moco_eval.records import Outcome
from moco_eval.resources import PLAIN, Resources

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The protocol's numbers.

    Attributes:
        shots: Labelled images a class.
        num_draws: How often they are drawn anew.
        c: Inverse strength of the regularisation; so few labels leave none to choose it on.
        feature: Which feature of the network, by its name in ``encoders/networks/pooling.py``.
        precision: What the network computes features in.
    """

    shots: int
    num_draws: int = 5
    c: float = 0.1
    feature: str = POOLED
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        require_kind(self.feature)
        if self.shots < 1 or self.num_draws < 1 or self.c <= 0:
            raise UsageError(f"shots, num_draws and c must be positive: {self}.")


RECIPES = {
    # This project's own for the embedded digits: 50 labels in all. Its numbers are in results/.
    "5-shot": Recipe(shots=5),
    "1-shot": Recipe(shots=1),
}
DEFAULT_RECIPE = "5-shot"


def evaluate(
    encoder: Encoder,
    recipe: Recipe,
    data: ImageData,
    *,
    seed: int,
    work_dir: Path,
    resources: Resources = PLAIN,
) -> Outcome:
    """Fit a probe per draw and return the mean top-1 over the draws."""
    features = of_data(
        encoder,
        data,
        feature=recipe.feature,
        precision=recipe.precision,
        resources=resources,
    )
    top1, drawn = [], []
    for draw in range(recipe.num_draws):
        chosen = take_shots(features.train_labels, recipe.shots, keyed_generator(seed, draw))
        train, labels = features.train[chosen], features.train_labels[chosen]
        scaling = logistic.Scaling.fit(train)
        probe = logistic.fit(scaling(train), labels, c=recipe.c)
        top1.append(logistic.accuracy(probe, scaling(features.test), features.test_labels))
        drawn.append(chosen.tolist())
    return Outcome(
        metrics={"top1": statistics.fmean(top1)},
        num_test=len(features.test),
        details={
            "top1_by_draw": top1,
            "images_by_draw": drawn,
            "feature": recipe.feature,
            "feature_dim": features.train.shape[1],
        },
    )


def take_shots(labels: Tensor, shots: int, generator: torch.Generator) -> Tensor:
    """Indices ``(num_classes * shots,)`` of ``shots`` images of every class, sorted.

    Raises:
        DataError: If a class has fewer images.
    """
    chosen = []
    for label in sorted(set(labels.tolist())):
        members = (labels == label).nonzero().flatten()
        if len(members) < shots:
            raise DataError(f"Class {label} has {len(members)} training images of {shots} asked.")
        chosen.append(members[torch.randperm(len(members), generator=generator)[:shots]])
    return torch.cat(chosen).sort().values
