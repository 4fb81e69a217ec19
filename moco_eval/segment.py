"""Instance segmentation: a C4 Mask R-CNN around the encoder, all of its weights fine-tuned.

Protocol ``segment@1`` on Detectron2, ``segment-tv@1`` on torchvision's: ``detect`` with a mask
head that shares ``res5`` with the boxes; COCO's mask AP and box AP.
"""

from __future__ import annotations

from pathlib import Path

from moco_eval import detect
from moco_eval.data.coco import SceneData
from moco_eval.encoders.encoder import Encoder
from moco_eval.engines import transfer
from moco_eval.engines.average_precision import average_precision
from moco_eval.engines.recipe import Recipe
from moco_eval.records import Outcome

VERSION = 1
# One detector, two protocols: a box AP is comparable between them only if the numbers are the same.
RECIPES = detect.RECIPES
DEFAULT_RECIPE = detect.DEFAULT_RECIPE


def evaluate(
    encoder: Encoder,
    recipe: Recipe,
    data: SceneData,
    *,
    seed: int,
    work_dir: Path,
    engine: str = "auto",
) -> Outcome:
    """Train the detector and return AP, AP50 and AP75 of its masks, and its box AP.

    Raises:
        UsageError: If the encoder has no levels, or the engine is not there or cannot build it.
        CheckpointError: If the detector's backbone is not the encoder.
        DataError: If an object has no mask.
        DivergedError: If training diverges.
    """
    detector = transfer.build_detector(encoder, recipe, data, engine=engine, seed=seed)
    details = transfer.train(detector, recipe, data.train, seed=seed, work_dir=work_dir)
    results = transfer.detect(detector, recipe, data.test, work_dir=work_dir)
    masks = average_precision(data.test.truth(), results, "segm")
    boxes = average_precision(data.test.truth(), results, "bbox")
    return Outcome(
        metrics={f"{name}_mask": value for name, value in masks.items()} | {"AP": boxes["AP"]},
        num_test=len(data.test),
        details=details,
    )
