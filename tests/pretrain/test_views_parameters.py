"""What is drawn for a view, held against torchvision's own draws."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import ks_2samp, kstest
from torchvision import tv_tensors
from torchvision.transforms import v2

from pretrain.view_parameters import DISTRIBUTIONS, draw_parameters, draw_views

MOCOV1, MOCOV2 = DISTRIBUTIONS["mocov1"][0], DISTRIBUTIONS["mocov2"][0]
NUM_DRAWS = 3000
# Four standard deviations of a share of NUM_DRAWS: 4 * sqrt(0.25 / 3000).
TOLERANCE = 0.037


def drawn(distribution, image_size=(500, 375), num_draws=NUM_DRAWS):
    return [draw_parameters(distribution, image_size, key=key) for key in range(num_draws)]


def share(flags) -> float:
    flags = list(flags)
    return sum(flags) / len(flags)


@pytest.mark.parametrize("views", ["mocov2", "mocov3"])
def test_crops_are_distributed_as_torchvisions(views):
    distribution = DISTRIBUTIONS[views][0]
    torchvisions = v2.RandomResizedCrop(224, scale=distribution.crop_scale)
    image = tv_tensors.Image(torch.empty(3, 375, 500))
    torch.manual_seed(0)
    theirs = [torchvisions.make_params([image]) for _ in range(NUM_DRAWS)]
    theirs = [(p["left"], p["top"], p["width"], p["height"]) for p in theirs]
    boxes = [parameters.box for parameters in drawn(distribution)]
    ours = [(left, top, right - left, bottom - top) for left, top, right, bottom in boxes]
    for ours_of, theirs_of in zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True):
        assert ks_2samp(ours_of, theirs_of).pvalue > 0.01
    aspects = ([w / h for _, _, w, h in ours], [w / h for _, _, w, h in theirs])
    assert ks_2samp(*aspects).pvalue > 0.01


@pytest.mark.parametrize(
    ("image_size", "box"),
    [
        # 13 = round(10 * 4/3) wide, from (1000 - 13) // 2.
        ((1000, 10), (493, 0, 506, 10)),
        # 13 = round(10 / (3/4)) high.
        ((10, 1000), (0, 493, 10, 506)),
    ],
)
def test_an_image_too_long_to_be_cropped_gives_its_centre(image_size, box):
    assert {parameters.box for parameters in drawn(MOCOV2, image_size, 20)} == {box}


def test_a_crop_stays_inside_the_smallest_image():
    assert {parameters.box for parameters in drawn(MOCOV2, (1, 1), 20)} == {(0, 0, 1, 1)}


@pytest.mark.parametrize(
    ("views", "strengths"),
    [
        ("mocov1", (0.4, 0.4, 0.4, 0.4)),
        ("mocov2", (0.4, 0.4, 0.4, 0.1)),
        ("mocov3", (0.4, 0.4, 0.2, 0.1)),
        ("cifar10", (0.4, 0.4, 0.4, 0.1)),
    ],
)
def test_jitter_is_distributed_as_torchvisions(views, strengths):
    torchvisions = v2.ColorJitter(*strengths)
    torch.manual_seed(0)
    theirs = [torchvisions.make_params([]) for _ in range(NUM_DRAWS)]
    for distribution in DISTRIBUTIONS[views]:
        ours = [dict(parameters.colour) for parameters in drawn(distribution)]
        for name in ("brightness", "contrast", "saturation", "hue"):
            factors = [colour[name] for colour in ours if name in colour]
            assert ks_2samp(factors, [p[f"{name}_factor"] for p in theirs]).pvalue > 0.01


def test_the_four_jitters_come_in_any_order():
    orders = [tuple(name for name, _ in p.colour if name != "grayscale") for p in drawn(MOCOV1)]
    shares = [orders.count(order) / NUM_DRAWS for order in set(orders)]
    # 24 orders of 1/24 = 0.042 each, give or take 4 * sqrt(0.042 * 0.958 / 3000) = 0.015.
    assert len(shares) == 24
    assert all(0.027 < found < 0.057 for found in shares)


def test_the_blurs_sigma_is_uniform_from_a_tenth_to_two_pixels():
    sigmas = [p.blur_sigma for p in drawn(DISTRIBUTIONS["mocov3"][0])]
    assert kstest(sigmas, "uniform", args=(0.1, 1.9)).pvalue > 0.01


@pytest.mark.parametrize(
    ("views", "view", "jitter", "blur", "solarize"),
    [
        ("mocov1", 0, 1.0, 0.0, 0.0),
        ("mocov2", 0, 0.8, 0.5, 0.0),
        ("mocov3", 0, 0.8, 1.0, 0.0),
        ("mocov3", 1, 0.8, 0.1, 0.2),
        ("mocov3-resnet", 0, 0.8, 1.0, 0.0),
        ("mocov3-resnet", 1, 0.8, 0.1, 0.2),
        ("cifar10", 0, 0.8, 0.0, 0.0),
    ],
)
def test_operations_apply_as_often_as_published(views, view, jitter, blur, solarize):
    parameters = drawn(DISTRIBUTIONS[views][view])
    names = [{name for name, _ in p.colour} for p in parameters]
    assert share("hue" in n for n in names) == pytest.approx(jitter, abs=TOLERANCE)
    assert share("grayscale" in n for n in names) == pytest.approx(0.2, abs=TOLERANCE)
    assert share(p.blur_sigma is not None for p in parameters) == pytest.approx(blur, abs=TOLERANCE)
    assert share(p.solarize for p in parameters) == pytest.approx(solarize, abs=TOLERANCE)
    assert share(p.flip for p in parameters) == pytest.approx(0.5, abs=TOLERANCE)
    # What is never or always done is so without exception.
    assert {p.solarize for p in parameters} == ({False} if solarize == 0 else {True, False})


@pytest.mark.parametrize(
    ("views", "least_area"),
    [("mocov1", 0.2), ("mocov2", 0.2), ("mocov3", 0.08), ("mocov3-resnet", 0.2), ("cifar10", 0.08)],
)
def test_the_smallest_crops_are_as_small_as_published(views, least_area):
    boxes = [p.box for p in drawn(DISTRIBUTIONS[views][-1], (1000, 1000))]
    areas = [(right - left) * (bottom - top) / 1e6 for left, top, right, bottom in boxes]
    # The smallest of 3000 uniform areas is within 0.01 of the least; rounding takes 0.002.
    assert least_area - 0.002 < min(areas) < least_area + 0.01


def test_grayscale_comes_first_in_mocov1_and_after_the_jitter_elsewhere():
    for views, place in (("mocov1", 0), ("mocov2", -1), ("mocov3", -1), ("cifar10", -1)):
        for parameters in drawn(DISTRIBUTIONS[views][0], num_draws=100):
            names = [name for name, _ in parameters.colour]
            assert "grayscale" not in names or names[place] == "grayscale"


def test_distributions_that_differ_take_turns():
    views = draw_views(DISTRIBUTIONS["mocov3"], (500, 375), range(400))
    # Even views are always blurred, odd ones with probability 0.1 and thus not all of them.
    assert all(view.blur_sigma is not None for view in views[::2])
    assert not all(view.blur_sigma is not None for view in views[1::2])
    assert not any(view.solarize for view in views[::2])
    assert any(view.solarize for view in views[1::2])


def test_the_images_size_decides_the_box_alone():
    small, large = (draw_parameters(MOCOV2, (w, w), key=7) for w in (50, 5000))
    assert small.box != large.box
    assert replace(small, box=large.box) == large
