"""Which images a batch has, on which rank, and how they are augmented."""

from dataclasses import replace

import pytest
import torch

from moco_eval.data.catalog import open_images
from moco_eval.encoders.load import load_encoder
from moco_eval.extraction import Extractor
from moco_eval.linear import RECIPES
from moco_eval.probes.feed import AugmentedImages, Batches, batches_of_features, own_part

RECIPE = replace(RECIPES["sgd-digits"], epochs=2, batch_total=4)


def test_an_epoch_is_every_image_once_and_its_last_batch_what_is_left():
    batches = list(Batches(10, RECIPE, seed=0).whole())
    assert [epoch for epoch, _ in batches] == [0, 0, 0, 1, 1, 1]
    assert [len(images) for _, images in batches] == [4, 4, 2, 4, 4, 2]
    for part in (batches[:3], batches[3:]):
        assert sorted(image for _, images in part for image in images) == list(range(10))
    assert batches[0] != batches[3]


def test_an_incomplete_last_batch_is_left_out_where_the_recipe_says_so():
    order = Batches(10, replace(RECIPE, drop_last=True), seed=0)
    assert [len(images) for _, images in order.whole()] == [4, 4, 4, 4]
    assert (order.per_epoch, len(order)) == (2, 4)


def test_a_batch_is_never_greater_than_the_set():
    order = Batches(3, replace(RECIPE, batch_total=16384, drop_last=True), seed=0)
    assert order.batch_total == 3
    assert [len(images) for _, images in order.whole()] == [3, 3]


def _parts(batch):
    return list(range(batch))[own_part(batch)]


@pytest.mark.parametrize("batch", [1, 3, 4, 9])
def test_the_ranks_parts_are_the_batch_in_order_without_padding(on_ranks, batch):
    parts = on_ranks(4, _parts, batch)
    assert [image for part in parts for image in part] == list(range(batch))


def _features(num_workers=0):
    data, encoder = open_images("digits"), load_encoder("pixels")
    images = AugmentedImages(data.train.images[:10], encoder.input, RECIPE, seed=3)
    feed = batches_of_features(
        Extractor(encoder),
        images,
        Batches(10, RECIPE, seed=3),
        kinds=("pooled",),
        num_workers=num_workers,
    )
    return [(samples.tolist(), features["pooled"]) for samples, features in feed]


def test_every_rank_has_the_whole_batchs_features_in_its_order(on_ranks):
    alone = _features()
    # The last batch has 2 images, fewer than there are ranks.
    for told in on_ranks(3, _features):
        for (samples, features), (known, expected) in zip(told, alone, strict=True):
            assert samples == known
            torch.testing.assert_close(features, expected)


def test_the_number_of_workers_changes_nothing():
    for (samples, features), (known, expected) in zip(_features(2), _features(), strict=True):
        assert samples == known
        assert torch.equal(features, expected)


def test_an_image_looks_anew_in_each_epoch_and_the_same_in_its_repetition():
    data, encoder = open_images("digits"), load_encoder("pixels")
    images = AugmentedImages(data.train.images, encoder.input, RECIPE, seed=0)
    (first,), (again,), (later,) = images[0, 5], images[0, 5], images[1, 5]
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
