"""The linear probe: a linear classifier on frozen features, with all labels.

Protocol ``linear@1``: features of the test-time crop, computed once, optionally scaled to mean 0
and s.d. 1; multinomial logistic regression by L-BFGS; C chosen on a fixed slice of the training
set; refitted on all of it; top-1 on the test set, read once. Nothing is chosen on the test set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from moco_eval import logistic
from moco_eval.data.catalog import ImageData
from moco_eval.data.sampler import keyed_generator
from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.networks.pooling import POOLED, require_kind
from moco_eval.errors import UsageError
from moco_eval.features import Precision, of_data
from moco_eval.records import Outcome
from moco_eval.resources import PLAIN, Resources

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The probe's numbers.

    Attributes:
        num_c: How many inverse regularisation strengths are tried, evenly spaced in the exponent.
        log10_c_min: The smallest, as a power of ten.
        log10_c_max: The largest.
        holdout: Share of the training set on which C is chosen.
        chosen_by: What is compared on that share. Cross-entropy also counts how sure a prediction
            was, so that it tells two C apart on a few hundred images where top-1 ties.
        scaled: Whether each feature is brought to mean 0 and s.d. 1 first.
        feature: Which feature of the network, by its name in ``encoders/networks/pooling.py``.
        precision: What the network computes features in.
    """

    num_c: int
    log10_c_min: float
    log10_c_max: float
    holdout: float = 0.2
    chosen_by: Literal["cross_entropy", "top1"] = "cross_entropy"
    scaled: bool = True
    feature: str = POOLED
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        require_kind(self.feature)
        if self.num_c < 1 or not 0 < self.holdout < 1:
            raise UsageError(
                f"num_c must be at least 1 and holdout between 0 and 1, "
                f"found {self.num_c} and {self.holdout}."
            )


RECIPES = {
    # The probe of the 12-data-set transfer tables (Kornblith et al., arXiv:1805.08974; SimCLR,
    # arXiv:2002.05709, B.8): 45 values of C from 1e-6 to 1e5 on unscaled features.
    # Published with it, SimCLR ResNet-50 (4x): CIFAR-10 95.3, Food-101 76.9.
    "lbfgs-45": Recipe(num_c=45, log10_c_min=-6, log10_c_max=5, chosen_by="top1", scaled=False),
    # For small sets, and the embedded digits: a coarser grid on scaled features. No published
    # number; this project's own are in results/.
    "lbfgs": Recipe(num_c=7, log10_c_min=-4, log10_c_max=2),
}
DEFAULT_RECIPE = "lbfgs"


def evaluate(
    encoder: Encoder,
    recipe: Recipe,
    data: ImageData,
    *,
    seed: int,
    work_dir: Path,
    resources: Resources = PLAIN,
) -> Outcome:
    """Train the probe and return its top-1, the C that was chosen, and the feature norm."""
    features = of_data(
        encoder,
        data,
        feature=recipe.feature,
        precision=recipe.precision,
        resources=resources,
    )
    train, test = features.train, features.test
    norm = train.norm(dim=1).mean().item()
    if recipe.scaled:
        scaling = logistic.Scaling.fit(train)
        train, test = scaling(train), scaling(test)

    # C is chosen on a slice of the training set that only the seed decides.
    chosen, curve = _choose_c(train, features.train_labels, recipe, seed)

    # The probe that counts has seen every training image.
    probe = logistic.fit(train, features.train_labels, c=chosen)
    logits = probe.logits(test)
    top5 = min(5, logits.shape[1])
    hits = logits.topk(top5).indices == features.test_labels[:, None]
    return Outcome(
        metrics={
            "top1": 100 * hits[:, 0].float().mean().item(),
            "top5": 100 * hits.any(1).float().mean().item(),
        },
        num_test=len(test),
        details={
            "feature": recipe.feature,
            "feature_norm": norm,
            "feature_dim": train.shape[1],
            "selection": {
                "what": "C",
                "chosen": chosen,
                "on": f"{recipe.holdout:.0%} of the training set",
                "by": recipe.chosen_by,
                "by_c": curve,
            },
        },
    )


def _choose_c(
    features: Tensor, labels: Tensor, recipe: Recipe, seed: int
) -> tuple[float, dict[str, dict[str, float]]]:
    """Try each C on a slice of the training set; ties go to the stronger regularisation."""
    order = torch.randperm(len(labels), generator=keyed_generator(seed))
    num_held = max(1, round(recipe.holdout * len(labels)))
    held, kept = order[:num_held], order[num_held:]
    # The classes of all labels, in case the rest lacks one.
    num_classes = int(labels.max()) + 1
    probe = logistic.Probe(
        torch.zeros(num_classes, features.shape[1], dtype=torch.float64),
        torch.zeros(num_classes, dtype=torch.float64),
    )
    best_c, best_score, curve = 0.0, -math.inf, {}
    for exponent in torch.linspace(recipe.log10_c_min, recipe.log10_c_max, recipe.num_c).tolist():
        c = 10**exponent
        probe = logistic.fit(features[kept], labels[kept], c=c, start=probe)
        scores = {
            "top1": logistic.accuracy(probe, features[held], labels[held]),
            "cross_entropy": F.cross_entropy(probe.logits(features[held]), labels[held]).item(),
        }
        score = scores["top1"] if recipe.chosen_by == "top1" else -scores["cross_entropy"]
        if score > best_score:
            best_c, best_score = c, score
        curve[f"{c:.3g}"] = scores
    return best_c, curve
