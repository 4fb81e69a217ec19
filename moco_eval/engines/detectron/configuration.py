"""Detectron2's configuration of a recipe and an encoder, whole: its own trainer could take it.

Each entry that is not Detectron2's default is set here, once, beside what decides it: a field of
the recipe, the encoder, the data, or the machine. ``opts.py`` refuses to overrule those.
"""

from __future__ import annotations

import math
from typing import Any

from detectron2.config import CfgNode, get_cfg

from moco_eval.encoders.encoder import LEVELS, Encoder
from moco_eval.encoders.exports.detectron2 import resnet_lines
from moco_eval.encoders.networks import has_resnet_parts
from moco_eval.engines.detectron.opts import Decided, merge_opts
from moco_eval.engines.recipe import Recipe
from moco_eval.engines.transformer import strides_of
from moco_eval.errors import UsageError

# The trained norms, as Detectron2 calls them.
ONE_DEVICE = "BN"
BY_DETECTRON2 = "naiveSyncBN"
BY_TORCH = "SyncBN"
OF_TRANSFORMERS = "LN"
FROZEN = "FrozenBN"

# Backbones that Detectron2 builds by name; the second is ours, registered in body.py.
BACKBONES = {
    "c4": "build_resnet_backbone",
    "dc5": "build_resnet_dc5_backbone",
    "fpn": "build_resnet_fpn_backbone",
    "retinanet": "build_retinanet_resnet_fpn_backbone",
}
# So many levels a pyramid adds above the encoder's.
EXTRA_LEVELS = {"fpn": 1, "retinanet": 2}
# All stages of a ResNet, and its stem.
WHOLE = 5


def choose_norm(
    recipe: Recipe, encoder: Encoder, *, world_size: int, device_type: str
) -> tuple[str, str]:
    """The norm that is trained on this many devices, and a sentence on it for the record.

    Args:
        recipe: Upstream takes Detectron2's own synchronised BatchNorm for C4, torch's for the rest.
        encoder: A transformer has no BatchNorm, and its detector none either.
        world_size: How many processes train.
        device_type: torch's SyncBatchNorm refuses the CPU.
    """
    if not has_resnet_parts(encoder.network):
        return OF_TRANSFORMERS, "LN: LayerNorm, in the pyramid and the heads as in the transformer"
    frozen = "; the encoder's own are frozen" if recipe.freeze != "none" else ""
    num_images = recipe.batch_total // world_size
    if world_size == 1:
        return ONE_DEVICE, f"BN: each sees the {num_images} images of one device{frozen}"
    by_torch = recipe.detector != "c4" and device_type == "cuda"
    name = BY_TORCH if by_torch else BY_DETECTRON2
    share = f"{world_size} devices of {num_images} images each"
    return name, f"{name}: BatchNorm over {share}{frozen}"


def configuration(
    recipe: Recipe,
    encoder: Encoder,
    *,
    num_classes: int,
    num_keypoints: int = 0,
    norm: str = ONE_DEVICE,
) -> CfgNode:
    """Detectron2's configuration: its defaults, what is decided elsewhere, and ``recipe.opts``.

    Args:
        recipe: Its numbers as they are: already rescaled to the devices.
        encoder: How it is fed and built.
        num_classes: Without the background.
        num_keypoints: Of each object, where the recipe has keypoints.
        norm: Of the norms that are trained, from ``choose_norm``.

    Raises:
        UsageError: If ``recipe.opts`` names no key of Detectron2's, or one that something else
            decides; if anchors do not fit the levels.
    """
    decided = {
        **_of_encoder(encoder, recipe),
        **_of_training(recipe),
        **_of_images(recipe),
        **_of_data(recipe, num_classes, num_keypoints),
        **_of_backbone(encoder, recipe, norm),
        **_of_detector(encoder, recipe),
        **(_of_one_stage(recipe, norm) if recipe.detector == "retinanet" else {}),
        **(_of_two_stages(recipe, norm) if recipe.detector != "retinanet" else {}),
    }
    cfg = get_cfg()
    cfg.merge_from_list([part for key, found in decided.items() for part in (key, found.value)])
    merge_opts(cfg, recipe.opts, decided)
    return cfg


