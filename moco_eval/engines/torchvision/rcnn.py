"""Two-stage detectors: proposals on a backbone's maps, and heads on what is pooled for each."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import clip_boxes_to_image

from moco_eval.encoders.encoder import Encoder
from moco_eval.engines.examples import Detections, Example
from moco_eval.engines.recipe import Recipe
from moco_eval.engines.torchvision.anchors import build_proposals
from moco_eval.engines.torchvision.backbone import Backbone
from moco_eval.engines.torchvision.boxes import (
    best_boxes,
    box_losses,
    has_area,
    place,
)
from moco_eval.engines.torchvision.detector import BuiltDetector
from moco_eval.engines.torchvision.keypoints import keypoint_loss, keypoints_of
from moco_eval.engines.torchvision.masks import mask_loss, paste_masks


class RCNN(BuiltDetector):
    """What all of them do; a subclass pools, and builds the heads.

    Args:
        encoder: How it wants to be fed.
        recipe: Sizes of samples, and what counts as a detection.
        body: The backbone, a copy of the encoder in it.
        anchor_sizes: Of each of the backbone's maps.
    """

    class_logits: nn.Linear
    box_deltas: nn.Linear

    def __init__(
        self,
        encoder: Encoder,
        recipe: Recipe,
        body: Backbone,
        anchor_sizes: Sequence[Sequence[float]],
    ) -> None:
        super().__init__(encoder, body)
        self.pool_size = recipe.pool_size
        self.box_loss_beta = recipe.box_loss_beta
        self.score_threshold = recipe.score_threshold
        self.num_detections = recipe.detections_per_image
        self.mask_head: nn.Module | None = None
        self.keypoint_head: nn.Module | None = None
        self.rpn = build_proposals(recipe, body, anchor_sizes)
        # It samples, and knows how boxes are coded; the layers are the detector's own.
        self.roi = RoIHeads(
            None,
            None,
            None,
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=recipe.roi_batch,
            positive_fraction=0.25,
            bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
            score_thresh=recipe.score_threshold,
            nms_thresh=0.5,
            detections_per_img=recipe.detections_per_image,
        )

    def add_predictors(self, num_features: int, num_classes: int) -> None:
        """The last layers; torchvision counts the background as class 0."""
        self.class_logits = _linear(num_features, num_classes + 1, std=0.01)
        self.box_deltas = _linear(num_features, 4 * (num_classes + 1), std=0.001)

    @abc.abstractmethod
    def regions(self, maps: dict[str, Tensor], boxes: list[Tensor]) -> Tensor:
        """The maps within each box, of every image in turn: ``(num_boxes, C, side, side)``."""

    @abc.abstractmethod
    def box_features(self, regions: Tensor) -> Tensor:
        """What a box's class and deltas are told from, ``(num_boxes, D)``."""

    def shape_regions(
        self, maps: dict[str, Tensor], boxes: list[Tensor], _: Tensor | None
    ) -> Tensor:
        """The maps within each box for its mask or keypoints; given, where it can be shared."""
        return self.regions(maps, boxes)

    def forward(self, examples: list[Example]) -> dict[str, Tensor]:
        """The losses of a batch under Detectron2's names."""
        images = self.images([example.pixels for example in examples])
        targets = [
            {"boxes": each.boxes.to(self.device), "labels": each.labels.to(self.device) + 1}
            for each in examples
        ]
        maps = self.body(images.tensors)
        proposals, losses = self.rpn(images, maps, targets)
        return {
            "loss_rpn_cls": losses["loss_objectness"],
            "loss_rpn_loc": losses["loss_rpn_box_reg"],
            **self._head_losses(maps, proposals, targets, examples),
        }

    def _head_losses(
        self,
        maps: dict[str, Tensor],
        proposals: list[Tensor],
        targets: list[dict[str, Tensor]],
        examples: list[Example],
    ) -> dict[str, Tensor]:
        # The heads are trained on a sample of the proposals and of the true boxes.
        proposals, matches, labels, deltas = self.roi.select_training_samples(proposals, targets)
        regions = self.regions(maps, proposals)
        logits, predicted = self._predict(regions)
        classes = torch.cat(labels)
        losses = box_losses(logits, predicted, classes, torch.cat(deltas), beta=self.box_loss_beta)

        # Masks and keypoints are of objects alone.
        found = classes > 0
        boxes = [each[label > 0] for each, label in zip(proposals, labels, strict=True)]
        matches = [each[label > 0] for each, label in zip(matches, labels, strict=True)]
        if self.mask_head is not None:
            masks = self.mask_head(self.shape_regions(maps, boxes, regions[found]))
            losses["loss_mask"] = mask_loss(masks, classes[found] - 1, examples, boxes, matches)
        if self.keypoint_head is not None:
            heat = self.keypoint_head(self.shape_regions(maps, boxes, None))
            losses["loss_keypoint"] = keypoint_loss(heat, examples, boxes, matches)
        return losses

    @torch.inference_mode()
    def detect(self, example: Example) -> Detections:
        """What it finds in one image, on the CPU and in pixels of the image file."""
        images = self.images([example.pixels])
        maps = self.body(images.tensors)
        [proposals], _ = self.rpn(images, maps)
        boxes, scores, labels = self._boxes(maps, proposals, images.image_sizes[0])
        placed = place(boxes, example)
        seen = has_area(placed)
        boxes, placed = boxes[seen], placed[seen].cpu()
        scores, labels = scores[seen], labels[seen]

        masks = keypoints = None
        if self.mask_head is not None:
            shapes = self.mask_head(self.shape_regions(maps, [boxes], None)).sigmoid()
            shapes = shapes[torch.arange(len(labels)), labels].cpu()
            masks = paste_masks(shapes, placed, example.size)
        if self.keypoint_head is not None:
            heat = self.keypoint_head(self.shape_regions(maps, [boxes], None))
            keypoints = keypoints_of(heat, boxes, example).cpu()
        return Detections(
            boxes=placed,
            scores=scores.cpu(),
            labels=labels.cpu(),
            masks=masks,
            keypoints=keypoints,
        )

    def _boxes(
        self, maps: dict[str, Tensor], proposals: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits, deltas = self._predict(self.regions(maps, [proposals]))
        boxes = self.roi.box_coder.decode(deltas, [proposals])
        boxes = clip_boxes_to_image(boxes, size)
        return best_boxes(
            boxes[:, 1:],
            logits.softmax(1)[:, 1:],
            threshold=self.score_threshold,
            limit=self.num_detections,
        )

    def _predict(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        features = self.box_features(regions)
        return self.class_logits(features), self.box_deltas(features)


def _linear(num_inputs: int, num_outputs: int, *, std: float) -> nn.Linear:
    layer = nn.Linear(num_inputs, num_outputs)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer
