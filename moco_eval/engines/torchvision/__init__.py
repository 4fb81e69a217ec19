"""The same detectors from torchvision's parts, with Detectron2's semantics."""

from __future__ import annotations

from moco_eval.encoders.encoder import Encoder
from moco_eval.engines.examples import Detector
from moco_eval.engines.recipe import Recipe
from moco_eval.engines.torchvision.backbone import Backbone
from moco_eval.engines.torchvision.c4 import C4Detector
from moco_eval.engines.torchvision.pooled import PooledDetector
from moco_eval.engines.torchvision.retinanet import RetinaNetDetector
from moco_eval.engines.torchvision.stages import DilatedFive, Pyramid
from moco_eval.engines.torchvision.vit import TransformerPyramid
from moco_eval.engines.transformer import is_plain, require_fit


def build(
    encoder: Encoder, recipe: Recipe, *, num_classes: int, num_keypoints: int = 0
) -> Detector:
    """The recipe's detector, filled with ``encoder`` and on its device.

    Args:
        encoder: A network of a stem and four stages; for a pyramid also a plain transformer.
        recipe: What is built, and what of it is frozen.
        num_classes: Without the background.
        num_keypoints: Of each object, where the recipe has keypoints.

    Raises:
        UsageError: If this engine has no such detector, or the encoder is no backbone of it.
    """
    require_fit(encoder, recipe)
    if recipe.detector == "c4":
        return C4Detector(encoder, recipe, num_classes=num_classes)
    if recipe.detector == "retinanet":
        return RetinaNetDetector(encoder, recipe, num_classes=num_classes)
    body: Backbone
    if is_plain(encoder):
        body = TransformerPyramid(encoder, recipe)
    else:
        body = (DilatedFive if recipe.detector == "dc5" else Pyramid)(encoder, recipe)
    return PooledDetector(
        encoder, recipe, body, num_classes=num_classes, num_keypoints=num_keypoints
    )
