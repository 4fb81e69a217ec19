"""How well a classifier's answers go with the labels, in percent."""

from __future__ import annotations

import torch
from torch import Tensor

NUM_BINS = 15


def metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The numbers that every classification protocol reports.

    Args:
        logits: ``(M, C)``; any scores whose softmax is the classifier's confidence.
        labels: ``(M,)`` classes from 0.

    Returns:
        ``top1``, ``top5`` (or of all classes, where there are fewer), ``mean_per_class`` and
        ``ece``, in percent.
    """
    nearest = logits.topk(min(5, logits.shape[1])).indices
    hits = nearest == labels[:, None]
    return {
        "top1": 100 * hits[:, 0].double().mean().item(),
        "top5": 100 * hits.any(1).double().mean().item(),
        "mean_per_class": 100 * recall_by_class(nearest[:, 0], labels).nanmean().item(),
        "ece": calibration_error(logits.double().softmax(1), labels),
    }


def recall_by_class(predicted: Tensor, labels: Tensor) -> Tensor:
    """Share of each class's images that are found ``(C,)``; nan where there are none.

    Its mean is the ``mean_per_class`` of the transfer tables (Kornblith et al., arXiv:1805.08974,
    A.1).
    """
    num_classes = int(torch.maximum(predicted.max(), labels.max())) + 1
    counts = torch.bincount(labels, minlength=num_classes).double()
    hits = torch.bincount(labels[predicted == labels], minlength=num_classes).double()
    return hits / counts


def calibration_error(probabilities: Tensor, labels: Tensor, num_bins: int = NUM_BINS) -> float:
    """Expected calibration error in percent: Guo et al., arXiv:1706.04599, equation 3.

    Args:
        probabilities: ``(M, C)``.
        labels: ``(M,)``.
        num_bins: Into how many equal parts confidence is cut.
    """
    confidence, accuracy, counts = reliability(probabilities, labels, num_bins)
    filled = counts > 0
    gaps = (accuracy[filled] - confidence[filled]).abs() * counts[filled]
    return 100 * gaps.sum().item() / len(labels)


def reliability(
    probabilities: Tensor, labels: Tensor, num_bins: int = NUM_BINS
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean confidence, accuracy (both on 0-1) and number of images by bin, each ``(num_bins,)``.

    A bin holds the confidences above its lower edge, up to and with its upper one; empty ones have
    the confidence and the accuracy 0.
    """
    confidence, predicted = probabilities.double().max(1)
    bins = (confidence * num_bins).ceil().long().clamp(1, num_bins) - 1
    counts = torch.bincount(bins, minlength=num_bins).double()
    hits = (predicted == labels).double()
    sums = [torch.zeros(num_bins, dtype=torch.float64) for _ in range(2)]
    for total, values in zip(sums, (confidence, hits), strict=True):
        total.index_add_(0, bins, values)
    some = counts.clamp(min=1)
    return sums[0] / some, sums[1] / some, counts
