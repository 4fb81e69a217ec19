import dataclasses
import json

import numpy as np
import pytest
import torch

from moco_eval.data.coco import read_split
from moco_eval.engines.examples import example_of, image_of, training_batches
from moco_eval.errors import DataError, UsageError


def batches(data, recipe, *, seed=0, count=6, **more):
    return list(training_batches(data.train, recipe, seed=seed, **more)(range(count)))


def test_half_of_the_images_are_mirrored_only_where_the_recipe_says_so(tiny_data, tiny_recipe):
    lefts = {
        float(example.boxes[0, 0])
        for batch in batches(tiny_data, tiny_recipe, count=10)
        for example in batch
    }
    # The left edges of all ten first boxes as annotated: 4 + n.
    assert lefts == set(range(5, 15))
    mirror = dataclasses.replace(tiny_recipe, flip=True)
    drawn = [example for batch in batches(tiny_data, mirror, count=20) for example in batch]
    share = sum(example.boxes[0, 0] > 20 for example in drawn) / len(drawn)
    assert 0.25 < share < 0.75


def test_order_and_draws_depend_on_the_seed_alone(tiny_data, tiny_recipe):
    varied = dataclasses.replace(tiny_recipe, flip=True, short_sides_train=(40, 44, 48))
    first = batches(tiny_data, varied)
    torch.rand(17)
    again, other = batches(tiny_data, varied), batches(tiny_data, varied, seed=1)
    seen = [[tuple(e.boxes.flatten().tolist()) for e in batch] for batch in first]
    assert seen == [[tuple(e.boxes.flatten().tolist()) for e in batch] for batch in again]
    assert seen != [[tuple(e.boxes.flatten().tolist()) for e in batch] for batch in other]


def test_crowds_and_empty_scenes_are_not_trained_on(tiny_data, tiny_recipe, coco_folder):
    path = coco_folder / "all.json"
    document = json.loads(path.read_text())
    for each in document["annotations"]:
        # Image 1 holds a crowd beside an object, image 2 nothing but crowds.
        each["iscrowd"] = int(each["id"] == 1 or each["image_id"] == 2)
    # Image 3 holds nothing at all.
    document["annotations"] = [e for e in document["annotations"] if e["image_id"] != 3]
    path.write_text(json.dumps(document))
    split = read_split(coco_folder / "images", path)
    data = dataclasses.replace(tiny_data, train=split)
    boxes = [e.boxes.tolist() for batch in batches(data, tiny_recipe, count=4) for e in batch]
    # Eight images are left, each once an epoch, the first one with its second object alone.
    assert sorted(map(len, boxes)) == [1, 2, 2, 2, 2, 2, 2, 2]
    assert [[36, 11, 52, 31]] in boxes


def test_workers_change_nothing(tiny_data, tiny_recipe):
    varied = dataclasses.replace(tiny_recipe, flip=True, short_sides_train=(40, 44, 48), masks=True)
    alone = batches(tiny_data, varied, count=4)
    shared = batches(tiny_data, varied, count=4, num_workers=2)
    for one, other in zip(alone, shared, strict=True):
        for example, same in zip(one, other, strict=True):
            assert torch.equal(example.pixels, same.pixels)
            assert torch.equal(example.boxes, same.boxes)
            assert torch.equal(example.masks, same.masks)


def test_a_damaged_image_is_named(tiny_data, tiny_recipe):
    path = tiny_data.train.scenes[3].path
    path.write_bytes(path.read_bytes()[:100])
    for num_workers in (0, 1):
        with pytest.raises(DataError, match=path.name):
            batches(tiny_data, tiny_recipe, num_workers=num_workers)


def test_difficult_objects_are_trained_on(tiny_data, tiny_recipe):
    scene = dataclasses.replace(tiny_data.train.scenes[0], difficult=np.array([True, False]))
    assert len(example_of(scene, tiny_recipe, side=48).boxes) == 2


def test_where_keypoints_are_trained_scenes_without_any_are_left_out(tiny_data, tiny_recipe):
    recipe = dataclasses.replace(tiny_recipe, detector="fpn", keypoints=True)
    places = np.array([[[8, 9, 2]], [[40, 30, 2]]], np.float32)
    # Only of the first four scenes is a keypoint annotated.
    scenes = tuple(
        dataclasses.replace(scene, keypoints=places * (number < 4))
        for number, scene in enumerate(tiny_data.train.scenes)
    )
    data = dataclasses.replace(tiny_data, train=dataclasses.replace(tiny_data.train, scenes=scenes))
    found = [example for batch in batches(data, recipe, count=2) for example in batch]
    assert sorted(float(example.boxes[0, 0]) for example in found) == [5, 6, 7, 8]
    assert found[0].keypoints.tolist() == [[[8.5, 9.5, 2]], [[40.5, 30.5, 2]]]
    with pytest.raises(DataError, match=r"have no keypoints, which this recipe trains"):
        batches(tiny_data, recipe)


def test_a_scene_is_tested_without_a_look_at_its_objects(tiny_data, tiny_recipe):
    bare = dataclasses.replace(tiny_data.test.scenes[0], segmentations=(None, None))
    example = image_of(bare, dataclasses.replace(tiny_recipe, masks=True))
    assert example.pixels.shape == (3, 48, 64)
    assert len(example.boxes) == 0


def refused(data, recipe):
    with pytest.raises(UsageError) as error:
        batches(data, recipe)
    return str(error.value)


def test_a_batch_that_cannot_be_shared_out_is_refused(tiny_data, tiny_recipe, on_ranks):
    odd = dataclasses.replace(tiny_recipe, batch_total=3)
    assert (
        on_ranks(2, refused, tiny_data, odd)
        == [
            "A batch of 3 cannot be shared out among 2 processes. Take a multiple of 2: "
            "--set batch_total=..."
        ]
        * 2
    )


def test_fewer_scenes_than_a_batch_are_refused(tiny_data, tiny_recipe):
    large = dataclasses.replace(tiny_recipe, batch_total=11)
    with pytest.raises(DataError, match="10 scenes with objects, fewer than one batch of 11"):
        batches(tiny_data, large)


def test_the_learning_rate_warms_up_and_drops(tiny_recipe):
    recipe = dataclasses.replace(tiny_recipe, lr=1.0, warmup_iterations=10, lr_drops=(20, 30))
    # Linear from a thousandth: half-way 0.5 * 0.001 + 0.5.
    assert recipe.lr_at(0) == pytest.approx(0.001)
    assert recipe.lr_at(5) == pytest.approx(0.5005)
    assert recipe.lr_at(10) == recipe.lr_at(19) == 1
    assert [recipe.lr_at(step) for step in (20, 29, 30)] == pytest.approx([0.1, 0.1, 0.01])


def test_a_recipe_of_no_iterations_is_refused(tiny_recipe):
    with pytest.raises(UsageError, match="num_iterations=0"):
        dataclasses.replace(tiny_recipe, num_iterations=0)
