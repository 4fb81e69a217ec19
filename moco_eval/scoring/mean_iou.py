"""Semantic segmentation's numbers, from how often each class was taken for each other.

Pixels are counted over the whole set before anything is divided, as PASCAL VOC and Cityscapes do
(Everingham et al., IJCV 2015, section 4.1); counts are whole numbers, so that the scores are the
same on any number of ranks. Pixels of the label 255 count nowhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moco_eval import distributed
from moco_eval.data.semantic import IGNORED
from moco_eval.errors import DataError
from moco_eval.scoring.scores import Scores


class Confusion:
    """Counts the pixels of image after image; every rank counts its own.

    Attributes:
        counts: ``(C, C)`` int64 pixels of this rank, rows truth, columns found.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self._by_image: list[float] = []

    def add(self, labels: Tensor, found: Tensor) -> None:
        """Count one image.

        Args:
            labels: ``(H, W)`` true classes from 0, ``IGNORED`` where there is none.
            found: ``(H, W)`` classes from 0, on the same device.
        """
        counts = count_pixels(labels, found, num_classes=len(self.counts)).cpu()
        self.counts += counts
        self._by_image.append(100 * iou_by_class(counts).nanmean().item())

    def scores(self, num_images: int) -> Scores:
        """The scores of all ranks' images; a collective, with the same result on every rank.

        Args:
            num_images: Of all ranks, which each added ``[rank()::world_size()]`` of them.

        Returns:
            ``mIoU`` (mean over the classes that are in the truth or found somewhere),
            ``pixel_accuracy`` and ``mean_class_accuracy`` (mean over the classes in the truth).
            Drawn: ``label_confusion``, ``IoU_by_class`` and ``mIoU_by_image``, with nan where there
            is nothing to divide by.

        Raises:
            DataError: If no pixel of any image has a class.
        """
        counts = distributed.total(self.counts.to(distributed.device(), copy=True)).cpu()
        if not counts.any():
            raise DataError(f"No pixel of the {num_images} images has a class: nothing to score.")
        own = torch.tensor(self._by_image, dtype=torch.float64, device=distributed.device())
        by_image = distributed.gather_dealt(own, num_images).cpu()
        drawn = {
            "label_confusion": counts.numpy(),
            "IoU_by_class": 100 * iou_by_class(counts).numpy(),
            "mIoU_by_image": by_image.numpy(),
        }
        return Scores(metrics(counts), drawn)


def count_pixels(labels: Tensor, found: Tensor, *, num_classes: int) -> Tensor:
    """How many pixels of each class were taken for each, ``(C, C)`` int64, rows truth.

    Args:
        labels: True classes from 0, ``IGNORED`` where a pixel does not count.
        found: Classes from 0, of the same shape.
        num_classes: C.
    """
    counted = labels != IGNORED
    true, taken = labels[counted].long(), found[counted].long()
    pairs = torch.bincount(true * num_classes + taken, minlength=num_classes**2)
    assert len(pairs) == num_classes**2, f"a label is not below {num_classes}"
    assert not len(taken) or int(taken.max()) < num_classes, f"a class is not below {num_classes}"
    return pairs.view(num_classes, num_classes)


def iou_by_class(counts: Tensor) -> Tensor:
    """Each class's intersection over union ``(C,)`` on 0-1; nan for one neither there nor found."""
    hits = counts.diagonal()
    return hits.double() / (counts.sum(0) + counts.sum(1) - hits)


def metrics(counts: Tensor) -> dict[str, float]:
    """mIoU, pixel accuracy and mean class accuracy in percent, of counts ``(C, C)``.

    A class that is neither in the truth nor found anywhere does not count in mIoU, as in
    torchmetrics' macro average: the mean is over those of which something can be said.
    """
    hits = counts.diagonal().double()
    return {
        "mIoU": 100 * iou_by_class(counts).nanmean().item(),
        "pixel_accuracy": 100 * (hits.sum() / counts.sum()).item(),
        "mean_class_accuracy": 100 * (hits / counts.sum(1)).nanmean().item(),
    }
