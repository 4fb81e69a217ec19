"""Every detector's recipe, two updates and an evaluation on its own data set in miniature."""

import dataclasses

import pytest
from dense_layouts import allow_miniatures, write_set

from moco_eval import detect, segment
from moco_eval.data.catalog import open_scenes
from moco_eval.engines.recipe import Recipe

# Those of detect with masks are the same detectors: one of each kind, and what detect has not.
INSTANCE = ("digits-c4", "small-fpn", "coco-c4-1x", "lvis-fpn-1x", "cityscapes-fpn")
TRANSFORMER = "timm:vit_tiny_patch16_224:depth=2,dynamic_img_size=true,img_size=32"
ENGINES = ["torchvision", pytest.param("detectron2", marks=pytest.mark.detectron2)]


def shrunk(recipe):
    """The same detector on images of 64 pixels, with so few proposals that a CPU will do."""
    return dataclasses.replace(
        recipe,
        num_iterations=2,
        batch_total=2,
        lr=0.001,
        lr_drops=(1,),
        warmup_iterations=1,
        short_sides_train=(48, 64),
        short_side_test=48,
        max_side=96,
        rpn_batch=16,
        rpn_pre_nms=(60, 60),
        rpn_post_nms=(20, 20),
        roi_batch=8,
        precise_bn_batches=min(recipe.precise_bn_batches, 1),
    )


def data_of(name):
    """The set that a recipe is for: what its name begins with."""
    if "keypoint" in name:
        return "coco2017-keypoints"
    by_prefix = {"voc07-": "voc07", "voc-": "voc07+12", "lvis": "lvis-v0.5", "city": "cityscapes"}
    return next((kind for prefix, kind in by_prefix.items() if name.startswith(prefix)), "coco2017")


def run(module, name, engine, encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("MOCO_EVAL_CACHE", str(tmp_path / "cache"))
    allow_miniatures(monkeypatch)
    data = open_scenes(write_set(data_of(name), tmp_path / "data"))
    recipe = shrunk(module.RECIPES[name])
    before = encoder.tensor_sha256()
    outcome = module.evaluate(
        encoder, recipe, data, seed=0, work_dir=tmp_path / "work", engine=engine
    )
    assert encoder.tensor_sha256() == before
    assert outcome.num_test == 2
    assert (tmp_path / "work" / "detections.json").exists()
    assert (tmp_path / "work" / "model.pth").exists()
    assert outcome.details["final_losses"]
    return outcome


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", detect.RECIPES)
def test_each_recipe_detects_in_its_own_data(name, engine, make_encoder, tmp_path, monkeypatch):
    recipe = detect.RECIPES[name]
    encoder = make_encoder(TRANSFORMER if recipe.drop_path else "resnet10_small")
    outcome = run(detect, name, engine, encoder, tmp_path, monkeypatch)
    assert next(iter(outcome.metrics)) == ("AP_kp" if recipe.keypoints else "AP")
    assert ("AP_mask" in outcome.metrics) == recipe.masks
    # LVIS tells rare classes from frequent ones.
    assert ("APr" in outcome.metrics) == name.startswith("lvis")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", INSTANCE)
def test_each_recipe_segments_its_own_data(name, engine, make_encoder, tmp_path, monkeypatch):
    outcome = run(segment, name, engine, make_encoder(), tmp_path, monkeypatch)
    assert next(iter(outcome.metrics)) == "AP_mask"
    assert "AP" in outcome.metrics


def test_recipes_with_a_published_number_name_its_source():
    for module in (detect, segment):
        assert set(module.PUBLISHED) <= set(module.RECIPES)
        for name, text in module.PUBLISHED.items():
            assert "arXiv:" in text or text.startswith("No published number"), name
    instance = {n for n, recipe in segment.RECIPES.items() if isinstance(recipe, Recipe)}
    assert set(INSTANCE) <= instance
