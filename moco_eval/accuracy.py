"""How well a classifier's answers go with the labels, in percent."""

from __future__ import annotations

from collections.abc import Mapping

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


def primary_first(found: Mapping[str, float], primary: str) -> dict[str, float]:
    """``found``, with the metric that the field reports of a data set in front."""
    return {primary: found[primary], **found}


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
    sums = [torch.zeros(num_bins, dtype=torch.float64, device=bins.device) for _ in range(2)]
    for total, values in zip(sums, (confidence, hits), strict=True):
        total.index_add_(0, bins, values)
    some = counts.clamp(min=1)
    return sums[0] / some, sums[1] / some, counts


def mean_average_precision(scores: Tensor, labels: Tensor) -> float:
    """Mean over the classes of their 11-point average precision, in percent.

    The metric of PASCAL VOC 2007 and of the transfer tables (Everingham et al., IJCV 2010,
    section 4.2; Kornblith et al., arXiv:1805.08974, A.1). A class of which no image is positive
    does not count.

    Args:
        scores: ``(M, C)``, higher for images that show the class.
        labels: ``(M, C)`` of ``PRESENT`` (1), ``ABSENT`` (0) and ``DIFFICULT`` (-1), as
            ``data/splits.py`` has them; what is difficult for a class does not count in it.
    """
    by_class = [
        eleven_point_precision(scores[judged, number], labels[judged, number] > 0)
        for number in range(labels.shape[1])
        for judged in [labels[:, number] >= 0]
    ]
    return 100 * torch.tensor(by_class, dtype=torch.float64).nanmean().item()


def eleven_point_precision(scores: Tensor, is_positive: Tensor) -> float:
    """Average precision on 0-1 of one class: mean of the best precisions at recalls of 0 to 1.

    At each recall of 0, 0.1 ... 1 counts the greatest precision of those that reach it; nan where
    nothing is positive.

    Args:
        scores: ``(M,)``.
        is_positive: ``(M,)``, boolean.
    """
    ranked = is_positive[scores.argsort(descending=True, stable=True)].double()
    found = ranked.cumsum(0)
    num_positive = int(is_positive.sum())
    if num_positive == 0:
        return float("nan")
    precision = found / torch.arange(1, len(ranked) + 1, device=ranked.device)
    # Whole numbers of images, as 0.1 has no exact binary form.
    reached = [precision[10 * found >= tenths * num_positive].max() for tenths in range(11)]
    return torch.stack(reached).mean().item()


def envelope_precision(scores: Tensor, is_positive: Tensor) -> float:
    """Average precision on 0-1 of one class: area under the monotone precision-recall envelope.

    At each recall counts the greatest precision of those that reach it: PASCAL VOC's since 2010
    (Everingham et al., IJCV 2015, section 3.5.1), and VISSL's for its SVMs on VOC 2007
    (facebookresearch/vissl@09270ed2, vissl/utils/svm_utils/evaluate.py). nan where nothing is
    positive.

    Args:
        scores: ``(M,)``; only their order counts.
        is_positive: ``(M,)``, boolean.
    """
    ranked = is_positive[scores.argsort(descending=True, stable=True)].double()
    precision = ranked.cumsum(0) / torch.arange(1, len(ranked) + 1, device=ranked.device)
    envelope = precision.flip(0).cummax(0).values.flip(0)
    # Recall rises by the same step at every positive; the mean of none is nan.
    return envelope[ranked > 0].mean().item()
