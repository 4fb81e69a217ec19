"""An R-CNN on a pyramid or a dilated ``res5``: a head of its own for boxes, masks and keypoints."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.ops import box_area, roi_align

from moco_eval.encoders.encoder import Encoder
from moco_eval.engines.recipe import Recipe
from moco_eval.engines.torchvision.anchors import size_per_map
from moco_eval.engines.torchvision.backbone import Backbone
from moco_eval.engines.torchvision.keypoints import build_keypoint_head
from moco_eval.engines.torchvision.masks import build_mask_head
from moco_eval.engines.torchvision.rcnn import RCNN

CONV_CHANNELS = 256
FC_CHANNELS = 1024
# Side of what is pooled for a mask or keypoints.
SHAPE_SIZE = 14
# A box of so many pixels' side is looked at on the level of stride 2 to the power of so many.
CANONICAL_SIZE, CANONICAL_LEVEL = 224, 4


class PooledDetector(RCNN):
    """A detector whose heads look at what is pooled from the backbone's maps.

    Args:
        encoder: How it wants to be fed.
        recipe: Sizes of anchors, samples and heads.
        body: The backbone, a copy of the encoder in it.
        num_classes: Without the background.
        num_keypoints: Of each object, where the recipe has keypoints.
    """

    def __init__(
        self,
        encoder: Encoder,
        recipe: Recipe,
        body: Backbone,
        *,
        num_classes: int,
        num_keypoints: int = 0,
    ) -> None:
        one_map = len(body.strides) == 1
        sizes = [recipe.anchor_sizes] if one_map else size_per_map(recipe, body)
        super().__init__(encoder, recipe, body, sizes)
        side = recipe.pool_size
        self.box_head = FastRCNNConvFCHead(
            (body.channels, side, side),
            [CONV_CHANNELS] * recipe.box_convs,
            [FC_CHANNELS] * recipe.box_fcs,
            norm_layer=body.norm if recipe.head_norm else None,
        )
        linear = [layer for layer in self.box_head if isinstance(layer, nn.Linear)]
        for layer in linear:
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
        channels = CONV_CHANNELS if recipe.box_convs else body.channels
        if recipe.masks:
            self.mask_head = build_mask_head(
                body.channels, recipe, num_classes, norm=body.norm if recipe.head_norm else None
            )
        if recipe.keypoints:
            self.keypoint_head = build_keypoint_head(body.channels, num_keypoints)
        self.add_predictors(FC_CHANNELS if linear else channels * side**2, num_classes)
        self.finish(encoder)

    def regions(self, maps: dict[str, Tensor], boxes: list[Tensor]) -> Tensor:
        """The maps within each box, ``(num_boxes, C, side, side)``."""
        return self._pool(maps, boxes, self.pool_size)

    def box_features(self, regions: Tensor) -> Tensor:
        """What the box head makes of them."""
        features: Tensor = self.box_head(regions)
        return features

    def shape_regions(
        self, maps: dict[str, Tensor], boxes: list[Tensor], _: Tensor | None
    ) -> Tensor:
        """The maps within each box, finer than for its class."""
        return self._pool(maps, boxes, SHAPE_SIZE)

    def _pool(self, maps: dict[str, Tensor], boxes: list[Tensor], side: int) -> Tensor:
        names = self.body.pooled or tuple(self.body.strides)
        strides = [self.body.strides[name] for name in names]
        return pool([maps[name] for name in names], strides, boxes, side)


def pool(
    maps: Sequence[Tensor], strides: Sequence[int], boxes: Sequence[Tensor], side: int
) -> Tensor:
    """What each box covers of the map that suits its size, ``(num_boxes, C, side, side)``.

    Args:
        maps: ``(N, C, h, w)`` each, from fine to coarse.
        strides: Theirs, each twice the one before.
        boxes: ``(n, 4)`` of each of the ``N`` images.
        side: Of what is returned.
    """
    numbers = [boxes[0].new_full((len(each), 1), n) for n, each in enumerate(boxes)]
    rois = torch.cat([torch.cat(numbers), torch.cat(list(boxes))], dim=1)
    levels = levels_of(rois[:, 1:], strides)
    pooled = maps[0].new_zeros(len(rois), maps[0].shape[1], side, side)
    for number, (features, stride) in enumerate(zip(maps, strides, strict=True)):
        inside = (levels == number).nonzero().squeeze(1)
        pooled[inside] = roi_align(
            features, rois[inside], side, 1 / stride, sampling_ratio=0, aligned=True
        )
    return pooled


def levels_of(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """Which of the maps suits each box ``(n, 4)``, from 0 (arXiv:1612.03144, equation 1).

    With Detectron2's epsilon, which decides for boxes of exactly 112 or 224 pixels.
    """
    side = box_area(boxes).sqrt()
    level = torch.floor(CANONICAL_LEVEL + torch.log2(side / CANONICAL_SIZE + 1e-8))
    finest = strides[0].bit_length() - 1
    return level.clamp(finest, finest + len(strides) - 1).long() - finest
