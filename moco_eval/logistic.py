"""Logistic regression by L-BFGS: the probe that has no learning rate.

Multinomial where labels are classes ``(N,)``. Where they are ``(N, C)`` of 1, 0 and -1, one binary
regression a class; -1 leaves an image out of a class's.
"""

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


def nothing(features: Tensor, labels: Tensor) -> Probe:
    """A probe of zeros for as many classes as ``labels`` have: where a fit begins."""
    num_classes = labels.shape[1] if labels.dim() == 2 else int(labels.max()) + 1
    zeros = torch.zeros(num_classes, features.shape[1], dtype=torch.float64, device=features.device)
    return Probe(zeros, zeros.new_zeros(num_classes))


def fit(features: Tensor, labels: Tensor, *, c: float, start: Probe | None = None) -> Probe:
    """Minimise ``c * sum of cross-entropies + |weight|^2 / 2``, as scikit-learn does.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)``, classes from 0; the largest sets their number unless ``start`` does. Or
            ``(N, C)``.
        c: Inverse strength of the regularisation; the bias is not regularised.
        start: Where to begin, such as the solution for a neighbouring ``c``.
    """
    features = features.double()
    start = start or nothing(features, labels)
    weight, bias = start.weight.clone(), start.bias.clone()
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
        fit_term = cross_entropy(F.linear(features, weight, bias), labels)
        loss = fit_term + weight.square().sum() / (2 * c * len(features))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(objective)  # type: ignore[no-untyped-call]
    return Probe(weight.detach(), bias.detach())


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the images; of several binary regressions, their sum."""
    if labels.dim() == 1:
        return F.cross_entropy(logits, labels)
    by_entry = F.binary_cross_entropy_with_logits(
        logits, labels.clamp(min=0).to(logits.dtype), reduction="none"
    )
    return (by_entry * (labels >= 0)).sum() / len(labels)


def accuracy(probe: Probe, features: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent."""
    return top1(probe.logits(features), labels)


def top1(logits: Tensor, labels: Tensor) -> float:
    """Share of the images ``(N,)`` whose class has the highest score ``(N, C)``, in percent."""
    hits = (logits.argmax(1) == labels).sum().item()
    return 100 * hits / len(labels)
