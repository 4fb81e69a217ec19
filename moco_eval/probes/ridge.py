"""The linear probe in closed form: least squares on the classes' indicators, with a ridge.

One eigendecomposition, of the features' covariance or of the images' Gram matrix, whichever is the
smaller, gives the solution for every lambda. Lambda is chosen on a slice of the training set by
top-1, then all of it is fitted. Targets are indicators, 1 for an image's class and 0 for the
others, and centred as the features are: the bias is not regularised. Scores are no confidences,
which is why there is no calibration error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from moco_eval import accuracy
from moco_eval.chance import Fit
from moco_eval.data.selection import told
from moco_eval.data.splits import ImageData
from moco_eval.encoders.encoder import Encoder
from moco_eval.logistic import Probe, top1
from moco_eval.probes.prepared import prepare
from moco_eval.probes.recipes import Ridge
from moco_eval.probes.verdict import require_learnt
from moco_eval.records import Outcome
from moco_eval.resources import Resources


@dataclass(frozen=True)
class Decomposition:
    """What the solutions for all lambdas have in common.

    Attributes:
        basis: ``(D, R)``, orthonormal directions, or their images under the Gram matrix.
        targets: ``(R, C)``, the centred targets along each.
        variances: ``(R,)``, the features' summed squares along each.
        mean: ``(D,)`` of the features.
        target_mean: ``(C,)``.
    """

    basis: Tensor
    targets: Tensor
    variances: Tensor
    mean: Tensor
    target_mean: Tensor

    @property
    def unit(self) -> float:
        """N times the features' mean variance, and never 0: what lambdas are relative to."""
        return max(self.variances.sum().item() / len(self.mean), 1e-12)

    def solve(self, strength: float) -> Probe:
        """The minimum of ``|Y - X W - b|^2 + strength |W|^2``, as scikit-learn's Ridge."""
        along = self.targets / (self.variances + strength)[:, None]
        weight = (self.basis @ along).T
        return Probe(weight, self.target_mean - weight @ self.mean)


def decompose(features: Tensor, labels: Tensor, num_classes: int) -> Decomposition:
    """Features ``(N, D)`` and classes ``(N,)`` to what every lambda needs."""
    features = features.double()
    indicators = F.one_hot(labels, num_classes).to(features.dtype)
    mean, target_mean = features.mean(0), indicators.mean(0)
    centred, targets = features - mean, indicators - target_mean
    if features.shape[1] <= len(features):
        variances, basis = torch.linalg.eigh(centred.T @ centred)
        return Decomposition(basis, basis.T @ (centred.T @ targets), variances, mean, target_mean)
    variances, ways = torch.linalg.eigh(centred @ centred.T)
    return Decomposition(centred.T @ ways, ways.T @ targets, variances, mean, target_mean)


def evaluate(
    encoder: Encoder, recipe: Ridge, data: ImageData, *, seed: int, resources: Resources
) -> Outcome:
    """Fit the probe and return its numbers, the lambda that was chosen, and the feature norm."""
    ready = prepare(encoder, recipe, data, seed=seed, resources=resources)
    train, labels, test_labels = ready.train, ready.labels, ready.features.test_labels
    kept, held, num_classes = ready.kept, ready.held, len(data.classes)

    # Lambda is chosen on a slice of the training set; ties go to the stronger regularisation.
    exponents = torch.linspace(
        recipe.log10_lambda_max,
        recipe.log10_lambda_min,
        recipe.num_lambda,
        dtype=torch.float64,
    ).tolist()
    parts = decompose(train[kept], labels[kept], num_classes)
    scores = [
        top1(parts.solve(parts.unit * 10**exponent).logits(train[held]), labels[held])
        for exponent in exponents
    ]
    chosen = exponents[scores.index(max(scores))]

    # The probe that counts has seen every training image.
    parts = decompose(train, labels, num_classes)
    probe = parts.solve(parts.unit * 10**chosen)
    fit = _fit(probe, train, labels)
    require_learnt(fit, ready.features.train_labels, feature_norm=ready.norm)
    logits = probe.logits(ready.test).cpu()
    metrics = accuracy.metrics(logits, test_labels)
    del metrics["ece"]
    return Outcome(
        metrics=accuracy.primary_first(metrics, data.metric),
        num_test=len(test_labels),
        details={
            "feature": recipe.feature,
            "feature_norm": ready.norm,
            "feature_dim": train.shape[1],
            "selection": {
                "what": "lambda, relative to N times the features' mean variance",
                "chosen": 10**chosen,
                "lambda": parts.unit * 10**chosen,
                "on": told(data, recipe.holdout),
                "by": "top1",
                "by_lambda": {
                    f"{10**exponent:.3g}": {"top1": score}
                    for exponent, score in zip(exponents, scores, strict=True)
                },
            },
        },
        drawn={
            "scores": logits,
            "labels": test_labels,
            "sensitivity": [
                {"lambda": 10**exponent, "top1": score, "chosen": exponent == chosen}
                for exponent, score in zip(exponents, scores, strict=True)
            ],
        },
    )


def _fit(probe: Probe, features: Tensor, labels: Tensor) -> Fit:
    """Squared errors stand for the loss; knowing nothing costs the targets' variance."""
    logits = probe.logits(features)
    indicators = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    variance = (indicators - indicators.mean(0)).square().sum(1).mean().item()
    return Fit(
        loss=(indicators - logits).square().sum(1).mean().item(),
        top1=top1(logits, labels),
        baseline=variance,
    )
