"""Which images come in which step, and what is drawn for them."""

import contextlib
import random
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from moco_eval.data.images import DIGITS_INPUT
from moco_eval.data.sampler import epoch_order
from moco_eval.training.crops import Places, TrainingCrops, mix, shared_generators_seeded
from moco_eval.training.recipe import Recipe

RECIPE = Recipe(lr=(0.1,), weight_decay=(0.0,), batch_total=4, epochs=1)
NOISE = [
    Image.fromarray(np.random.RandomState(n).randint(0, 256, (40, 40, 3), dtype=np.uint8))
    for n in range(6)
]


def all_places(steps, **changes):
    settings = {"seed": 3, "repeats": 1, "rank": 0, "world_size": 1} | changes
    return list(Places(10, 8, steps=steps, **settings))


def test_epochs_follow_each_other_without_a_gap():
    # 10 images in batches of 8: five steps are four epochs.
    places = list(chain(*all_places(range(5))))
    expected = [
        (epoch, 0, image) for epoch in range(4) for image in epoch_order(10, seed=3, epoch=epoch)
    ]
    assert places == expected
    assert all_places(range(3, 5)) == all_places(range(5))[3:]


def test_a_set_may_be_smaller_than_a_batch():
    (places,) = Places(3, 8, seed=3, steps=range(1))
    assert [epoch for epoch, _, _ in places] == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_see_each_image_once_and_the_pairs_of_one_alone(world_size):
    alone = all_places(range(3))
    shares = [all_places(range(3), rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, whole in enumerate(alone):
        parts = [share[step] for share in shares]
        assert sorted(chain(*parts)) == sorted(whole)
        # Mixed are the first and the last, the second and the one before the last, and so on.
        pairs = {frozenset(pair) for pair in zip(whole, reversed(whole), strict=True)}
        found = [frozenset(pair) for part in parts for pair in zip(part, part[::-1], strict=True)]
        assert set(found) == pairs


def test_an_odd_share_loses_nothing():
    parts = [
        next(iter(Places(9, 9, seed=3, steps=range(1), rank=r, world_size=3))) for r in (0, 1, 2)
    ]
    assert [len(part) for part in parts] == [3, 3, 3]
    assert sorted(image for part in parts for _, _, image in part) == list(range(9))


def test_an_image_that_is_repeated_comes_in_a_row_and_an_epoch_is_as_long_as_ever():
    places = list(chain(*all_places(range(5), repeats=3)))
    order = epoch_order(10, seed=3, epoch=0)
    first = [(0, repetition, image) for image in order[:3] for repetition in range(3)]
    assert places[:10] == [*first, (0, 0, order[3])]
    assert places[10] == (1, 0, epoch_order(10, seed=3, epoch=1)[0])


@pytest.mark.parametrize(
    "recipe",
    [RECIPE, replace(RECIPE, randaugment="rand-m9-mstd0.5-inc1", random_erasing=0.5)],
    ids=["plain", "distorted"],
)
def test_a_crop_depends_on_its_place_and_the_seed_alone(recipe):
    crops = TrainingCrops(NOISE, range(6), DIGITS_INPUT, recipe, seed=1)
    places = [(epoch, repetition, 2) for epoch in range(3) for repetition in range(2)]
    first = {place: crops[place] for place in places}
    assert all(label == 2 for _, label in first.values())
    np.random.rand(3), random.random(), torch.rand(2)
    states = np.random.get_state()[1].tolist(), random.getstate(), torch.random.get_rng_state()
    for place in reversed(places):
        assert torch.equal(crops[place][0], first[place][0])
    assert np.random.get_state()[1].tolist() == states[0]
    assert random.getstate() == states[1]
    assert torch.equal(torch.random.get_rng_state(), states[2])
    drawn = torch.stack([crop for crop, _ in first.values()])
    assert len(drawn.unique(dim=0)) == 6
    other = TrainingCrops(NOISE, range(6), DIGITS_INPUT, recipe, seed=2)
    assert not torch.equal(other[places[0]][0], drawn[0])


def test_erasing_takes_a_share_of_the_crops_and_leaves_the_rest():
    plain = TrainingCrops(NOISE, range(6), DIGITS_INPUT, RECIPE, seed=1)
    erased = TrainingCrops(
        NOISE, range(6), DIGITS_INPUT, replace(RECIPE, random_erasing=0.25), seed=1
    )
    places = [(epoch, 0, image) for epoch in range(40) for image in range(6)]
    areas = [
        (plain[place][0] != erased[place][0]).any(0).double().mean().item() for place in places
    ]
    num_erased = sum(area > 0 for area in areas)
    # 240 draws of 1/4: 60, within 3 s.d. of 6.7. Of the area between 2 % and a third goes.
    assert 40 <= num_erased <= 80
    assert 0.01 < min(area for area in areas if area) < max(areas) < 0.36


def test_mixup_mixes_what_lies_opposite_and_its_labels_alike():
    recipe = replace(RECIPE, mixup=0.8)
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 2).clone()
    targets = mix(images, torch.tensor([0, 1, 2, 0]), recipe, num_classes=3, key=7)
    # Image 0 becomes 0 * lam + 3 * (1 - lam), and says what lam was drawn.
    lam = 1 - images[0, 0, 0, 0].item() / 3
    assert 0 < lam < 1
    expected = [3 - 3 * lam, lam + 2 * (1 - lam), 2 * lam + 1 - lam, 3 * lam]
    assert images[:, 2, 1, 1].tolist() == pytest.approx(expected)
    # Images 0 and 3 are both of class 0; 1 and 2 of classes 1 and 2.
    assert targets.tolist() == [
        pytest.approx([1, 0, 0]),
        pytest.approx([0, lam, 1 - lam], abs=1e-6),
        pytest.approx([0, 1 - lam, lam], abs=1e-6),
        pytest.approx([1, 0, 0]),
    ]


def test_cutmix_pastes_a_rectangle_and_counts_its_area():
    recipe = replace(RECIPE, cutmix=1.0, label_smoothing=0.3)
    images = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 10, 10).clone()
    targets = mix(images, torch.tensor([0, 1]), recipe, num_classes=2, key=3)
    pasted = images[0, 0].mean().item()
    assert 0 < pasted < 1
    assert set(images.unique().tolist()) == {0.0, 1.0}
    # Smoothed by 0.3 over two classes, a label is 0.85 and 0.15.
    assert targets[0].tolist() == pytest.approx(
        [0.85 * (1 - pasted) + 0.15 * pasted, 0.15 * (1 - pasted) + 0.85 * pasted]
    )


def test_what_is_mixed_depends_on_the_key_alone():
    recipe = replace(RECIPE, mixup=0.8, cutmix=1.0)

    def mixed(key):
        images = torch.arange(2 * 3 * 8 * 8.0).view(2, 3, 8, 8)
        mix(images, torch.tensor([0, 1]), recipe, num_classes=2, key=key)
        return images

    assert torch.equal(mixed(5), mixed(5))
    assert len(torch.stack([mixed(key) for key in range(20)]).unique(dim=0)) == 20


def test_seeded_generators_go_on_as_if_nothing_had_been():
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    with contextlib.suppress(RuntimeError), shared_generators_seeded(5):
        assert (random.random(), np.random.rand(), torch.rand(1).item()) != expected
        raise RuntimeError
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
