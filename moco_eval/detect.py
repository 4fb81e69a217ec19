"""Object detection: an R-CNN or RetinaNet around the encoder, fine-tuned as a whole.

Protocol ``detect@2`` on Detectron2, ``detect-tv@2`` on torchvision's parts. The encoder is the
backbone, its BatchNorm is trained along and made precise at the end. Reported: the data set's own
box AP; of recipes with masks or keypoints their AP too, from the same run. Every encoder gets the
same recipe. Source: MoCo, arXiv:1911.05722, section 4.2; github.com/facebookresearch/moco,
detection/.
"""

from __future__ import annotations

from pathlib import Path

from moco_eval.data.scene import SceneData
from moco_eval.encoders.encoder import Encoder
from moco_eval.engines import evaluation
from moco_eval.engines.recipe import Recipe
from moco_eval.engines.recipes import DEFAULT_RECIPE, PUBLISHED, RECIPES
from moco_eval.records import Outcome
from moco_eval.resources import PLAIN, Resources

__all__ = ["DEFAULT_RECIPE", "PUBLISHED", "RECIPES", "VERSION", "Recipe", "evaluate"]

VERSION = 2


def evaluate(  # noqa: PLR0913 - the protocols' common signature
    encoder: Encoder,
    recipe: Recipe,
    data: SceneData,
    *,
    seed: int,
    work_dir: Path,
    engine: str = "auto",
    resources: Resources = PLAIN,
) -> Outcome:
    """Train the detector and return its AP on the test scenes, of keypoints first if it has them.

    Raises:
        UsageError: If the recipe does not fit the encoder, or the engine is not there.
        CheckpointError: If the detector's backbone is not the encoder.
        DataError: If a scene is damaged, or has no masks where they are asked for.
        DivergedError: If training diverges.
        PreemptedError: If it was asked to stop; the same call continues.
    """
    return evaluation.evaluate(
        encoder,
        recipe,
        data,
        primary="keypoints" if recipe.keypoints else "bbox",
        seed=seed,
        work_dir=work_dir,
        engine=engine,
        resources=resources,
    )
