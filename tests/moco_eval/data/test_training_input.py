"""The random crop that classifiers are trained on."""

import numpy as np
import torch
from PIL import Image

from moco_eval.data.images import DIGITS_INPUT, to_input, to_training_input

# It brightens from left to right: 0, 8, 16 ... 248.
SLOPE = Image.fromarray(np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1)))


def test_a_training_crop_is_decided_by_its_key_alone():
    transform = to_training_input(DIGITS_INPUT)
    first = transform(SLOPE, 5)
    assert first.shape == (3, 32, 32)
    torch.rand(3)
    before = torch.random.get_rng_state()
    assert torch.equal(transform(SLOPE, 5), first)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(transform(SLOPE, 6), first)


def test_every_second_crop_is_mirrored_and_none_of_a_digit():
    def num_falling(*, flip):
        transform = to_training_input(DIGITS_INPUT, flip=flip, scale=(0.5, 1.0))
        crops = [transform(SLOPE, key)[0, 16] for key in range(100)]
        return sum(bool(row[0] > row[-1]) for row in crops)

    # 100 coins fall between 30 and 70 in all but 1 of 25,000 cases, and the keys are fixed.
    assert 30 < num_falling(flip=True) < 70
    assert num_falling(flip=False) == 0


def test_a_crop_of_one_grey_value_is_what_is_seen_at_test_time():
    # Crops of the whole and of a part are the same where all pixels are.
    grey = Image.new("L", (40, 30), 77)
    drawn = to_training_input(DIGITS_INPUT)(grey, 1)
    assert torch.equal(drawn, to_input(DIGITS_INPUT)(grey))


def test_what_distorts_sees_the_crop_before_it_is_normalised():
    seen = []

    def invert(image):
        seen.append(image.size)
        return Image.eval(image, lambda value: 255 - value)

    drawn = to_training_input(DIGITS_INPUT, distort=invert)(Image.new("L", (40, 30), 255), 1)
    assert seen == [(32, 32)]
    # White becomes black: (0 - 0.3) / 0.35.
    assert torch.allclose(drawn, torch.full((3, 32, 32), -0.3 / 0.35))
