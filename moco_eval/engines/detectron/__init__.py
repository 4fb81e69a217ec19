"""Detectron2's detectors, each around a copy of an encoder."""

from __future__ import annotations

from moco_eval.encoders.encoder import Encoder
from moco_eval.engines.detectron.detector import Detectron
from moco_eval.engines.examples import Detector
from moco_eval.engines.recipe import Recipe


def build(
    encoder: Encoder, recipe: Recipe, *, num_classes: int, num_keypoints: int = 0
) -> Detector:
    """The recipe's detector, filled with ``encoder`` and on its device.

    Args:
        encoder: A ResNet of basic or bottleneck blocks.
        recipe: What is built, and what of it is frozen.
        num_classes: Without the background.
        num_keypoints: Of each object, where the recipe has keypoints.
    """
    return Detectron(encoder, recipe, num_classes=num_classes, num_keypoints=num_keypoints)
