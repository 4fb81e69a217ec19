"""The linear probe without a learning rate: logistic regression on features computed once.

C is chosen on a slice of the training set, each fit beginning where the last one ended, and the
probe is refitted on all of it. Where images show several classes, there is one logistic regression
a class with C in common, images that are difficult for a class are left out of it, and the metric
is the 11-point mean average precision of the transfer tables.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from moco_eval import accuracy, logistic
from moco_eval.chance import Fit
from moco_eval.data.selection import told
from moco_eval.data.splits import ImageData, MultiLabelData
from moco_eval.encoders.encoder import Encoder
from moco_eval.probes.prepared import prepare
from moco_eval.probes.recipes import Lbfgs
from moco_eval.probes.verdict import require_learnt
from moco_eval.records import Outcome
from moco_eval.resources import Resources

# By mean AP, which is what ``top1`` stands for in a recipe where images show several classes.
MAP = "mAP_11point"


def evaluate(
    encoder: Encoder,
    recipe: Lbfgs,
    data: ImageData | MultiLabelData,
    *,
    seed: int,
    resources: Resources,
) -> Outcome:
    """Fit the probe and return its numbers, the C that was chosen, and the feature norm."""
    ready = prepare(encoder, recipe, data, seed=seed, resources=resources)
    train, labels, test_labels = ready.train, ready.labels, ready.features.test_labels

    # C is chosen on a slice of the training set that no test image has to do with.
    chosen, curve = _choose_c(train, labels, recipe, (ready.kept, ready.held))

    # The probe that counts has seen every training image.
    probe = logistic.fit(train, labels, c=chosen)
    if labels.dim() == 1:
        fit = _fit(probe, train, labels)
        require_learnt(fit, ready.features.train_labels, feature_norm=ready.norm)
    logits = probe.logits(ready.test).cpu()
    return Outcome(
        metrics=_metrics(logits, test_labels, data),
        num_test=len(test_labels),
        details={
            "feature": recipe.feature,
            "feature_norm": ready.norm,
            "feature_dim": train.shape[1],
            "selection": {
                "what": "C",
                "chosen": chosen,
                "on": told(data, recipe.holdout),
                "by": recipe.chosen_by,
                "by_c": curve,
            },
        },
        drawn=_drawn(logits, test_labels, (chosen, curve)),
    )


def _choose_c(
    features: Tensor, labels: Tensor, recipe: Lbfgs, slices: tuple[Tensor, Tensor]
) -> tuple[float, dict[str, dict[str, float]]]:
    """Try each C on the second slice; ties go to the stronger regularisation."""
    kept, held = slices
    fitted, judged = features[kept].double(), features[held].double()
    # The classes of all labels, in case the rest lacks one.
    probe = logistic.nothing(features, labels)
    best_c, best_score, curve = 0.0, -math.inf, {}
    for exponent in torch.linspace(recipe.log10_c_min, recipe.log10_c_max, recipe.num_c).tolist():
        c = 10**exponent
        probe = logistic.fit(fitted, labels[kept], c=c, start=probe)
        scores = _scores(probe.logits(judged), labels[held])
        by = next(iter(scores)) if recipe.chosen_by == "top1" else "cross_entropy"
        score = -scores[by] if by == "cross_entropy" else scores[by]
        if score > best_score:
            best_c, best_score = c, score
        curve[f"{c:.3g}"] = scores
    return best_c, curve


def _scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy first, then cross-entropy."""
    entropy = logistic.cross_entropy(logits, labels).item()
    if labels.dim() == 2:
        return {MAP: accuracy.mean_average_precision(logits, labels), "cross_entropy": entropy}
    return {"top1": logistic.top1(logits, labels), "cross_entropy": entropy}


def _metrics(logits: Tensor, labels: Tensor, data: ImageData | MultiLabelData) -> dict[str, float]:
    if isinstance(data, MultiLabelData):
        return {MAP: accuracy.mean_average_precision(logits, labels)}
    return accuracy.primary_first(accuracy.metrics(logits, labels), data.metric)


def _drawn(
    logits: Tensor, labels: Tensor, choice: tuple[float, dict[str, dict[str, float]]]
) -> dict[str, Any]:
    """What pictures show of images with one class each."""
    chosen, curve = choice
    if labels.dim() == 2:
        return {}
    rows = [
        {"c": float(c), **scores, "chosen": c == f"{chosen:.3g}"} for c, scores in curve.items()
    ]
    return {"logits": logits, "labels": labels, "sensitivity": rows}


def _fit(probe: logistic.Probe, features: Tensor, labels: Tensor) -> Fit:
    logits = probe.logits(features)
    return Fit(
        loss=logistic.cross_entropy(logits, labels).item(), top1=logistic.top1(logits, labels)
    )
