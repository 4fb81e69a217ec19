"""An R-CNN on ``res4``: the encoder's last stage runs on what is pooled for each box.

A norm of its own follows that stage (Res5ROIHeadsExtraNorm of github.com/facebookresearch/moco,
detection/), and the mask head shares what both compute. Any network of a stem and four stages will
do; a norm that it has after the last one is left out.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from moco_eval.encoders.encoder import Encoder
from moco_eval.engines.recipe import Recipe
from moco_eval.engines.torchvision.masks import build_mask_head
from moco_eval.engines.torchvision.rcnn import RCNN
from moco_eval.engines.torchvision.stages import ResFour


class C4Detector(RCNN):
    """A detector whose backbone and last stage are a copy of an encoder.

    Args:
        encoder: What ``stages_of`` can split: a ResNet of any strides, a ConvNeXt, RegNet or Swin.
        recipe: Sizes of anchors, samples and pooled regions.
        num_classes: Without the background.

    Raises:
        UsageError: If the encoder has no stem and four stages.
    """

    body: ResFour

    def __init__(self, encoder: Encoder, recipe: Recipe, *, num_classes: int) -> None:
        body = ResFour(encoder, recipe)
        super().__init__(encoder, recipe, body, [recipe.anchor_sizes])
        channels = body.level_channels["res5"]
        self.extra_norm = nn.BatchNorm2d(channels)
        if recipe.masks:
            self.mask_head = build_mask_head(
                channels, recipe, num_classes, norm=body.norm if recipe.head_norm else None
            )
        self.add_predictors(channels, num_classes)
        self.finish(encoder)

    def regions(self, maps: dict[str, Tensor], boxes: list[Tensor]) -> Tensor:
        """The last stage's features of each box, ``(num_boxes, C, side, side)``."""
        scale = 1 / self.body.strides["res4"]
        pooled = roi_align(
            maps["res4"], boxes, self.pool_size, scale, sampling_ratio=0, aligned=True
        )
        if not self.body.is_resnet and self.pool_size % 2:
            pooled = F.pad(pooled, (0, 1, 0, 1), mode="replicate")
        # An image may have no detections, and a Swin takes no empty batch.
        some = pooled if len(pooled) else pooled.new_zeros(1, *pooled.shape[1:])
        regions: Tensor = self.extra_norm(self.body.res5(some)[: len(pooled)])
        return regions

    def box_features(self, regions: Tensor) -> Tensor:
        """The mean over each region."""
        return regions.mean((2, 3))

    def shape_regions(
        self, maps: dict[str, Tensor], boxes: list[Tensor], shared: Tensor | None
    ) -> Tensor:
        """In training those that the boxes were told from."""
        return self.regions(maps, boxes) if shared is None else shared
