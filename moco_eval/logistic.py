"""Multinomial logistic regression by L-BFGS: the probe that has no learning rate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Probe:
    """A linear classifier: logits are ``features @ weight.T + bias``.

    Attributes:
        weight: ``(num_classes, D)``, float64.
        bias: ``(num_classes,)``, float64.
    """

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """``(N, D)`` to ``(N, num_classes)``."""
        return F.linear(features.double(), self.weight, self.bias)


@dataclass(frozen=True)
class Scaling:
    """Brings each feature to mean 0 and s.d. 1 over the images it was fitted on.

    It is the parameter-free BatchNorm that MAE (arXiv:2111.06377, appendix A) puts before its
    probe: without it the right strength of regularisation depends on the encoder's feature norm.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> Scaling:
        """From features ``(N, D)``; a feature that never varies is only centred."""
        features = features.double()
        std = features.std(0, correction=0)
        return cls(features.mean(0), torch.where(std > 1e-8, std, torch.ones_like(std)))

    def __call__(self, features: Tensor) -> Tensor:
        return (features.double() - self.mean) / self.std


def fit(features: Tensor, labels: Tensor, *, c: float, start: Probe | None = None) -> Probe:
    """Minimise ``c * sum of cross-entropies + |weight|^2 / 2``, as scikit-learn does.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)``, classes from 0; the largest sets their number unless ``start`` does.
        c: Inverse strength of the regularisation; the bias is not regularised.
        start: Where to begin, such as the solution for a neighbouring ``c``.
    """
    features = features.double()
    num_images, dim = features.shape
    num_classes = len(start.bias) if start else int(labels.max()) + 1
    weight = start.weight.clone() if start else features.new_zeros(num_classes, dim)
    bias = start.bias.clone() if start else features.new_zeros(num_classes)
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=1000,
        tolerance_grad=1e-6,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    # Divided by c and N, the objective's scale does not depend on either, and one tolerance serves.
    def objective() -> Tensor:
        optimizer.zero_grad()
        fit_term = F.cross_entropy(F.linear(features, weight, bias), labels)
        loss = fit_term + weight.square().sum() / (2 * c * num_images)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(objective)  # type: ignore[no-untyped-call]
    return Probe(weight.detach(), bias.detach())


def accuracy(probe: Probe, features: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent."""
    hits = (probe.logits(features).argmax(1) == labels).sum().item()
    return 100 * hits / len(labels)
