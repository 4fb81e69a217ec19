"""Object detection: a C4 Faster R-CNN around the encoder, all of its weights fine-tuned.

Protocol ``detect@1`` on Detectron2, ``detect-tv@1`` on torchvision's. Stem to ``res4`` are the
backbone; ``res5`` runs on pooled regions, and a new norm follows it; BatchNorm is trained along and
made precise at the end. Reported: COCO's box AP. Every encoder gets the same recipe. Source: MoCo,
arXiv:1911.05722, section 4.2; github.com/facebookresearch/moco, detection/.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from moco_eval.data.coco import SceneData
from moco_eval.encoders.encoder import Encoder
from moco_eval.engines import transfer
from moco_eval.engines.average_precision import average_precision
from moco_eval.engines.recipe import Recipe
from moco_eval.records import Outcome

VERSION = 1

# What every setting of the MoCo papers shares. What they do not name is Detectron2's default.
_C4 = Recipe(
    detector="c4",
    num_iterations=90_000,
    batch_total=16,
    reference_world_size=8,
    lr=0.02,
    lr_drops=(60_000, 80_000),
    warmup_iterations=1000,
    short_sides_train=tuple(range(640, 801, 32)),
    short_side_test=800,
    max_side=1333,
    rpn_pre_nms=(12_000, 6000),
    rpn_post_nms=(2000, 1000),
    pool_size=14,
    mask_convs=0,
    precise_bn_batches=200,
)
_VOC_C4 = replace(
    _C4,
    num_iterations=24_000,
    lr_drops=(18_000, 22_000),
    warmup_iterations=100,
    short_sides_train=tuple(range(480, 801, 32)),
)
_COCO_C4 = replace(_C4, masks=True)
_FPN = replace(
    _C4,
    detector="fpn",
    masks=True,
    rpn_pre_nms=(2000, 1000),
    rpn_post_nms=(1000, 1000),
    pool_size=7,
    mask_convs=4,
)
_DIGITS_C4 = Recipe(
    detector="c4",
    num_iterations=500,
    batch_total=4,
    lr=0.08,
    lr_drops=(400, 475),
    warmup_iterations=20,
    short_sides_train=(128,),
    short_side_test=128,
    max_side=256,
    flip=False,
    anchor_sizes=(12, 24, 48),
    rpn_batch=64,
    rpn_pre_nms=(300, 300),
    rpn_post_nms=(64, 64),
    roi_batch=32,
    pool_size=7,
    mask_convs=0,
    mask_channels=64,
    precise_bn_batches=10,
)
_TWICE = {"num_iterations": 180_000, "lr_drops": (120_000, 160_000)}

RECIPES = {
    # For the embedded digit scenes, within a minute or two on two CPU cores. Scenes of 160 pixels
    # become 128, which makes a digit as large as in pretraining. Digits are not mirrored: a
    # mirrored 2 is no 2. No published number; this project's own are in results/.
    "digits-c4": _DIGITS_C4,
    "coco-c4-1x": _COCO_C4,
    "coco-c4-2x": replace(_COCO_C4, **_TWICE),
}
DEFAULT_RECIPE = "digits-c4"


def evaluate(
    encoder: Encoder,
    recipe: Recipe,
    data: SceneData,
    *,
    seed: int,
    work_dir: Path,
    engine: str = "auto",
) -> Outcome:
    """Train the detector and return its box AP, AP50 and AP75 on the test scenes.

    Raises:
        UsageError: If the encoder has no levels, or the engine is not there or cannot build it.
        CheckpointError: If the detector's backbone is not the encoder.
        DivergedError: If training diverges.
    """
    detector = transfer.build_detector(
        encoder, recipe, data, engine=engine, seed=seed, with_masks=False
    )
    details = transfer.train(detector, recipe, data.train, seed=seed, work_dir=work_dir)
    results = transfer.detect(detector, recipe, data.test, work_dir=work_dir)
    boxes = average_precision(data.test.truth(), results, "bbox")
    return Outcome(metrics=boxes, num_test=len(data.test), details=details)
