"""Masks around torchvision's layers: the head, what it is trained on, and what is drawn of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from moco_eval.engines.examples import Example


def build_mask_head(num_inputs: int, width: int, num_classes: int) -> nn.Sequential:
    """Detectron2's for C4: twice the side, then one map a class."""
    enlarge = nn.ConvTranspose2d(num_inputs, width, kernel_size=2, stride=2)
    predict = nn.Conv2d(width, num_classes, kernel_size=1)
    nn.init.kaiming_normal_(enlarge.weight, mode="fan_out", nonlinearity="relu")
    nn.init.normal_(predict.weight, std=0.001)
    for layer in (enlarge, predict):
        assert layer.bias is not None, "Both layers of the mask head have a bias."
        nn.init.zeros_(layer.bias)
    return nn.Sequential(enlarge, nn.ReLU(inplace=True), predict)


def mask_targets(example: Example, boxes: Tensor, matches: Tensor, side: int) -> Tensor:
    """The true mask of each box's object within the box, ``(num_boxes, side, side)`` bool."""
    assert example.masks is not None, "A mask head is trained on examples with masks."
    rois = torch.cat([matches[:, None].to(boxes), boxes], dim=1)
    masks = example.masks[:, None].to(boxes)
    covered: Tensor = roi_align(masks, rois, side, 1.0, sampling_ratio=0, aligned=True)[:, 0]
    return covered >= 0.5


def paste_masks(shapes: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Draw each box's mask into an image, without rounding the box as torchvision's paste does.

    Args:
        shapes: ``(n, side, side)`` from 0 to 1.
        boxes: ``(n, 4)`` within the image.
        size: Height and width of the image.

    Returns:
        ``(n, height, width)`` bool, true where the bilinear interpolation is at least 0.5.
    """
    masks = torch.zeros(len(shapes), *size, dtype=torch.bool)
    for mask, shape, (left, top, right, bottom) in zip(masks, shapes, boxes.tolist(), strict=True):
        if right <= left or bottom <= top:
            continue
        columns = torch.arange(math.floor(left), math.ceil(right))
        rows = torch.arange(math.floor(top), math.ceil(bottom))
        x = (columns + 0.5 - left) / (right - left) * 2 - 1
        y = (rows + 0.5 - top) / (bottom - top) * 2 - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        drawn = F.grid_sample(shape[None, None], grid[None], align_corners=False)[0, 0]
        mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = drawn >= 0.5
    return masks
