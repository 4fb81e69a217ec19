"""The numbers of a dense task's training: what all share, and what a detector has besides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moco_eval.errors import UsageError
from moco_eval.schedules import step_drops


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a dense model is trained, whatever it is.

    Attributes:
        num_iterations: Updates of all weights.
        batch_total: Images of one update, over all devices.
        reference_world_size: The devices that these numbers are for. On others batch, learning
            rate and every number of updates follow by the linear rule (``schedule.py``); 0 leaves
            them as they are.
        lr: The learning rate after the warm-up.
        lr_grid: Learning rates of which the best on held-out training images is taken; empty takes
            ``lr``.
        lr_drops: The updates at which it falls to a tenth.
        warmup_iterations: Updates in which it rises linearly.
        warmup_start: The share of the learning rate that the rise begins with.
        optimizer: Whose other numbers follow.
        sgd_momentum: Of ``sgd``.
        weight_decay: Of all weights but those of norms.
        layer_decay: Of ``adamw``: the factor from a transformer's block to the one before it.
        drop_path: The share of residual branches that a transformer leaves out, in its last block.
        freeze: ``norms`` keeps the encoder's BatchNorms as they are, weights and statistics;
            ``encoder`` keeps all of it.
        precise_bn_batches: Batches on which BatchNorm's statistics are computed anew at the end; 0
            keeps the running ones.
    """

    num_iterations: int
    batch_total: int
    reference_world_size: int = 0
    lr: float
    lr_grid: tuple[float, ...] = ()
    lr_drops: tuple[int, ...] = ()
    warmup_iterations: int = 0
    warmup_start: float = 1e-3
    optimizer: Literal["sgd", "adamw"] = "sgd"
    sgd_momentum: float = 0.9
    weight_decay: float = 1e-4
    layer_decay: float = 1.0
    drop_path: float = 0.0
    freeze: Literal["none", "norms", "encoder"] = "none"
    precise_bn_batches: int = 0

    def __post_init__(self) -> None:
        if min(self.num_iterations, self.batch_total) < 1 or min(self.lr, *self.lr_grid, 1) <= 0:
            raise UsageError(
                "Training needs a positive number of iterations, images in a batch and learning "
                f"rate: num_iterations={self.num_iterations}, batch_total={self.batch_total}, "
                f"lr={self.lr}, lr_grid={self.lr_grid}."
            )

    def lr_at(self, step: int) -> float:
        """The learning rate of update ``step``, from 0, as Detectron2's scheduler gives it."""
        lr = self.lr * step_drops(step, self.lr_drops)
        if step < self.warmup_iterations:
            progress = step / self.warmup_iterations
            lr *= self.warmup_start * (1 - progress) + progress
        return lr


@dataclass(frozen=True, kw_only=True)
class Recipe(Training):
    """What a detector is trained and tested with.

    What is not here is Detectron2's default and the same for every recipe: matching thresholds,
    sampled shares, NMS, three anchor ratios.

    Attributes:
        detector: ``c4``: an R-CNN on ``res4``, whose ``res5`` runs on pooled regions with a norm of
            its own after it. ``dc5``: on a ``res5`` of stride 16, dilated, then a 3x3 convolution.
            ``fpn``: on a feature pyramid; of a plain transformer, ViTDet's simple one.
            ``retinanet``: one stage, on a pyramid of levels 3 to 7.
        masks: Whether it has a mask head.
        keypoints: Whether it has a keypoint head.
        short_sides_train: The short side of a training image is one of these, in pixels.
        short_side_test: The short side of a test image.
        max_side: The long side is at most this; the short one is then shorter.
        jitter: Instead of ``short_sides_train``, the range of scales of large-scale jitter: the
            image is scaled to fit ``max_side``, times a number drawn from it, and cropped to that.
        flip: Whether training images are mirrored half the time.
        group_by_aspect: Whether a device's batch holds either wide images or tall ones.
        repeat_threshold: LVIS's: images whose rarest class is on a smaller share of all images are
            seen more often; 0 sees all alike.
        anchor_sizes: Square roots of the anchors' areas, in pixels: all at ``c4``'s and ``dc5``'s
            one level, one a level of a pyramid; RetinaNet has three a level, a third of an octave
            apart.
        rpn_batch: Anchors of an image that the proposal loss samples.
        rpn_pre_nms: Proposals of an image, and of a level, before NMS, in training and in testing.
        rpn_post_nms: After it, of the image.
        roi_batch: Proposals of an image that the heads are trained on.
        pool_size: Side of the features that are pooled for a box.
        box_convs: 3x3 convolutions of the box head (256 channels); ``c4`` has ``res5`` instead.
        box_fcs: Fully connected layers after them (1024 channels).
        mask_convs: 3x3 convolutions of the mask head before it doubles the side.
        mask_channels: Width of the mask head.
        pyramid_norm: Whether the pyramid's convolutions are followed by norms.
        head_norm: Whether the convolutions of the box and mask heads are.
        box_loss_beta: Where the box losses of the second stage turn from square to linear; 0 is L1.
        score_threshold: Detections below it do not count.
        detections_per_image: The best so many count.
        opts: Further entries of Detectron2's configuration, as ``KEY=VALUE``; what the encoder or
            another field decides is refused.
    """

    detector: Literal["c4", "dc5", "fpn", "retinanet"]
    masks: bool = False
    keypoints: bool = False
    short_sides_train: tuple[int, ...]
    short_side_test: int
    max_side: int
    jitter: tuple[float, ...] = ()
    flip: bool = True
    group_by_aspect: bool = True
    repeat_threshold: float = 0.0
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    rpn_batch: int = 256
    rpn_pre_nms: tuple[int, int]
    rpn_post_nms: tuple[int, int]
    roi_batch: int = 512
    pool_size: int = 7
    box_convs: int = 0
    box_fcs: int = 2
    mask_convs: int = 4
    mask_channels: int = 256
    pyramid_norm: bool = True
    head_norm: bool = False
    box_loss_beta: float = 0.0
    score_threshold: float = 0.05
    detections_per_image: int = 100
    opts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.pool_size, *self.short_sides_train, *self.anchor_sizes) < 1:
            raise UsageError(
                "A detector needs a positive number of pooled pixels, short sides and anchors: "
                f"pool_size={self.pool_size}, short_sides_train={self.short_sides_train}, "
                f"anchor_sizes={self.anchor_sizes}."
            )
        if self.detector == "retinanet" and (self.masks or self.keypoints):
            raise UsageError("A RetinaNet finds boxes only: masks=false and keypoints=false.")
        if self.keypoints and self.detector != "fpn":
            raise UsageError("Keypoints are found on a pyramid only: detector=fpn.")
