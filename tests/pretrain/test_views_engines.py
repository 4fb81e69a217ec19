"""The fast and the device engine, held against the reference's pictures."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images
from torch.utils.data import default_collate

from moco_eval.data.images import denormalize
from pretrain import device_views, fast_views, reference_views
from pretrain.crops import cut
from pretrain.pillow_blur import blur_taps
from pretrain.view_parameters import DISTRIBUTIONS, ViewParameters
from pretrain.views import augmentation

SIZE = 96
# What a view may differ from the reference's, in levels of 255, on average over its pixels.
ALLOWED = 2.0


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92)
    return file.getvalue()


JPEGS = [jpeg(Image.fromarray(pixels)) for pixels in load_sample_images().images]
PHOTOS = [Image.open(io.BytesIO(data)).convert("RGB") for data in JPEGS]
NOISE = Image.fromarray(np.random.RandomState(0).randint(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))


def parameters(box=(0, 0, SIZE, SIZE), colour=(), **changes) -> ViewParameters:
    unchanged = {"blur_sigma": None, "solarize": False, "flip": False}
    return ViewParameters(box=box, colour=tuple(colour), **(unchanged | changes))


def by_reference(image, drawn, size=SIZE):
    return np.asarray(reference_views.render(image, drawn, size=size)).astype(float)


def by_fast(image, drawn, size=SIZE):
    crop = cut(image, [drawn.box], size=size)[0]
    return fast_views.render(crop.numpy(), drawn).astype(float)


def by_device(image, drawn, size=SIZE):
    crop = cut(image, [drawn.box], size=size)[0]
    if drawn.flip:
        crop = crop.flip(1)
    rows = torch.tensor([device_views.parameter_row(drawn)])
    return device_views.render(crop.permute(2, 0, 1)[None], rows)[0].permute(1, 2, 0).numpy()


ENGINES = pytest.mark.parametrize("render", [by_fast, by_device])
COLOURS = [
    *((name, factor) for name in ("brightness", "contrast", "saturation") for factor in (0.6, 1.4)),
    *(("hue", turns) for turns in (-0.4, -0.1, 0.0, 0.1, 0.4)),
    ("grayscale", 1.0),
]


@ENGINES
@pytest.mark.parametrize("colour", COLOURS, ids=str)
def test_each_colour_step_is_the_references(render, colour):
    for image, box in ((NOISE, (0, 0, SIZE, SIZE)), (PHOTOS[0], (100, 50, 400, 350))):
        drawn = parameters(box, [colour])
        changed = by_reference(image, drawn)
        # The step does something, except turning the hue by nothing.
        assert colour[1] == 0 or abs(changed - by_reference(image, parameters(box))).mean() > 3
        assert abs(render(image, drawn) - changed).mean() <= ALLOWED


@ENGINES
@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 1.0, 1.5, 2.0])
def test_blur_is_the_references(render, sigma):
    for image in (NOISE, PHOTOS[1]):
        drawn = parameters(blur_sigma=sigma)
        assert abs(render(image, drawn) - by_reference(image, drawn)).mean() <= ALLOWED


@ENGINES
def test_solarize_and_flip_are_the_references_to_the_bit(render):
    for changes in ({"solarize": True}, {"flip": True}, {"solarize": True, "flip": True}):
        drawn = parameters(**changes)
        assert (render(NOISE, drawn) == by_reference(NOISE, drawn)).all()


@ENGINES
def test_solarize_by_hand(render):
    # From 128 on a value becomes 255 minus it: 128 -> 127, 200 -> 55, 255 -> 0.
    image = Image.fromarray(np.repeat(np.array([[[0], [127], [128], [200], [255]]], "u1"), 3, 2))
    seen = render(image.resize((5, 5), 0), parameters((0, 0, 5, 5), solarize=True), size=5)
    assert seen[0, :, 0].tolist() == [0, 127, 127, 55, 0]


@ENGINES
@pytest.mark.parametrize("box", [(0, 0, 640, 427), (300, 200, 350, 240), (17, 33, 114, 129)])
def test_crop_and_resize_are_the_references_to_a_level(render, box):
    # Four times smaller, twice larger, and almost the view's own size.
    drawn = parameters(box)
    assert abs(render(PHOTOS[0], drawn) - by_reference(PHOTOS[0], drawn)).max() <= 1


@pytest.mark.parametrize("engine", ["fast", "device"])
@pytest.mark.parametrize("views", DISTRIBUTIONS)
def test_the_whole_chain_is_the_references(views, engine):
    reference = augmentation(views, SIZE)
    other = augmentation(views, SIZE, engine=engine)
    keys = [(n, n + 1000) for n in range(15)]
    seen = []
    for drawing in (reference, other):
        batch = [drawing.draw(PHOTOS[n % 2], pair) for n, pair in enumerate(keys)]
        seen.append(drawing.finish(default_collate(batch), "cpu"))
    for expected, found in zip(*seen, strict=True):
        levels = [denormalize(view, reference.spec) * 255 for view in (expected, found)]
        assert (levels[0] - levels[1]).abs().mean((1, 2, 3)).max() <= ALLOWED


@ENGINES
def test_the_order_of_the_steps_is_kept(render):
    # At double brightness most of the picture is white; gray first or last then differ.
    steps = [("brightness", 2.0), ("saturation", 0.0), ("contrast", 0.5)]
    drawn = [parameters(colour=order) for order in (steps, steps[::-1])]
    one, other = (render(NOISE, each) for each in drawn)
    assert abs(one - by_reference(NOISE, drawn[0])).mean() <= ALLOWED
    assert abs(other - by_reference(NOISE, drawn[1])).mean() <= ALLOWED
    assert abs(one - other).mean() > 10


def test_each_view_of_a_batch_has_its_own_parameters():
    drawn = [
        parameters(),
        parameters(colour=[("contrast", 0.6), ("hue", 0.1)], blur_sigma=1.5),
        parameters(colour=[("hue", -0.1), ("contrast", 1.4)], solarize=True),
        parameters(colour=[("grayscale", 1.0)], blur_sigma=0.4, solarize=True),
    ]
    crops = torch.stack([cut(NOISE, [each.box], size=SIZE)[0].permute(2, 0, 1) for each in drawn])
    rows = torch.tensor([device_views.parameter_row(each) for each in drawn])
    together = device_views.render(crops, rows)
    alone = [device_views.render(crops[n : n + 1], rows[n : n + 1])[0] for n in range(4)]
    assert torch.equal(together, torch.stack(alone))
    assert torch.equal(together[0], crops[0].float())


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 1.7, 2.0, 5.0])
def test_the_blurs_weights_have_the_variance_that_is_asked_for(sigma):
    # Three boxes of variance sigma^2 / 3 each.
    taps = blur_taps(sigma).astype(float)
    distance = np.arange(len(taps)) - len(taps) // 2
    assert len(taps) % 2 == 1
    assert taps.sum() == pytest.approx(1, abs=1e-6)
    assert (taps * distance**2).sum() == pytest.approx(sigma**2, rel=1e-5)


def test_the_blurs_weights_are_pillows():
    # A bright line becomes the weights themselves; Pillow rounds after each of three boxes.
    line = np.zeros((31, 31), np.uint8)
    line[:, 15] = 255
    seen = np.asarray(Image.fromarray(line).filter(ImageFilter.GaussianBlur(2)))[15]
    assert abs(seen[9:22] - 255 * blur_taps(2)).max() <= 2
    assert seen[:9].max() == 0


def test_a_large_jpeg_is_decoded_smaller_where_both_crops_allow():
    # 415 rows hold a view of 80 five times over: 2 in decoding, 2.5 to spare. 190 do not.
    large, small = (10, 5, 600, 420), (10, 5, 200, 420)
    for boxes, decoded in (([large, large], (320, 214)), ([large, small], (640, 427))):
        image = Image.open(io.BytesIO(JPEGS[0]))
        views = cut(image, boxes, size=80)
        assert image.size == decoded
        for view, box in zip(views, boxes, strict=True):
            expected = by_reference(PHOTOS[0], parameters(box), size=80)
            assert abs(view.numpy() - expected).mean() <= ALLOWED


def test_an_image_that_is_decoded_already_is_cut_as_it_is():
    image = Image.open(io.BytesIO(JPEGS[0]))
    image.load()
    box = (10, 5, 600, 420)
    view = cut(image, [box], size=20)[0].numpy()
    assert image.size == (640, 427)
    assert abs(view - by_reference(PHOTOS[0], parameters(box), size=20)).max() <= 1
