"""Recipes for other numbers of devices: by hand, and as Detectron2 rescales its own."""

import dataclasses

import pytest

from moco_eval.engines.recipes import RECIPES
from moco_eval.engines.schedule import rescale
from moco_eval.errors import UsageError


def test_half_the_devices_take_half_the_rate_and_twice_the_updates():
    recipe = dataclasses.replace(RECIPES["voc-c4-24k"], lr_grid=(0.02, 0.1))
    half = rescale(recipe, 4)
    assert (half.batch_total, half.lr, half.lr_grid) == (8, 0.01, (0.01, 0.05))
    assert (half.num_iterations, half.lr_drops) == (48_000, (36_000, 44_000))
    assert half.warmup_iterations == 200
    # What is not a number of updates or images of one stays.
    assert half.precise_bn_batches == recipe.precise_bn_batches
    assert half.short_sides_train == recipe.short_sides_train


def test_a_recipe_for_these_devices_or_for_any_stays_as_it_is():
    assert rescale(RECIPES["voc-c4-24k"], 8) == RECIPES["voc-c4-24k"]
    assert rescale(RECIPES["digits-c4"], 2) == RECIPES["digits-c4"]


def test_a_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(UsageError, match=r"A batch of 4 images .* among 3 devices"):
        rescale(RECIPES["digits-c4"], 3)
    odd = dataclasses.replace(RECIPES["voc-c4-24k"], batch_total=12)
    with pytest.raises(UsageError, match=r"A batch of 12 images .* among 8 devices"):
        rescale(odd, 1)


@pytest.mark.detectron2
@pytest.mark.parametrize("name", ["voc-c4-24k", "coco-fpn-6x", "cityscapes-fpn", "small-fpn"])
@pytest.mark.parametrize("num_devices", [1, 2, 3, 5, 8, 16])
def test_the_numbers_are_detectron2s(name, num_devices):
    from detectron2.config import get_cfg
    from detectron2.engine import DefaultTrainer

    recipe = RECIPES[name]
    cfg = get_cfg()
    cfg.SOLVER.IMS_PER_BATCH = recipe.batch_total
    cfg.SOLVER.REFERENCE_WORLD_SIZE = recipe.reference_world_size
    cfg.SOLVER.BASE_LR = recipe.lr
    cfg.SOLVER.MAX_ITER = recipe.num_iterations
    cfg.SOLVER.WARMUP_ITERS = recipe.warmup_iterations
    cfg.SOLVER.STEPS = recipe.lr_drops
    expected = DefaultTrainer.auto_scale_workers(cfg, num_devices).SOLVER
    found = rescale(recipe, num_devices)
    assert found.batch_total == expected.IMS_PER_BATCH
    assert found.lr == expected.BASE_LR
    assert found.num_iterations == expected.MAX_ITER
    assert found.warmup_iterations == expected.WARMUP_ITERS
    assert found.lr_drops == expected.STEPS
