"""RetinaNet from torchvision's parts, with Detectron2's losses and detections."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import batched_nms, box_iou, sigmoid_focal_loss

from moco_eval import distributed
from moco_eval.encoders.encoder import Encoder
from moco_eval.engines.examples import Detections, Example
from moco_eval.engines.recipe import Recipe
from moco_eval.engines.torchvision.anchors import ASPECT_RATIOS, Anchors, size_per_map
from moco_eval.engines.torchvision.boxes import has_area, place
from moco_eval.engines.torchvision.detector import BuiltDetector
from moco_eval.engines.torchvision.stages import Pyramid
from moco_eval.engines.torchvision.vit import TransformerPyramid
from moco_eval.engines.transformer import is_plain
from moco_eval.errors import UsageError

# A level's anchors are a third of an octave apart.
OCTAVE = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
# So many of each level's boxes go into NMS.
CANDIDATES = 1000
# How the number of objects that divides the losses begins, and what it keeps at each update.
FIRST_NORMALIZER, KEPT = 100.0, 0.9
# Marks of anchors without an object.
BACKGROUND, IGNORED = Matcher.BELOW_LOW_THRESHOLD, Matcher.BETWEEN_THRESHOLDS


class RetinaNetDetector(BuiltDetector):
    """One stage: every anchor of a pyramid is told to be of a class or none.

    Args:
        encoder: What ``stages_of`` can split.
        recipe: Sizes of anchors, and what counts as a detection.
        num_classes: There is no background among the outputs.
    """

    normalizer: Tensor

    def __init__(self, encoder: Encoder, recipe: Recipe, *, num_classes: int) -> None:
        if recipe.head_norm:
            raise UsageError(
                "The torchvision engine's RetinaNet has no norms in its heads. Take the other "
                "engine: --engine detectron2, or: --set head_norm=false"
            )
        body = (TransformerPyramid if is_plain(encoder) else Pyramid)(encoder, recipe)
        super().__init__(encoder, body)
        self.num_classes = num_classes
        self.box_loss_beta = recipe.box_loss_beta
        self.score_threshold = recipe.score_threshold
        self.num_detections = recipe.detections_per_image
        sizes = [[size * part for part in OCTAVE] for [size] in size_per_map(recipe, body)]
        self.anchors = Anchors(sizes, list(body.strides.values()))
        self.num_anchors = len(OCTAVE) * len(ASPECT_RATIOS)
        self.head = RetinaNetHead(body.channels, self.num_anchors, num_classes)
        self.matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
        self.box_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        # A buffer, so that a resumed run divides by what it would have.
        self.register_buffer("normalizer", torch.tensor(FIRST_NORMALIZER, dtype=torch.float64))
        self.finish(encoder)

    def forward(self, examples: list[Example]) -> dict[str, Tensor]:
        """The losses of a batch under Detectron2's names."""
        images = self.images([example.pixels for example in examples])
        logits, deltas, anchors, _ = self._predict(images)
        matches, classes, targets = self._match(anchors, examples)
        objects = matches >= 0
        normalizer = self._count(objects.sum())

        told = matches != IGNORED
        wanted = F.one_hot(classes, self.num_classes + 1)[..., :-1].to(logits)
        class_loss = sigmoid_focal_loss(logits[told], wanted[told], reduction="sum")
        box_loss = F.smooth_l1_loss(
            deltas[objects], targets[objects], reduction="sum", beta=self.box_loss_beta
        )
        return {"loss_cls": class_loss / normalizer, "loss_box_reg": box_loss / normalizer}

    @torch.inference_mode()
    def detect(self, example: Example) -> Detections:
        """What it finds in one image, on the CPU and in pixels of the image file."""
        images = self.images([example.pixels])
        [logits], [deltas], anchors, counts = self._predict(images)
        found = []
        parts = (logits.sigmoid(), deltas, anchors)
        for scores, moves, places in zip(*(part.split(counts) for part in parts), strict=True):
            found.append(self._candidates(scores, moves, places))
        boxes, scores, labels = (torch.cat(each) for each in zip(*found, strict=True))
        keep = batched_nms(boxes, scores, labels, 0.5)[: self.num_detections]
        placed = place(boxes[keep], example)
        keep, placed = keep[has_area(placed)], placed[has_area(placed)]
        return Detections(boxes=placed.cpu(), scores=scores[keep].cpu(), labels=labels[keep].cpu())

    def _predict(self, images: ImageList) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        """Logits ``(N, R, C)``, deltas ``(N, R, 4)``, anchors ``(R, 4)``, and those of each map."""
        maps = list(self.body(images.tensors).values())
        outputs = self.head(maps)
        counts = [self.num_anchors * each.shape[2] * each.shape[3] for each in maps]
        return (
            outputs["cls_logits"],
            outputs["bbox_regression"],
            self.anchors(images, maps)[0],
            counts,
        )

    def _match(self, anchors: Tensor, examples: list[Example]) -> tuple[Tensor, Tensor, Tensor]:
        """Of each image's anchors: the number of their object or a mark, its class, its deltas.

        Returns:
            ``(N, R)``, ``(N, R)`` where ``num_classes`` stands for none, ``(N, R, 4)``.
        """
        matches, classes, targets = [], [], []
        for example in examples:
            boxes, labels = example.boxes.to(anchors), example.labels.to(anchors.device)
            if len(boxes):
                match = self.matcher(box_iou(boxes, anchors))
            else:  # No box is the best of any anchor; one stands in, to have something to look at.
                boxes, labels = anchors[:1], labels.new_zeros(1)
                match = labels.new_full((len(anchors),), BACKGROUND)
            object_of = match.clamp(min=0)
            matches.append(match)
            classes.append(labels[object_of].where(match >= 0, self.num_classes))
            targets.append(self.box_coder.encode_single(boxes[object_of], anchors))
        return torch.stack(matches), torch.stack(classes), torch.stack(targets)

    def _count(self, num_objects: Tensor) -> Tensor:
        """What the losses are divided by: a running mean of the number of objects' anchors.

        Unlike Detectron2's, over all ranks: so it is the same on each, and one checkpoint has it.
        """
        share = distributed.total(num_objects.double().clamp(min=1)) / distributed.world_size()
        self.normalizer.mul_(KEPT).add_(share, alpha=1 - KEPT)
        return self.normalizer.float()

    def _candidates(
        self, scores: Tensor, deltas: Tensor, anchors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One map's best boxes ``(n, 4)``, with scores and classes."""
        rows, classes = (scores > self.score_threshold).nonzero(as_tuple=True)
        best, order = scores[rows, classes].topk(min(len(rows), CANDIDATES))
        rows, classes = rows[order], classes[order]
        return self.box_coder.decode_single(deltas[rows], anchors[rows]), best, classes
