"""Keypoints around torchvision's layers: the head, its loss, and where the points are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints, keypointrcnn_loss

from moco_eval.engines.examples import Example

# Detectron2's, and Mask R-CNN's (arXiv:1703.06870, section 5).
NUM_CONVS = 8
WIDTH = 512


def build_keypoint_head(num_inputs: int, num_keypoints: int) -> nn.Sequential:
    """Eight convolutions, then a map of four times the side for each keypoint."""
    return nn.Sequential(
        KeypointRCNNHeads(num_inputs, [WIDTH] * NUM_CONVS),
        KeypointRCNNPredictor(WIDTH, num_keypoints),
    )


def keypoint_loss(
    heat: Tensor, examples: Sequence[Example], boxes: Sequence[Tensor], matches: Sequence[Tensor]
) -> Tensor:
    """The mean cross entropy of the places of the visible keypoints that lie in their box.

    Args:
        heat: The head's, ``(n, K, side, side)``.
        examples: The images.
        boxes: Those of each image, ``n`` in all.
        matches: The number of each box's object among those of its image.
    """
    truth = []
    for example in examples:
        assert example.keypoints is not None, "A keypoint head is trained on keypoints."
        truth.append(example.keypoints.to(heat))
    loss: Tensor = keypointrcnn_loss(heat, list(boxes), truth, list(matches))
    return loss


def keypoints_of(heat: Tensor, boxes: Tensor, example: Example) -> Tensor:
    """Where each keypoint is, ``(n, K, 3)``: x and y in pixels of the image file, and its score.

    Args:
        heat: The head's, ``(n, K, side, side)``.
        boxes: ``(n, 4)``, in pixels of ``example.pixels``.
        example: The image.
    """
    points, logits = heatmaps_to_keypoints(heat, boxes)
    height, width = example.size
    scale = [width / example.pixels.shape[2], height / example.pixels.shape[1]]
    places = points[..., :2] * points.new_tensor(scale)
    # Over the maps as they come from the head, so that a large box scores as a small one does.
    scores = (logits - heat.flatten(2).logsumexp(2)).exp()
    return torch.cat([places, scores[..., None]], dim=2)