def flat(cfg: CfgNode, above: str = "") -> dict[str, Any]:
    """Every entry by its dotted key."""
    entries: dict[str, Any] = {}
    for key, value in cfg.items():
        name = f"{above}{key}"
        entries |= flat(value, f"{name}.") if isinstance(value, CfgNode) else {name: value}
    return entries


def differences(cfg: CfgNode) -> dict[str, Any]:
    """The entries that are not Detectron2's defaults."""
    defaults = flat(get_cfg())
    return {key: value for key, value in flat(cfg).items() if value != defaults[key]}


def level_strides(encoder: Encoder) -> tuple[int, ...]:
    """Pixels of the image to one of each level ``res2`` to ``res5``."""
    side = 64
    probe = next(encoder.network.parameters()).new_zeros(1, 3, side, side)
    return tuple(side // level.shape[-1] for level in encoder.levels(probe).values())


def _of_encoder(encoder: Encoder, recipe: Recipe) -> dict[str, Decided]:
    fed = encoder.input
    # Said on the scale of 0 to 255; the last digits of the product are rounding's.
    mean, std = ([round(255 * value, 6) for value in values] for values in (fed.mean, fed.std))
    entries = {
        "INPUT.FORMAT": Decided(fed.channel_order, "input"),
        "MODEL.PIXEL_MEAN": Decided(mean, "input"),
        "MODEL.PIXEL_STD": Decided(std, "input"),
        "MODEL.DEVICE": Decided(encoder.device.type, "machine"),
    }
    numbers = _resnet_numbers(encoder, recipe)
    if numbers is None:
        # Nothing that Detectron2 could build by itself, and a name that it will not take for it.
        name = f"moco_eval:{encoder.arch}"
        return entries | {"MODEL.BACKBONE.NAME": Decided(name, "structure")}
    entries["MODEL.BACKBONE.NAME"] = Decided(BACKBONES[recipe.detector], "detector")
    return entries | {
        f"MODEL.RESNETS.{key}": Decided(value, "structure") for key, value in numbers.items()
    }


def _resnet_numbers(encoder: Encoder, recipe: Recipe) -> dict[str, int | bool] | None:
    """MODEL.RESNETS, if Detectron2 can build such a ResNet from it."""
    if not has_resnet_parts(encoder.network):
        return None
    stem = encoder.tensors().get("conv1.weight")
    if stem is None or stem.shape[-1] != 7:
        return None
    try:
        numbers = resnet_lines(encoder)
    except UsageError:
        return None
    # Its C4 heads have three bottlenecks, and its basic blocks no dilation.
    is_rigid = recipe.detector in ("c4", "dc5")
    return None if is_rigid and numbers["DEPTH"] in (18, 34) else numbers


def _of_training(recipe: Recipe) -> dict[str, Decided]:
    return {
        "SOLVER.MAX_ITER": Decided(recipe.num_iterations, "num_iterations"),
        "SOLVER.IMS_PER_BATCH": Decided(recipe.batch_total, "batch_total"),
        "SOLVER.BASE_LR": Decided(float(recipe.lr), "lr"),
        "SOLVER.STEPS": Decided(recipe.lr_drops, "lr_drops"),
        "SOLVER.WARMUP_ITERS": Decided(recipe.warmup_iterations, "warmup_iterations"),
        "SOLVER.WARMUP_FACTOR": Decided(float(recipe.warmup_start), "warmup_start"),
        "SOLVER.MOMENTUM": Decided(float(recipe.sgd_momentum), "sgd_momentum"),
        "SOLVER.WEIGHT_DECAY": Decided(float(recipe.weight_decay), "weight_decay"),
        "TEST.PRECISE_BN.ENABLED": Decided(recipe.precise_bn_batches > 0, "precise_bn_batches"),
        "TEST.PRECISE_BN.NUM_ITER": Decided(recipe.precise_bn_batches, "precise_bn_batches"),
    }


def _of_images(recipe: Recipe) -> dict[str, Decided]:
    # What Detectron2's configuration cannot say, large-scale jitter, the recipe alone says.
    flip = "horizontal" if recipe.flip else "none"
    repeats = recipe.repeat_threshold > 0
    sampler = "RepeatFactorTrainingSampler" if repeats else "TrainingSampler"
    return {
        "INPUT.MIN_SIZE_TRAIN": Decided(recipe.short_sides_train, "short_sides_train"),
        "INPUT.MAX_SIZE_TRAIN": Decided(recipe.max_side, "max_side"),
        "INPUT.MIN_SIZE_TEST": Decided(recipe.short_side_test, "short_side_test"),
        "INPUT.MAX_SIZE_TEST": Decided(recipe.max_side, "max_side"),
        "INPUT.RANDOM_FLIP": Decided(flip, "flip"),
        "DATALOADER.ASPECT_RATIO_GROUPING": Decided(recipe.group_by_aspect, "group_by_aspect"),
        "DATALOADER.SAMPLER_TRAIN": Decided(sampler, "repeat_threshold"),
        "DATALOADER.REPEAT_THRESHOLD": Decided(float(recipe.repeat_threshold), "repeat_threshold"),
        "TEST.DETECTIONS_PER_IMAGE": Decided(recipe.detections_per_image, "detections_per_image"),
    }


def _of_data(recipe: Recipe, num_classes: int, num_keypoints: int) -> dict[str, Decided]:
    where = "RETINANET" if recipe.detector == "retinanet" else "ROI_HEADS"
    entries = {f"MODEL.{where}.NUM_CLASSES": Decided(num_classes, "data")}
    if recipe.masks:
        # Unlike upstream: polygons too are bitmaps by the time that they arrive.
        entries["INPUT.MASK_FORMAT"] = Decided("bitmask", "data")
    if recipe.keypoints:
        key = "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS"
        entries[key] = Decided(num_keypoints, "data")
    return entries


def _of_backbone(encoder: Encoder, recipe: Recipe, norm: str) -> dict[str, Decided]:
    own = norm if recipe.freeze == "none" else FROZEN
    frozen = WHOLE if recipe.freeze == "encoder" else 0
    entries = {"MODEL.BACKBONE.FREEZE_AT": Decided(frozen, "freeze")}
    if not has_resnet_parts(encoder.network):
        return entries
    levels = {"c4": LEVELS[2:3], "dc5": LEVELS[3:], "fpn": LEVELS, "retinanet": LEVELS[1:]}
    return entries | {
        "MODEL.RESNETS.NORM": Decided(own, "freeze"),
        "MODEL.RESNETS.OUT_FEATURES": Decided(list(levels[recipe.detector]), "detector"),
        "MODEL.RESNETS.RES5_DILATION": Decided(2 if recipe.detector == "dc5" else 1, "detector"),
    }


def _of_detector(encoder: Encoder, recipe: Recipe) -> dict[str, Decided]:
    """Which maps proposals and heads look at, and with which anchors."""
    if recipe.detector in ("c4", "dc5"):
        maps = ["res4" if recipe.detector == "c4" else "res5"]
        anchors = [list(recipe.anchor_sizes)]
        return {
            "MODEL.RPN.IN_FEATURES": Decided(maps, "detector"),
            "MODEL.ROI_HEADS.IN_FEATURES": Decided(maps, "detector"),
            "MODEL.ANCHOR_GENERATOR.SIZES": Decided(anchors, "anchor_sizes"),
        }
    used = LEVELS if recipe.detector == "fpn" else LEVELS[1:]
    strides = _pyramid_strides(encoder)[-len(used) :]
    # A level is called by the power of two that its stride is.
    first = int(math.log2(strides[0]))
    count = len(used) + EXTRA_LEVELS[recipe.detector]
    maps = [f"p{number}" for number in range(first, first + count)]
    if len(recipe.anchor_sizes) != count:
        raise UsageError(
            f"A pyramid of {recipe.detector} has {count} levels, {', '.join(maps)}, and one size "
            f"of anchors for each: anchor_sizes={recipe.anchor_sizes} has "
            f"{len(recipe.anchor_sizes)}."
        )
    entries = {}
    if has_resnet_parts(encoder.network):
        entries["MODEL.FPN.IN_FEATURES"] = Decided(list(used), "detector")
    if recipe.detector == "retinanet":
        octave = [2 ** (third / 3) for third in range(3)]
        sizes = [[size * part for part in octave] for size in recipe.anchor_sizes]
        return entries | {
            "MODEL.RETINANET.IN_FEATURES": Decided(maps, "detector"),
            "MODEL.ANCHOR_GENERATOR.SIZES": Decided(sizes, "anchor_sizes"),
        }
    return entries | {
        "MODEL.RPN.IN_FEATURES": Decided(maps, "detector"),
        "MODEL.ROI_HEADS.IN_FEATURES": Decided(maps[:-1], "detector"),
        "MODEL.ANCHOR_GENERATOR.SIZES": Decided([[n] for n in recipe.anchor_sizes], "anchor_sizes"),
    }


def _pyramid_strides(encoder: Encoder) -> tuple[int, ...]:
    if not has_resnet_parts(encoder.network):
        return strides_of(encoder)
    return level_strides(encoder)


def _of_one_stage(recipe: Recipe, norm: str) -> dict[str, Decided]:
    return {
        "MODEL.META_ARCHITECTURE": Decided("RetinaNet", "detector"),
        "MODEL.FPN.NORM": Decided(norm if recipe.pyramid_norm else "", "pyramid_norm"),
        "MODEL.RETINANET.NORM": Decided(norm if recipe.head_norm else "", "head_norm"),
        "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": Decided(
            float(recipe.box_loss_beta), "box_loss_beta"
        ),
        "MODEL.RETINANET.SCORE_THRESH_TEST": Decided(
            float(recipe.score_threshold), "score_threshold"
        ),
    }


def _of_two_stages(recipe: Recipe, norm: str) -> dict[str, Decided]:
    own_box_head = recipe.detector != "c4"
    head_norm = norm if recipe.head_norm else ""
    pre_train, pre_test = recipe.rpn_pre_nms
    post_train, post_test = recipe.rpn_post_nms
    # C4's own is upstream's, from detection/train_net.py, which registers it.
    heads = "StandardROIHeads" if own_box_head else "Res5ROIHeadsExtraNorm"
    entries = {
        "MODEL.MASK_ON": Decided(recipe.masks, "masks"),
        "MODEL.KEYPOINT_ON": Decided(recipe.keypoints, "keypoints"),
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE": Decided(recipe.rpn_batch, "rpn_batch"),
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": Decided(pre_train, "rpn_pre_nms"),
        "MODEL.RPN.PRE_NMS_TOPK_TEST": Decided(pre_test, "rpn_pre_nms"),
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": Decided(post_train, "rpn_post_nms"),
        "MODEL.RPN.POST_NMS_TOPK_TEST": Decided(post_test, "rpn_post_nms"),
        "MODEL.ROI_HEADS.NAME": Decided(heads, "detector"),
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": Decided(recipe.roi_batch, "roi_batch"),
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": Decided(
            float(recipe.score_threshold), "score_threshold"
        ),
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": Decided(recipe.pool_size, "pool_size"),
        "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": Decided(float(recipe.box_loss_beta), "box_loss_beta"),
        "MODEL.ROI_MASK_HEAD.NUM_CONV": Decided(recipe.mask_convs, "mask_convs"),
        "MODEL.ROI_MASK_HEAD.CONV_DIM": Decided(recipe.mask_channels, "mask_channels"),
        "MODEL.ROI_MASK_HEAD.NORM": Decided(head_norm, "head_norm"),
    }
    if recipe.detector == "fpn":
        entries["MODEL.FPN.NORM"] = Decided(norm if recipe.pyramid_norm else "", "pyramid_norm")
    if own_box_head:
        entries |= {
            "MODEL.ROI_BOX_HEAD.NAME": Decided("FastRCNNConvFCHead", "detector"),
            "MODEL.ROI_BOX_HEAD.NUM_FC": Decided(recipe.box_fcs, "box_fcs"),
            "MODEL.ROI_BOX_HEAD.NUM_CONV": Decided(recipe.box_convs, "box_convs"),
            "MODEL.ROI_BOX_HEAD.NORM": Decided(head_norm, "head_norm"),
        }
    return entries
