"""Semantic segmentation: the encoder as a fully convolutional network, or under a linear head."""

from moco_eval.semantic.model import Segmenter
from moco_eval.semantic.protocol import VERSION, build, evaluate
from moco_eval.semantic.recipe import DEFAULT_RECIPE, PUBLISHED, RECIPES, SemanticRecipe

__all__ = [
    "DEFAULT_RECIPE",
    "PUBLISHED",
    "RECIPES",
    "VERSION",
    "Segmenter",
    "SemanticRecipe",
    "build",
    "evaluate",
]
