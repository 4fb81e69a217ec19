"""Masks around torchvision's layers: the head, what it is trained on, and what is drawn of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import roi_align

from moco_eval.engines.examples import Example
from moco_eval.engines.recipe import Recipe


def build_mask_head(
    num_inputs: int,
    recipe: Recipe,
    num_classes: int,
    *,
    norm: Callable[[int], nn.Module] | None,
) -> nn.Sequential:
    """Detectron2's: convolutions, twice the side, then one map a class.

    Args:
        num_inputs: Channels of the regions.
        recipe: How many convolutions, and how wide.
        num_classes: Without the background.
        norm: What follows each of the convolutions, or nothing.
    """
    width = recipe.mask_channels
    convolutions = MaskRCNNHeads(num_inputs, [width] * recipe.mask_convs, 1, norm_layer=norm)
    predictor = MaskRCNNPredictor(width if recipe.mask_convs else num_inputs, width, num_classes)
    nn.init.normal_(predictor.mask_fcn_logits.weight, std=0.001)
    for layer in (predictor.conv5_mask, predictor.mask_fcn_logits):
        nn.init.zeros_(layer.bias)
    return nn.Sequential(convolutions, predictor)


def mask_loss(
    masks: Tensor,
    classes: Tensor,
    examples: Sequence[Example],
    boxes: Sequence[Tensor],
    matches: Sequence[Tensor],
) -> Tensor:
    """The mean loss of the pixels in the maps of the true classes.

    Args:
        masks: The head's, ``(n, C, side, side)``.
        classes: ``(n,)``, from 0.
        examples: The images.
        boxes: Those of each image, ``n`` in all.
        matches: The number of each box's object among those of its image.
    """
    if not len(masks):  # An empty batch has no mean.
        return masks.sum()
    side = masks.shape[-1]
    wanted = [
        mask_targets(example, inside, match, side)
        for example, inside, match in zip(examples, boxes, matches, strict=True)
    ]
    chosen = masks[torch.arange(len(classes)), classes]
    return F.binary_cross_entropy_with_logits(chosen, torch.cat(wanted).to(chosen))


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
