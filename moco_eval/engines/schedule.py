"""A recipe for the devices that are there."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from moco_eval.engines.recipe import Training
from moco_eval.errors import UsageError

R = TypeVar("R", bound=Training)


def rescale(recipe: R, world_size: int) -> R:
    """The recipe for ``world_size`` devices, of as many images each as it was written for.

    The linear rule: a batch of half the size takes half the learning rate and twice the updates,
    of warm-up and drops as well. Goyal et al., arXiv:1706.02677; as ``auto_scale_workers`` of
    Detectron2's DefaultTrainer.

    Raises:
        UsageError: If the batch cannot be shared out.
    """
    reference = recipe.reference_world_size
    if reference in (0, world_size):
        _require_shares(recipe.batch_total, world_size)
        return recipe
    _require_shares(recipe.batch_total, reference)
    scale = world_size / reference
    return dataclasses.replace(
        recipe,
        batch_total=recipe.batch_total // reference * world_size,
        lr=recipe.lr * scale,
        lr_grid=tuple(lr * scale for lr in recipe.lr_grid),
        num_iterations=round(recipe.num_iterations / scale),
        lr_drops=tuple(round(step / scale) for step in recipe.lr_drops),
        warmup_iterations=round(recipe.warmup_iterations / scale),
    )


def _require_shares(batch_total: int, num_devices: int) -> None:
    if batch_total % num_devices:
        raise UsageError(
            f"A batch of {batch_total} images cannot be shared out among {num_devices} devices. "
            f"Take a multiple of {num_devices}: --set batch_total=..."
        )
