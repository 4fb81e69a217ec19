"""Linear SVMs on frozen features, one a class: how VOC07 is classified since Goyal et al.

Protocol ``svm@1``, after VISSL (facebookresearch/vissl@09270ed2, vissl/utils/svm_utils): features
of the test-time crop are divided by their length; each class has a linear SVM against all the rest,
whose C is chosen by cross-validated average precision on the training set alone; its average
precision on the test set is the area under the monotone precision-recall envelope. The mean over
the classes counts. An image that shows a class only with difficulty is a negative of it in training
and does not count for it in the test; both as in VISSL.

The variant ``lowshot`` trains on k positives of a class and k times as many negatives as there are
other classes, drawn anew several times. C is fixed: so few labels leave none to choose it on. VISSL
takes the C that is best on the test set; that number is here, too, and says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from moco_eval.accuracy import recall_by_class
from moco_eval.data.splits import PRESENT, ImageData, MultiLabelData
from moco_eval.encoders.encoder import Encoder
from moco_eval.errors import DataError
from moco_eval.features import of_data
from moco_eval.probes import svm_lowshot
from moco_eval.probes.one_vs_rest import (
    Problem,
    Svm,
    for_each_class,
    say_unconverged,
    targets_of,
)
from moco_eval.probes.svm_recipes import (
    OPENSELFSUP_COSTS,
    AnyRecipe,
    LowShotRecipe,
    Recipe,
)
from moco_eval.records import Outcome
from moco_eval.resources import PLAIN, Resources

__all__ = [
    "DEFAULT_RECIPE",
    "PUBLISHED",
    "RECIPES",
    "VERSION",
    "LowShotRecipe",
    "Recipe",
    "evaluate",
]

VERSION = 1

RECIPES: dict[str, AnyRecipe] = {
    # VISSL, configs/config/benchmark/linear_image_classification/voc07. Features are the pooled
    # ones, as SwAV and VICReg take them; VISSL itself pools the last map to 8,000 numbers and more,
    # and squashes images to squares.
    "voc07": Recipe(),
    # OpenSelfSup, benchmarks/svm_tools: other C, of which the small ones suit features that differ
    # little.
    "voc07-openselfsup": Recipe(costs=OPENSELFSUP_COSTS),
    # VISSL, configs/config/benchmark/low_shot_transfer/voc07.
    "voc07-lowshot": LowShotRecipe(),
    # This project's own for the embedded digits, seconds instead of half a minute.
    "digits": Recipe(costs=(0.1, 1.0, 10.0, 100.0), dual=False),
    "digits-lowshot": LowShotRecipe(
        shots=(1, 4, 16), costs=(0.1, 1.0, 10.0, 100.0), c=10.0, dual=False
    ),
}
_OWN = "No published number; this project's own are in results/."
PUBLISHED = {
    "voc07": "ResNet-50, VOC07 mAP: MoCo v1 79.8, MoCo v2 86.4, SimCLR 85.5, BYOL 86.6, SwAV 88.9, "
    "VICReg 86.6, supervised 87.5 (arXiv:2105.04906, Table 2)",
    "voc07-openselfsup": "ResNet-50, 200 epochs, VOC07 mAP: MoCo v1 79.18, MoCo v2 84.26 "
    "(open-mmlab/OpenSelfSup, docs/MODEL_ZOO.md)",
    "voc07-lowshot": "ResNet-50, 200 epochs, VOC07 mAP at k = 1/4/16/96, C best on the test set: "
    "MoCo v1 30.03/47.64/66.0/76.07, MoCo v2 43.0/63.43/76.35/82.45 (open-mmlab/OpenSelfSup, "
    "docs/MODEL_ZOO.md)",
    "digits": _OWN,
    "digits-lowshot": _OWN,
}
DEFAULT_RECIPE = "voc07"


def evaluate(
    encoder: Encoder,
    recipe: AnyRecipe,
    data: ImageData | MultiLabelData,
    *,
    seed: int,
    work_dir: Path,
    resources: Resources = PLAIN,
) -> Outcome:
    """Train an SVM a class and return the mean average precision over the classes.

    In a run of several processes each makes this call, and they share the classes out.

    Args:
        encoder: Stays as it is.
        recipe: Of the full or of the low-shot protocol.
        data: Images of one class each are judged as if each showed one class and no other.
        seed: Decides in which order liblinear's dual solver passes over the images, and the draws.
        work_dir: Not used.
        resources: What it may use of the machine.

    Raises:
        DataError: If a class has too few training images.
    """
    features = of_data(
        encoder,
        data,
        feature=recipe.feature,
        precision=recipe.precision,
        resources=resources,
    )
    problem = Problem.of(features, data)
    facts = {"feature": recipe.feature, "feature_dim": features.train.shape[1]}
    if isinstance(recipe, LowShotRecipe):
        return svm_lowshot.evaluate(problem, recipe, seed, facts)
    outcome = _full(problem, recipe, seed, facts)
    if isinstance(data, ImageData):
        # The class whose SVM is surest.
        labels, found = features.test_labels, outcome.drawn["scores"].argmax(1)
        outcome.metrics["top1"] = 100 * (found == labels).double().mean().item()
        outcome.metrics["mean_per_class"] = 100 * recall_by_class(found, labels).nanmean().item()
        outcome.drawn.update(labels=labels, test_features=features.test)
    return outcome


def _full(problem: Problem, recipe: Recipe, seed: int, facts: dict[str, Any]) -> Outcome:
    for number, name in enumerate(problem.classes):
        _require_enough(problem.train_labels[:, number] == PRESENT, name, recipe.num_folds)

    # A row for each class: where its C stands, how many fits ran out of passes, how good each C is,
    # and what its SVM says of the test images.
    num_costs = len(recipe.costs)
    rows = for_each_class(problem, lambda number: _chosen_and_judged(problem, recipe, seed, number))
    chosen, unconverged = rows[:, 0].long().tolist(), int(rows[:, 1].sum())
    curves, scores = rows[:, 2 : 2 + num_costs], rows[:, 2 + num_costs :]
    num_fits = len(problem.classes) * (num_costs * recipe.num_folds + 1)
    say_unconverged(unconverged, num_fits, recipe.max_iter)

    by_class = [
        problem.average_precision(scores[number].numpy(), number)
        for number in range(len(problem.classes))
    ]
    return Outcome(
        metrics={"mAP": 100 * float(np.nanmean(by_class))},
        num_test=len(problem.test),
        details={
            **facts,
            "AP_by_class": {
                name: 100 * ap for name, ap in zip(problem.classes, by_class, strict=True)
            },
            "selection": {
                "what": "C of each class",
                "chosen": {
                    name: recipe.costs[place]
                    for name, place in zip(problem.classes, chosen, strict=True)
                },
                "on": f"{recipe.num_folds}-fold cross-validation on the training set",
                "by": "average precision, mean over the folds",
                "by_class": {
                    name: dict(zip(map(str, recipe.costs), curve, strict=True))
                    for name, curve in zip(problem.classes, (100 * curves).tolist(), strict=True)
                },
            },
            "num_fits": num_fits,
            "num_unconverged": unconverged,
        },
        drawn={
            "scores": scores.T.contiguous(),
            "AP_by_class": [100 * ap for ap in by_class],
            "sensitivity": [
                {"c": cost, "mAP": 100 * curves[:, place].mean().item()}
                for place, cost in enumerate(recipe.costs)
            ],
        },
    )


def _chosen_and_judged(problem: Problem, recipe: Recipe, seed: int, number: int) -> list[float]:
    """Choose the class's C by cross-validation, fit with it on all, and score the test images."""
    from sklearn.metrics import average_precision_score
    from sklearn.model_selection import StratifiedKFold

    features, targets = problem.train, targets_of(problem.train_labels[:, number])
    folds = list(StratifiedKFold(recipe.num_folds).split(features, targets))
    curve, unconverged = [], 0
    for cost in recipe.costs:
        aps = []
        for kept, held in folds:
            svm = Svm.fit(features[kept], targets[kept], recipe, cost, seed)
            aps.append(average_precision_score(targets[held], svm.scores(features[held])))
            unconverged += svm.is_unconverged
        curve.append(float(np.mean(aps)))
    place = int(np.argmax(curve))
    svm = Svm.fit(features, targets, recipe, recipe.costs[place], seed)
    unconverged += svm.is_unconverged
    return [place, unconverged, *curve, *svm.scores(problem.test).tolist()]


def _require_enough(is_positive: Tensor, name: str, num_folds: int) -> None:
    for what, number in (("show", is_positive.sum()), ("do not show", (~is_positive).sum())):
        if number < num_folds:
            raise DataError(
                f"{int(number)} training images {what} the class '{name}', and each of "
                f"{num_folds} folds needs one. Take fewer folds: --set num_folds=2"
            )
