"""Object detection: a C4 Faster R-CNN around the encoder, all of its weights fine-tuned.

Protocol ``detect@1`` on Detectron2, ``detect-tv@1`` on torchvision's. Stem to ``res4`` are the
backbone; ``res5`` runs on pooled regions, and a new norm follows it; BatchNorm is trained along and
made precise at the end. Reported: COCO's box AP. Every encoder gets the same recipe. Source: MoCo,
arXiv:1911.05722, section 4.2; github.com/facebookresearch/moco, detection/.
"""

from __future__ import annotations

from pathlib import Path

from moco_eval.data.coco import SceneData
from moco_eval.encoders.encoder import Encoder
from moco_eval.engines import transfer
from moco_eval.engines.average_precision import average_precision
from moco_eval.engines.recipe import Recipe
from moco_eval.engines.recipes import DEFAULT_RECIPE, PUBLISHED, RECIPES
from moco_eval.records import Outcome

__all__ = ["DEFAULT_RECIPE", "PUBLISHED", "RECIPES", "VERSION", "Recipe", "evaluate"]

VERSION = 1


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
    detector = transfer.build_detector(encoder, recipe, data, engine=engine, seed=seed)
    details = transfer.train(detector, recipe, data.train, seed=seed, work_dir=work_dir)
    results = transfer.detect(detector, recipe, data.test, work_dir=work_dir)
    boxes = average_precision(data.test.truth(), results, "bbox")
    return Outcome(metrics=boxes, num_test=len(data.test), details=details)
