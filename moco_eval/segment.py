"""Segmentation: of each object by a Mask R-CNN, or of each pixel's class.

Protocol ``segment@2`` (``segment-tv@2`` on torchvision's parts): instance segmentation, ``detect``
with masks, mask AP first. Protocol ``segment-semantic@2``: semantic segmentation by the paper's
FCN, fine-tuned as a whole; ``segment-semantic-linear@2``: by a linear layer on the frozen encoder.
Both are mIoU, and need no Detectron2.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from moco_eval import semantic
from moco_eval.data.scene import SceneData
from moco_eval.data.semantic import SemanticData
from moco_eval.encoders.encoder import Encoder
from moco_eval.engines import evaluation, recipes
from moco_eval.engines.recipe import Recipe
from moco_eval.errors import UsageError, unknown
from moco_eval.records import Outcome
from moco_eval.resources import PLAIN, Resources
from moco_eval.semantic.recipe import SemanticRecipe

VERSION = semantic.VERSION
AnyRecipe = Recipe | SemanticRecipe

# One detector, two protocols: a box AP is comparable between them only if the numbers are the same.
_INSTANCE = {
    name: replace(recipe, masks=True)
    for name, recipe in recipes.RECIPES.items()
    if recipe.masks or name.startswith(("digits-", "small-"))
}
RECIPES: dict[str, AnyRecipe] = {**_INSTANCE, **semantic.RECIPES}
PUBLISHED = {
    name: text
    for name, text in {**recipes.PUBLISHED, **semantic.PUBLISHED}.items()
    if name in RECIPES
}
TASKS = {"instance": recipes.DEFAULT_RECIPE, "semantic": "digits-fcn"}
DEFAULT_RECIPE = TASKS["instance"]


def recipe_of(task: str, name: str) -> str:
    """The recipe's name: the default of the task, or ``name`` if it is of that task.

    Args:
        task: ``instance``, ``semantic``, or empty where the recipe alone says it.
        name: A recipe; empty for the default.

    Raises:
        UsageError: If there is no such task, or the recipe is of the other one.
    """
    if task and task not in TASKS:
        raise unknown("task", task, TASKS)
    if not name or not task or name not in RECIPES:
        return name or TASKS.get(task, DEFAULT_RECIPE)
    own = task_of(RECIPES[name])
    if own != task:
        names = ", ".join(each for each, recipe in RECIPES.items() if task_of(recipe) == task)
        raise UsageError(f"Recipe '{name}' is of --task {own}. Those of --task {task}: {names}.")
    return name


def task_of(recipe: AnyRecipe) -> str:
    """Which kind of segmentation it is, a key of ``TASKS``."""
    return "semantic" if isinstance(recipe, SemanticRecipe) else "instance"


def evaluate(  # noqa: PLR0913 - the protocols' common signature
    encoder: Encoder,
    recipe: AnyRecipe,
    data: Any,
    *,
    seed: int,
    work_dir: Path,
    engine: str = "auto",
    resources: Resources = PLAIN,
) -> Outcome:
    """Train, and return the AP of masks and boxes, or mIoU.

    Args:
        encoder: Stays as it is: a copy of it is trained.
        recipe: Of either task.
        data: ``SceneData`` for instances, ``SemanticData`` for classes of pixels.
        seed: Decides every draw.
        work_dir: Gets what is no result.
        engine: Of instance segmentation.
        resources: What it may use of the machine.

    Raises:
        UsageError: If the recipe does not fit the encoder, or the engine is not there.
        CheckpointError: If the backbone is not the encoder.
        DataError: If an image is damaged, or an object has no mask.
        DivergedError: If training diverges.
        PreemptedError: If it was asked to stop; the same call continues.
    """
    if isinstance(recipe, SemanticRecipe):
        assert isinstance(data, SemanticData), "semantic segmentation takes label maps"
        return semantic.evaluate(
            encoder, recipe, data, seed=seed, work_dir=work_dir, resources=resources
        )
    assert isinstance(data, SceneData), "instance segmentation takes scenes"
    if not recipe.masks:
        raise UsageError("Instance segmentation needs a mask head: leave out --set masks=false.")
    return evaluation.evaluate(
        encoder,
        recipe,
        data,
        primary="segm",
        seed=seed,
        work_dir=work_dir,
        engine=engine,
        resources=resources,
    )
