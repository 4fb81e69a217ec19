"""Which scenes a rank trains on: by hand, over ranks, and as Detectron2's samplers group them."""

import time

import numpy as np
import pytest
import torch

from moco_eval import distributed
from moco_eval.data.scene import Scene
from moco_eval.engines.order import SceneBatches, repeat_factors

WIDE = (np.random.RandomState(0).rand(97) < 0.7).tolist()


def batches(repeats=(1.0,) * 10, is_wide=None, *, size=2, seed=3, steps=range(15)):
    return list(SceneBatches(repeats, is_wide, batch_per_rank=size, seed=seed, steps=steps))


def scene(*labels, crowds=0):
    """A scene of objects of these classes, the last few of them crowds."""
    count = len(labels)
    return Scene(
        image_id=1,
        path=None,
        size=(10, 20),
        boxes=np.zeros((count, 4), np.float32),
        labels=np.array(labels, np.int64),
        segmentations=(None,) * count,
        areas=np.zeros(count),
        crowd=np.arange(count) >= count - crowds,
    )


def test_an_epoch_holds_each_scene_once_in_an_order_of_its_own():
    # Fifteen batches of two are three epochs of ten.
    scenes = [number for batch in batches() for _, number in batch]
    epochs = [scenes[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [number for batch in batches(seed=4) for _, number in batch] != scenes


def test_no_two_draws_are_the_same_also_where_a_scene_is_repeated():
    repeats = (3.0,) + (1.0,) * 9
    seen = [pair for batch in batches(repeats, steps=range(6)) for pair in batch]
    # One epoch of twelve: the first scene three times, each with a draw of its own.
    assert sorted(number for _, number in seen) == [0, 0, 0, *range(1, 10)]
    assert len(set(seen)) == 12


@pytest.mark.parametrize("is_wide", [None, WIDE])
def test_any_step_is_reached_at_once_and_is_the_same(is_wide):
    whole = batches((1.0,) * 97, is_wide, size=4, steps=range(200))
    assert batches((1.0,) * 97, is_wide, size=4, steps=range(150, 200)) == whole[150:]
    assert batches((1.0,) * 97, is_wide, size=4, steps=range(0)) == []


def test_a_batch_is_of_wide_scenes_or_of_others():
    kinds = [{WIDE[number] for _, number in b} for b in batches((1.0,) * 97, WIDE, size=4)]
    assert all(len(kind) == 1 for kind in kinds)
    assert {True} in kinds
    assert {False} in kinds


def own_batches():
    return batches(steps=range(9))


def test_ranks_take_turns_in_one_stream(on_ranks):
    stream = [pair for batch in batches(size=1, steps=range(54)) for pair in batch]
    of_ranks = [[pair for batch in own for pair in batch] for own in on_ranks(3, own_batches)]
    taken = [pair for turn in zip(*of_ranks, strict=True) for pair in turn]
    assert taken == stream
    assert distributed.world_size() == 1


def test_a_fraction_is_a_chance_of_one_more():
    # 200 epochs of 4 scenes, the first of which is in each 2.25 times on average.
    repeats = (2.25, 1.0, 1.0, 1.0)
    numbers = [pair[1] for batch in batches(repeats, size=1, steps=range(1050)) for pair in batch]
    counts = np.bincount(numbers)
    assert counts[1] == pytest.approx(200, abs=1)
    # 450 are expected of as many epochs as scene 1 was in; sd sqrt(200 * .25 * .75) = 6.1.
    assert counts[0] == pytest.approx(2.25 * counts[1], abs=25)


def test_a_scene_is_repeated_for_its_rarest_class():
    # Class 0 is in all four scenes; class 1 in one: sqrt(0.64 / 0.25) = 1.6; class 2 in two of
    # them, once as a crowd, which counts for nothing: sqrt(0.64 / 0.25) as well.
    scenes = [scene(0, 0), scene(0, 1), scene(0, 2), scene(0, 2, crowds=1)]
    assert repeat_factors(scenes, 0.64) == pytest.approx([1.0, 1.6, 1.6, 1.0])
    assert repeat_factors(scenes, 0.0) == [1.0] * 4


def test_the_last_step_of_the_longest_schedule_is_reached_in_seconds():
    # COCO's 118,000 scenes, 180,000 steps of 2 for each of 8 ranks: 24 epochs in all.
    wide = (np.arange(118_000) % 3 > 0).tolist()
    begun_s = time.process_time()
    last = range(179_999, 180_000)
    assert len(batches((1.0,) * 118_000, wide, size=16, steps=last)) == 1
    assert time.process_time() - begun_s < 20


@pytest.mark.detectron2
def test_repeat_factors_are_detectron2s():
    from detectron2.data.samplers import RepeatFactorTrainingSampler

    draw = np.random.RandomState(0)
    scenes = [scene(*(draw.geometric(0.1, draw.randint(1, 6)) - 1)) for _ in range(500)]
    told = [{"annotations": [{"category_id": int(label)} for label in s.labels]} for s in scenes]
    expected = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(told, 0.05)
    found = torch.tensor(repeat_factors(scenes, 0.05), dtype=torch.float32)
    assert expected.max() > 2
    assert torch.equal(found, expected)


@pytest.mark.detectron2
def test_groups_are_detectron2s():
    from detectron2.data.common import AspectRatioGroupedDataset

    stream = [pair for b in batches((1.0,) * 97, size=1, steps=range(900)) for pair in b]
    sides = {True: {"width": 2, "height": 1}, False: {"width": 1, "height": 2}}
    items = [sides[WIDE[number]] | {"pair": (draw, number)} for draw, number in stream]
    grouped = [[item["pair"] for item in b] for b in AspectRatioGroupedDataset(items, 4)]
    assert len(grouped) > 220
    assert batches((1.0,) * 97, WIDE, size=4, steps=range(len(grouped))) == grouped
