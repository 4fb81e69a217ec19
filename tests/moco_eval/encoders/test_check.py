"""What a report says of an encoder, and which features make it warn."""

import json
import math

import pytest
import torch

from moco_eval.encoders import check
from moco_eval.encoders.load import load_encoder


@pytest.fixture(scope="module")
def report():
    return check.check(load_encoder("random:resnet10_small"))


def test_a_report_is_one_json_object_with_the_documented_keys(report):
    read = json.loads(json.dumps(report))
    assert {
        "format",
        "tower",
        "arch",
        "loaded",
        "expected",
        "dropped",
        "input",
        "file_sha256",
        "tensor_sha256",
        "features",
    } <= read.keys()
    assert (read["arch"], read["expected"], read["input"]["size"]) == ("resnet10_small", 72, 32)
    assert read["warnings"] == []


def test_the_cost_is_what_one_works_out_by_hand(report):
    def conv(of, to, kernel, side):
        return of * to * kernel**2, of * to * kernel**2 * side**2

    # Stem at 32 pixels; each stage halves the side but the first: two 3x3, and a 1x1 shortcut
    # where the shape changes.
    layers = [conv(3, 16, 3, 32), conv(16, 16, 3, 16), conv(16, 16, 3, 16)]
    for of, to, side in ((16, 32, 8), (32, 64, 4), (64, 128, 2)):
        layers += [conv(of, to, 3, side), conv(to, to, 3, side), conv(of, to, 1, side)]
    # Each BatchNorm has a weight and a bias a channel: stem, 2 in stage 1, 3 in the others.
    normalised = 2 * (16 + 2 * 16 + 3 * (32 + 64 + 128))
    assert report["cost"]["params"] == sum(params for params, _ in layers) + normalised
    # Two operations a multiply-add.
    expected = 2 * sum(operations for _, operations in layers) / 1e9
    assert report["cost"]["gflops"] == pytest.approx(expected, rel=1e-6)


def test_features_in_all_directions_alike_have_full_rank():
    # Once the 10 is centred away, four equal singular values: entropy ln 4, so rank 4.
    features = torch.cat([torch.eye(4), -torch.eye(4)]) + 10
    judged = check.judge(features)
    assert judged["effective_rank"] == pytest.approx(4)
    # Each dimension: 1, -1 and six 0: variance 2 / 7.
    assert judged["sd"] == pytest.approx(math.sqrt(2 / 7))
    assert (judged["dim"], judged["finite"], judged["num_constant"]) == (4, True, 0)
    assert check.warnings_of(judged) == []


def test_constant_features_are_warned_of():
    warnings = check.warnings_of(check.judge(torch.full((8, 4), 3.0)))
    assert warnings == ["features are constant: every image gets the same ones"]


def test_features_on_a_line_are_warned_of():
    line = torch.arange(8.0)[:, None] * torch.tensor([[1.0, 2.0, -1.0, 0.5]])
    judged = check.judge(line)
    assert judged["effective_rank"] == pytest.approx(1)
    assert (
        "features have collapsed: their effective rank is 1.0 of 4"
        in (check.warnings_of(judged)[0])
    )


def test_mostly_constant_dimensions_are_warned_of():
    features = torch.zeros(8, 8)
    features[:, :3] = torch.cat([torch.eye(4), -torch.eye(4)])[:, :3]
    assert check.warnings_of(check.judge(features)) == ["5 of 8 dimensions are constant"]


def test_features_that_are_not_finite_are_warned_of():
    features = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    features[3, 2] = float("nan")
    judged = check.judge(features)
    assert judged["finite"] is False
    assert check.warnings_of(judged)[0].startswith("features are not finite")


def test_the_images_are_always_the_same_half_noise_half_digits():
    images = check.sample_images(32)
    assert images.shape == (64, 3, 32, 32)
    assert torch.equal(images, check.sample_images(32))
    # Digits are gray, noise is not.
    is_gray = (images[:, 0] == images[:, 1]).flatten(1).all(1)
    assert is_gray.tolist() == [False] * 32 + [True] * 32


def test_a_description_is_for_people_and_ends_with_the_warnings(report):
    text = check.describe(report | {"warnings": ["features are constant: all"]})
    assert text.startswith("random:resnet10_small: resnet10_small\n")
    assert "32 pixels, RGB, mean 0.3/0.3/0.3" in text
    assert text.endswith("WARNING   features are constant: all")
