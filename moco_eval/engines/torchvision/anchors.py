"""Anchors and proposals: torchvision's region proposal network, as Detectron2 means it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import batched_nms, clip_boxes_to_image

from moco_eval.engines.recipe import Recipe
from moco_eval.engines.torchvision.backbone import Backbone
from moco_eval.engines.torchvision.boxes import has_area
from moco_eval.errors import UsageError

ASPECT_RATIOS = (0.5, 1.0, 2.0)


class Anchors(AnchorGenerator):  # type: ignore[misc]
    """Anchors size by size, not rounded, a set of them every ``stride`` pixels of each map.

    Args:
        sizes: Of each map, the square roots of its anchors' areas.
        strides: Of each map.
    """

    def __init__(self, sizes: Sequence[Sequence[float]], strides: Sequence[int]) -> None:
        super().__init__(tuple(tuple(each) for each in sizes), (ASPECT_RATIOS,) * len(sizes))
        self.strides = tuple(strides)

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> Tensor:
        """``(A, 4)`` boxes around the origin; a ratio is height by width."""
        # In Detectron2's order of computation, so that equal overlaps are equal here as there.
        widths = [math.sqrt(size**2 / ratio) for size in scales for ratio in aspect_ratios]
        boxes = [
            (-width / 2, -ratio * width / 2, width / 2, ratio * width / 2)
            for width, ratio in zip(widths, list(aspect_ratios) * len(scales), strict=True)
        ]
        return torch.tensor(boxes, dtype=dtype, device=device)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """The same anchors ``(sum(h * w * A), 4)`` for each image."""
        self.set_cell_anchors(feature_maps[0].dtype, feature_maps[0].device)
        strides = [
            [torch.tensor(stride, device=feature_maps[0].device)] * 2 for stride in self.strides
        ]
        sizes = [features.shape[-2:] for features in feature_maps]
        return [torch.cat(self.grid_anchors(sizes, strides))] * len(image_list.image_sizes)


class Proposals(RegionProposalNetwork):  # type: ignore[misc]
    """Where objects may be."""

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The best of each level, NMS within each, and the best of what is left.

        Unlike torchvision's, in order of logits, which do not saturate as probabilities do, and
        without a least size but that a box has an area.
        """
        scores = objectness.detach().reshape(len(proposals), -1)
        levels = torch.arange(len(num_anchors_per_level), device=scores.device)
        levels = levels.repeat_interleave(torch.tensor(num_anchors_per_level, device=scores.device))
        best = self._get_top_n_idx(scores, num_anchors_per_level)
        kept_boxes, kept_scores = [], []
        for every, logits, chosen, size in zip(proposals, scores, best, image_shapes, strict=True):
            clipped = clip_boxes_to_image(every[chosen], size)
            real = has_area(clipped)
            boxes, logits_here, level = clipped[real], logits[chosen][real], levels[chosen][real]
            keep = batched_nms(boxes, logits_here, level, self.nms_thresh)
            keep = keep[: self.post_nms_top_n()]
            kept_boxes.append(boxes[keep])
            kept_scores.append(logits_here[keep])
        return kept_boxes, kept_scores

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Detectron2's: L1 for boxes, both sums divided by the number of sampled anchors."""
        positive, negative = (torch.cat(masks) for masks in self.fg_bg_sampler(labels))
        objects, sampled = positive.nonzero().squeeze(1), (positive | negative).nonzero().squeeze(1)
        num_sampled = self.fg_bg_sampler.batch_size_per_image * len(labels)
        targets = torch.cat(regression_targets)
        return (
            F.binary_cross_entropy_with_logits(
                objectness.flatten()[sampled], torch.cat(labels)[sampled], reduction="sum"
            )
            / num_sampled,
            F.l1_loss(pred_bbox_deltas[objects], targets[objects], reduction="sum") / num_sampled,
        )


def build_proposals(recipe: Recipe, body: Backbone, sizes: Sequence[Sequence[float]]) -> Proposals:
    """The network that proposes boxes on the maps of ``body``.

    Args:
        recipe: How many anchors are sampled and how many proposals kept.
        body: Its strides and channels.
        sizes: Of each map, the square roots of its anchors' areas, as many everywhere.
    """
    anchors = Anchors(sizes, list(body.strides.values()))
    before, after = recipe.rpn_pre_nms, recipe.rpn_post_nms
    return Proposals(
        anchors,
        RPNHead(body.channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=recipe.rpn_batch,
        positive_fraction=0.5,
        pre_nms_top_n={"training": before[0], "testing": before[1]},
        post_nms_top_n={"training": after[0], "testing": after[1]},
        nms_thresh=0.7,
    )


def size_per_map(recipe: Recipe, body: Backbone) -> list[tuple[float, ...]]:
    """The recipe's anchor sizes, one a map.

    Raises:
        UsageError: If they are not as many as the maps.
    """
    if len(recipe.anchor_sizes) != len(body.strides):
        raise UsageError(
            f"anchor_sizes has {len(recipe.anchor_sizes)} sizes, and a {recipe.detector} detector "
            f"takes one for each of its maps {', '.join(body.strides)}: "
            f"--set anchor_sizes=[{','.join(str(8 * s) for s in body.strides.values())}]"
        )
    return [(size,) for size in recipe.anchor_sizes]
