"""Training crops: every pixel keeps its class, and keys alone decide the draws."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from moco_eval.data.images import InputSpec, normalize
from moco_eval.data.sampler import keyed_generator
from moco_eval.errors import DataError
from moco_eval.semantic.crops import SemanticCrops, Window, cut, draw_window, training_batches

PLAIN = InputSpec(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
SHIFTED = InputSpec(mean=(0.5, 0.25, 0.125), std=(0.5, 0.5, 0.5))


def told(labels):
    """An image whose red tells the class of its pixel."""
    pixels = np.stack([labels, 200 - labels, labels * 0], axis=2).astype(np.uint8)
    return Image.fromarray(pixels)


def red(pixels):
    return (pixels[0] * 255).round().long()


def test_a_crop_is_a_part_of_image_and_classes_alike():
    labels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    pixels, classes = cut(told(labels), labels, Window((4, 6), 1, 2, False), crop=3, spec=PLAIN)
    assert classes.tolist() == [[8, 9, 10], [14, 15, 16], [20, 21, 22]]
    assert red(pixels).tolist() == classes.tolist()
    pixels, classes = cut(told(labels), labels, Window((4, 6), 1, 2, True), crop=3, spec=PLAIN)
    assert classes.tolist() == [[10, 9, 8], [16, 15, 14], [22, 21, 20]]
    assert red(pixels).tolist() == classes.tolist()


def test_what_a_small_image_leaves_is_the_mean_and_no_class():
    labels = np.full((2, 3), 7, dtype=np.uint8)
    window = Window((2, 3), 0, 0, True)
    pixels, classes = cut(told(labels), labels, window, crop=4, spec=SHIFTED)
    assert classes.tolist() == [[7, 7, 7, 255], [7, 7, 7, 255], [255] * 4, [255] * 4]
    assert pixels.shape == (3, 4, 4)
    # The mean is 0 after normalisation; red 7 is (7 / 255 - 0.5) / 0.5.
    assert not pixels[:, 2:].any()
    assert not pixels[..., 3].any()
    assert pixels[0, 1, 2].item() == pytest.approx((7 / 255 - 0.5) / 0.5)


def test_classes_are_never_mixed_and_stay_under_their_pixels():
    # Squares of 8 pixels, scaled by 1.5 to squares of 12.
    labels = np.kron(np.arange(16, dtype=np.uint8).reshape(4, 4) * 10, np.ones((8, 8), np.uint8))
    window = Window((48, 48), 10, 5, False)
    pixels, classes = cut(told(labels), labels, window, crop=32, spec=PLAIN)
    rows, columns = (np.arange(32) + 10) // 12, (np.arange(32) + 5) // 12
    assert torch.equal(classes.long(), torch.from_numpy(40 * rows[:, None] + 10 * columns))
    # Away from the squares' borders the colours say the same.
    inner = np.ix_(
        *((np.abs((at + 0.5) % 12 - 6) < 5) for at in (np.arange(32) + 10, np.arange(32) + 5))
    )
    assert np.array_equal(red(pixels).numpy()[inner], classes.numpy()[inner])


@pytest.mark.parametrize("size", [(23, 41), (100, 90), (31, 200)])
def test_a_crop_is_what_scaling_the_whole_image_first_gives(size):
    draw = np.random.RandomState(0)
    image = Image.fromarray(draw.randint(0, 256, (47, 61, 3), dtype=np.uint8))
    labels = draw.randint(0, 9, (47, 61), dtype=np.uint8)
    window = Window(size, max(size[0] - 32, 0) // 2, max(size[1] - 32, 0) // 3, False)
    pixels, classes = cut(image, labels, window, crop=32, spec=PLAIN)
    whole = image.resize(size[::-1], Image.Resampling.BILINEAR)
    whole_labels = Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST)
    rows, columns = slice(window.top, window.top + 32), slice(window.left, window.left + 32)
    expected = normalize(pil_to_tensor(whole), PLAIN)[:, rows, columns]
    height, width = expected.shape[1:]
    # Eight bits are rounded once in each.
    assert (pixels[:, :height, :width] - expected).abs().max() <= 1.01 / 255
    assert np.array_equal(classes[:height, :width], np.asarray(whole_labels)[rows, columns])


def test_draws_cover_their_ranges(few_updates):
    recipe = few_updates(crop=33, scales=(0.5, 2.0), flip=True)
    windows = [draw_window((40, 60), recipe, keyed_generator(0, n)) for n in range(400)]
    scales = [window.size[0] / 40 for window in windows]
    assert 0.5 <= min(scales) < 0.55
    assert 1.95 < max(scales) <= 2
    assert all(abs(w.size[1] / 60 - w.size[0] / 40) < 0.03 for w in windows)
    assert 0.4 < np.mean([w.is_mirrored for w in windows]) < 0.6
    for window in windows:
        assert 0 <= window.top <= max(window.size[0] - 33, 0)
        assert 0 <= window.left <= max(window.size[1] - 33, 0)
    # The last place is drawn as well as the first.
    places = {(w.top, w.size[0] - 33 - w.top) for w in windows if w.size[0] > 33}
    assert any(top == 0 for top, _ in places)
    assert any(below == 0 for _, below in places)
    still = dataclasses.replace(recipe, flip=False, scales=(1.0, 1.0))
    fixed = [draw_window((40, 60), still, keyed_generator(0, n)) for n in range(50)]
    assert {(w.size, w.is_mirrored) for w in fixed} == {((40, 60), False)}


def test_a_crop_depends_on_its_key_alone(own_data, few_updates):
    crops = SemanticCrops(own_data.train, PLAIN, few_updates(), seed=0)
    first = crops[3, 2]
    crops[0, 1]
    torch.manual_seed(9)
    assert all(torch.equal(a, b) for a, b in zip(first, crops[3, 2], strict=True))
    assert not torch.equal(first[0], crops[4, 2][0])
    other = SemanticCrops(own_data.train, PLAIN, few_updates(), seed=1)
    assert not torch.equal(first[0], other[3, 2][0])


def test_a_step_has_the_same_batch_wherever_training_begins(own_data, few_updates):
    def batches(steps):
        return list(
            training_batches(
                own_data.train, PLAIN, few_updates(), seed=0, num_workers=0, device="cpu"
            )(steps)
        )

    whole, rest = batches(range(7)), batches(range(4, 7))
    assert whole[0][0].shape == (2, 3, 33, 33)
    assert (whole[0][1].shape, whole[0][1].dtype) == ((2, 33, 33), torch.uint8)
    for a, b in zip(whole[4:], rest, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])


def test_fewer_images_than_a_batch_are_refused(own_data, few_updates):
    with pytest.raises(DataError, match="has 6 images, fewer than one batch of 8"):
        training_batches(
            own_data.train,
            PLAIN,
            few_updates(batch_total=8),
            seed=0,
            num_workers=0,
            device="cpu",
        )
