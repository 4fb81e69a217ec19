"""A C4 R-CNN from torchvision's detection parts, with Detectron2's semantics.

Where torchvision's defaults mean something else they are replaced, one class or function each:
anchors are neither rounded nor spaced by a guess from the image's size, ROIAlign is aligned and
samples adaptively, box losses are L1 and divided by the number of sampled boxes. The encoder's last
stage runs on pooled regions, a norm of its own follows it (Res5ROIHeadsExtraNorm of
github.com/facebookresearch/moco, detection/), and the mask head shares what both compute. Any
network of a stem and four stages will do; a norm that it has after the last one is left out.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import clip_boxes_to_image, roi_align

from moco_eval.data.images import normalize
from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.networks import has_resnet_parts, stages_of
from moco_eval.engines.examples import Detections, Detector, Example
from moco_eval.engines.mask_head import build_mask_head, mask_targets, paste_masks
from moco_eval.engines.recipe import Recipe

ASPECT_RATIOS = (0.5, 1.0, 2.0)


class C4Detector(Detector):
    """A detector whose backbone and last stage are a copy of an encoder; all of it is trained.

    Args:
        encoder: What ``stages_of`` can split: a ResNet of any strides, a ConvNeXt, RegNet or Swin.
        recipe: Sizes of anchors, samples and pooled regions.
        num_classes: Without the background.
        num_keypoints: Of a keypoint head, which C4 has not.

    Raises:
        UsageError: If the encoder has no stem and four stages.
    """

    def __init__(
        self, encoder: Encoder, recipe: Recipe, *, num_classes: int, num_keypoints: int = 0
    ) -> None:
        super().__init__()
        assert not num_keypoints, "A C4 detector has no keypoint head."
        with_masks = recipe.masks
        probe = next(encoder.network.parameters()).new_zeros(1, 3, 64, 64)
        levels = encoder.levels(probe)
        self.input = encoder.input
        self.pool_size = recipe.pool_size
        self.with_masks = with_masks
        self.stride = probe.shape[-1] // levels["res4"].shape[-1]
        # A ResNet pads by itself; ConvNeXt cuts off, and Swin refuses, what fills no last patch.
        self.padded = not has_resnet_parts(encoder.network)
        channels = levels["res5"].shape[1]

        self.network = copy.deepcopy(encoder.network).requires_grad_(True)
        self.extra_norm = nn.BatchNorm2d(channels)
        self.rpn = _proposal_network(recipe, levels["res4"].shape[1], self.stride)
        # torchvision counts the background as class 0.
        self.class_logits = _linear(channels, num_classes + 1, std=0.01)
        self.box_deltas = _linear(channels, 4 * (num_classes + 1), std=0.001)
        if with_masks:
            self.mask_head = build_mask_head(channels, recipe.mask_channels, num_classes)
        # It samples and post-processes; the layers are the ones above.
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
        self.to(probe.device)

    def forward(self, examples: list[Example]) -> dict[str, Tensor]:
        """The losses of a batch under Detectron2's names."""
        images = self._images([example.pixels for example in examples])
        device = images.tensors.device
        targets = [
            {"boxes": example.boxes.to(device), "labels": example.labels.to(device) + 1}
            for example in examples
        ]
        res4 = self._res4(images.tensors)
        proposals, losses = self.rpn(images, {"res4": res4}, targets)

        # The heads are trained on a sample of the proposals and of the true boxes.
        proposals, matches, labels, deltas = self.roi.select_training_samples(proposals, targets)
        regions = self._regions(res4, proposals)
        logits, predicted = self._predict(regions)
        classes = torch.cat(labels)
        objects = classes.nonzero().squeeze(1)
        chosen = predicted.view(len(classes), -1, 4)[objects, classes[objects]]
        box_loss = F.l1_loss(chosen, torch.cat(deltas)[objects], reduction="sum")
        losses = {
            "loss_rpn_cls": losses["loss_objectness"],
            "loss_rpn_loc": losses["loss_rpn_box_reg"],
            "loss_cls": F.cross_entropy(logits, classes),
            "loss_box_reg": box_loss / len(classes),
        }
        if self.with_masks:
            masks = self.mask_head(regions[objects])
            side = masks.shape[-1]
            wanted = [
                mask_targets(example, boxes[found > 0], match[found > 0], side)
                for example, boxes, match, found in zip(
                    examples, proposals, matches, labels, strict=True
                )
            ]
            chosen = masks[torch.arange(len(objects)), classes[objects] - 1]
            # An empty batch has no mean.
            losses["loss_mask"] = (
                F.binary_cross_entropy_with_logits(chosen, torch.cat(wanted).to(chosen))
                if len(objects)
                else masks.sum()
            )
        return losses

    @torch.inference_mode()
    def detect(self, example: Example) -> Detections:
        """What it finds in one image, on the CPU and in pixels of the image file."""
        images = self._images([example.pixels])
        res4 = self._res4(images.tensors)
        proposals, _ = self.rpn(images, {"res4": res4})
        logits, deltas = self._predict(self._regions(res4, proposals))
        [boxes], [scores], [labels] = self.roi.postprocess_detections(
            logits, deltas, proposals, images.image_sizes
        )
        height, width = example.size
        scale = boxes.new_tensor(
            [width / example.pixels.shape[2], height / example.pixels.shape[1]] * 2
        )
        placed = clip_boxes_to_image(boxes * scale, example.size).cpu()
        masks = None
        if self.with_masks:
            shapes = self.mask_head(self._regions(res4, [boxes])).sigmoid()
            shapes = shapes[torch.arange(len(labels)), labels - 1].cpu()
            masks = paste_masks(shapes, placed, example.size)
        return Detections(boxes=placed, scores=scores.cpu(), labels=labels.cpu() - 1, masks=masks)

    def backbone(self) -> dict[str, Tensor]:
        """All tensors of the copied network."""
        return dict(self.network.state_dict())

    @torch.inference_mode()
    def levels(self, pixels: Tensor) -> dict[str, Tensor]:
        """``res4`` and ``res5`` of one image, the latter of the whole image at once."""
        res4 = self._res4(self._images([pixels]).tensors)
        return {"res4": res4, "res5": self._res5(res4)}

    def _images(self, pixels: Sequence[Tensor]) -> ImageList:
        """Normalise and pad on the right and below with zeros to the largest of the batch.

        What is no ResNet gets whole multiples of its stride at ``res4``.
        """
        device = self.extra_norm.weight.device
        sizes = [(each.shape[1], each.shape[2]) for each in pixels]
        multiple = self.stride if self.padded else 1
        height, width = (
            math.ceil(max(sides) / multiple) * multiple for sides in zip(*sizes, strict=True)
        )
        batch = torch.zeros(len(pixels), 3, height, width, device=device)
        for row, each, (height, width) in zip(batch, pixels, sizes, strict=True):
            row[:, :height, :width] = normalize(each.to(device), self.input)
        return ImageList(batch, sizes)

    def _res4(self, inputs: Tensor) -> Tensor:
        stem, (res2, res3, res4, _) = stages_of(self.network)
        features: Tensor = res4(res3(res2(stem(inputs))))
        return features

    def _res5(self, res4: Tensor) -> Tensor:
        features: Tensor = stages_of(self.network)[1][3](res4)
        return features

    def _regions(self, res4: Tensor, boxes: list[Tensor]) -> Tensor:
        """The last stage's features of each box, ``(num_boxes, C, side, side)``."""
        pooled = roi_align(
            res4, boxes, self.pool_size, 1 / self.stride, sampling_ratio=0, aligned=True
        )
        if self.padded and self.pool_size % 2:
            pooled = F.pad(pooled, (0, 1, 0, 1), mode="replicate")
        # An image may have no detections, and a Swin takes no empty batch.
        some = pooled if len(pooled) else pooled.new_zeros(1, *pooled.shape[1:])
        regions: Tensor = self.extra_norm(self._res5(some)[: len(pooled)])
        return regions

    def _predict(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        pooled = regions.mean((2, 3))
        return self.class_logits(pooled), self.box_deltas(pooled)


class _Anchors(AnchorGenerator):  # type: ignore[misc]
    """Detectron2's anchors: size by size, not rounded, one every ``stride`` pixels."""

    def __init__(self, sizes: Sequence[int], stride: int) -> None:
        super().__init__((tuple(sizes),), (ASPECT_RATIOS,))
        self.stride = stride

    def generate_anchors(
        self,
        scales: Sequence[int],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> Tensor:
        half = [
            (size / math.sqrt(ratio) / 2, size * math.sqrt(ratio) / 2)
            for size in scales
            for ratio in aspect_ratios
        ]
        return torch.tensor([(-w, -h, w, h) for w, h in half], dtype=dtype, device=device)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        features = feature_maps[0]
        self.set_cell_anchors(features.dtype, features.device)
        stride = torch.tensor(self.stride, device=features.device)
        anchors = self.grid_anchors([features.shape[-2:]], [[stride, stride]])[0]
        return [anchors] * len(image_list.image_sizes)


class _Proposals(RegionProposalNetwork):  # type: ignore[misc]
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


def _proposal_network(recipe: Recipe, channels: int, stride: int) -> _Proposals:
    anchors = _Anchors(recipe.anchor_sizes, stride)
    before, after = recipe.rpn_pre_nms, recipe.rpn_post_nms
    return _Proposals(
        anchors,
        RPNHead(channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=recipe.rpn_batch,
        positive_fraction=0.5,
        pre_nms_top_n={"training": before[0], "testing": before[1]},
        post_nms_top_n={"training": after[0], "testing": after[1]},
        nms_thresh=0.7,
    )


def _linear(num_inputs: int, num_outputs: int, *, std: float) -> nn.Linear:
    layer = nn.Linear(num_inputs, num_outputs)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer
