"""Images in a batch, boxes on their way to pixels of the image file, and losses of boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, clip_boxes_to_image

from moco_eval.data.images import InputSpec, normalize
from moco_eval.engines.examples import Example


def batch_images(
    pixels: Sequence[Tensor], spec: InputSpec, *, multiple: int, device: torch.device
) -> ImageList:
    """Normalise, and pad on the right and below with zeros to the largest of the batch.

    Args:
        pixels: ``(3, h, w)`` uint8 each, RGB.
        spec: How the encoder wants to be fed.
        multiple: The batch's sides become whole multiples of it.
        device: Where the batch is to lie.
    """
    sizes = [(each.shape[1], each.shape[2]) for each in pixels]
    height, width = (
        math.ceil(max(sides) / multiple) * multiple for sides in zip(*sizes, strict=True)
    )
    batch = torch.zeros(len(pixels), 3, height, width, device=device)
    for row, each, (height, width) in zip(batch, pixels, sizes, strict=True):
        row[:, :height, :width] = normalize(each.to(device), spec)
    return ImageList(batch, sizes)


def place(boxes: Tensor, example: Example) -> Tensor:
    """Boxes in pixels of ``example.pixels`` in those of the image file, within it."""
    height, width = example.size
    scale = [width / example.pixels.shape[2], height / example.pixels.shape[1]]
    placed: Tensor = clip_boxes_to_image(boxes * boxes.new_tensor(scale * 2), example.size)
    return placed


def has_area(boxes: Tensor) -> Tensor:
    """Which of the boxes ``(n, 4)`` are wider and higher than nothing, ``(n,)`` bool."""
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def best_boxes(
    boxes: Tensor, scores: Tensor, *, threshold: float, limit: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The detections of one image: above the threshold, without those that overlap, the best.

    Args:
        boxes: ``(n, C, 4)``, of each class its own.
        scores: ``(n, C)``.
        threshold: Scores must exceed it.
        limit: At most so many are kept.

    Returns:
        Boxes ``(m, 4)``, scores ``(m,)`` and classes ``(m,)``, the best first.
    """
    rows, classes = (scores > threshold).nonzero(as_tuple=True)
    boxes, scores = boxes[rows, classes], scores[rows, classes]
    keep = batched_nms(boxes, scores, classes, 0.5)[:limit]
    return boxes[keep], scores[keep], classes[keep]


def box_losses(
    logits: Tensor, deltas: Tensor, classes: Tensor, targets: Tensor, *, beta: float
) -> dict[str, Tensor]:
    """Detectron2's losses of the second stage.

    Args:
        logits: ``(n, 1 + C)``, the background first.
        deltas: ``(n, 4 * (1 + C))``.
        classes: ``(n,)``, 0 for the background.
        targets: ``(n, 4)``, what the deltas of a box's class should be.
        beta: Where the loss of boxes turns from square to linear.

    Returns:
        The mean cross entropy, and the boxes' loss, summed over objects and divided by all ``n``.
    """
    objects = classes.nonzero().squeeze(1)
    chosen = deltas.view(len(classes), -1, 4)[objects, classes[objects]]
    box_loss = F.smooth_l1_loss(chosen, targets[objects], reduction="sum", beta=beta)
    return {
        "loss_cls": F.cross_entropy(logits, classes),
        "loss_box_reg": box_loss / max(len(classes), 1),
    }
