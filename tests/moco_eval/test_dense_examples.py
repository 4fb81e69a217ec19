import dataclasses
import itertools
import json

import pytest
import torch

from moco_eval.data.coco import read_split
from moco_eval.engines.examples import example_of, resized, training_batches
from moco_eval.errors import DataError, UsageError


def batches(data, recipe, *, seed=0, with_masks=False, count=6):
    drawn = training_batches(data.train, recipe, seed=seed, with_masks=with_masks)
    return list(itertools.islice(drawn, count))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # COCO's most common size: 800 of 480 is 5/3, and 5/3 of 640 is 1066.7.
        ((480, 640), (1067, 800)),
        # 800 of 300 would make the long side 2400: 1333 of 900 is 1.481, of 300 it is 444.3.
        ((300, 900), (1333, 444)),
        ((900, 300), (444, 1333)),
    ],
)
def test_the_short_side_is_asked_for_and_the_long_side_is_limited(size, expected):
    assert resized(size, side=800, max_side=1333) == expected


def test_boxes_and_masks_are_resized_with_their_image(tiny_data, tiny_recipe):
    # Twice the size: 64x48 becomes 128x96; the first box is 4 + 1, 5 to 25, 29.
    twice = dataclasses.replace(tiny_recipe, short_sides_train=(96,))
    example = example_of(tiny_data.train.scenes[0], twice, side=96, with_masks=True)
    assert example.pixels.shape == (3, 96, 128)
    assert example.size == (48, 64)
    assert example.boxes[0].tolist() == [10, 10, 50, 58]
    assert example.masks[0, 10:58, 10:50].all()
    assert example.masks[0].sum() == 48 * 40


def test_a_mirrored_image_has_mirrored_boxes_and_masks(tiny_data, tiny_recipe):
    scene = tiny_data.train.scenes[0]
    plain = example_of(scene, tiny_recipe, side=48, with_masks=True)
    mirrored = example_of(scene, tiny_recipe, side=48, with_masks=True, mirrored=True)
    assert torch.equal(mirrored.pixels, plain.pixels.flip(2))
    # Left and right of 64 pixels change places: 5..25 becomes 39..59.
    assert mirrored.boxes[0].tolist() == [39, 5, 59, 29]
    assert mirrored.masks[0, 5:29, 39:59].all()
    assert mirrored.masks[0].sum() == 24 * 20


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
