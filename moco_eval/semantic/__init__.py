"""Semantic segmentation: the encoder as a fully convolutional network, or under a linear head."""

from moco_eval.semantic.protocol import VERSION, evaluate
from moco_eval.semantic.recipe import DEFAULT_RECIPE, PUBLISHED, RECIPES, SemanticRecipe

__all__ = ["DEFAULT_RECIPE", "PUBLISHED", "RECIPES", "VERSION", "SemanticRecipe", "evaluate"]
