"""The numbers of a C4 R-CNN's training, the same for both engines and both dense protocols."""

from __future__ import annotations

from dataclasses import dataclass

from moco_eval.errors import UsageError
from moco_eval.schedules import step_drops

# Detectron2's linear warm-up starts at this share of the learning rate.
WARMUP_START = 1e-3


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a C4 Faster or Mask R-CNN is trained and tested with.

    What is not here is Detectron2's default for C4 and the same for every recipe: matching
    thresholds, sampled shares, NMS, three anchor ratios, at most 100 detections an image.

    Attributes:
        num_iterations: Updates of all weights.
        batch_total: Images of one update.
        lr: The learning rate after the warm-up.
        lr_drops: The updates at which it falls to a tenth.
        warmup_iterations: Updates in which it rises linearly.
        sgd_momentum: The optimizer's.
        weight_decay: Of all weights but those of norms.
        short_sides_train: The short side of a training image is one of these, in pixels.
        short_side_test: The short side of a test image.
        max_side: The long side is at most this; the short one is then shorter.
        flip: Whether training images are mirrored half the time.
        anchor_sizes: Square roots of the anchors' areas, in pixels.
        rpn_batch: Anchors of an image that the proposal loss samples.
        rpn_pre_nms: Proposals of an image before NMS, in training and in testing.
        rpn_post_nms: After it.
        roi_batch: Proposals of an image that the heads are trained on.
        pool_size: Side of the features that are pooled for a proposal.
        mask_channels: Width of the mask head.
        precise_bn_batches: Batches on which BatchNorm's statistics are computed anew at the end.
    """

    num_iterations: int
    batch_total: int
    lr: float
    lr_drops: tuple[int, ...]
    warmup_iterations: int
    sgd_momentum: float = 0.9
    weight_decay: float = 1e-4
    short_sides_train: tuple[int, ...]
    short_side_test: int
    max_side: int
    flip: bool
    anchor_sizes: tuple[int, ...]
    rpn_batch: int
    rpn_pre_nms: tuple[int, int]
    rpn_post_nms: tuple[int, int]
    roi_batch: int
    pool_size: int
    mask_channels: int
    precise_bn_batches: int

    def __post_init__(self) -> None:
        counts = (self.num_iterations, self.batch_total, self.pool_size, self.precise_bn_batches)
        if min(*counts, *self.short_sides_train, *self.anchor_sizes) < 1 or self.lr <= 0:
            raise UsageError(
                "A detector needs a positive number of iterations, images in a batch, pooled "
                f"pixels, batches for BatchNorm, short sides, anchors and learning rate: {self}."
            )

    def lr_at(self, step: int) -> float:
        """The learning rate of update ``step``, from 0, as Detectron2's scheduler gives it."""
        lr = self.lr * step_drops(step, self.lr_drops)
        if step < self.warmup_iterations:
            progress = step / self.warmup_iterations
            lr *= WARMUP_START * (1 - progress) + progress
        return lr
