"""The same detectors from torchvision's parts, with Detectron2's semantics."""

from __future__ import annotations

from moco_eval.encoders.encoder import Encoder
from moco_eval.engines.examples import Detector
from moco_eval.engines.recipe import Recipe
from moco_eval.engines.torchvision.c4 import C4Detector
from moco_eval.errors import UsageError


def build(
    encoder: Encoder, recipe: Recipe, *, num_classes: int, num_keypoints: int = 0
) -> Detector:
    """The recipe's detector, filled with ``encoder`` and on its device.

    Args:
        encoder: A network of a stem and four stages.
        recipe: What is built, and what of it is frozen.
        num_classes: Without the background.
        num_keypoints: Of each object, where the recipe has keypoints.

    Raises:
        UsageError: If this engine has no such detector, or the encoder is no backbone of it.
    """
    if recipe.detector != "c4":
        raise UsageError(
            f"The torchvision engine builds no '{recipe.detector}' detector. Take Detectron2's: "
            "--engine detectron2, or a recipe with detector=c4."
        )
    return C4Detector(encoder, recipe, num_classes=num_classes)
