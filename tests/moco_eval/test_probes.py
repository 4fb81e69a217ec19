"""The linear probe, and what holds its encoder frozen."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from moco_eval import features, linear
from moco_eval.data.catalog import ImageData, Split, open_images
from moco_eval.data.images import InputSpec
from moco_eval.encoders.encoder import Encoder, Manifest
from moco_eval.encoders.load import load_encoder
from moco_eval.errors import DivergedError, UsageError


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return open_images("digits")


@pytest.fixture(scope="module")
def pixels() -> Encoder:
    return load_encoder("pixels")


def evaluate(module, encoder, data, recipe, seed=0):
    return module.evaluate(encoder, recipe, data, seed=seed, work_dir=Path())


def test_linear_chooses_c_without_looking_at_the_test_set(digits, pixels):
    recipe = replace(linear.RECIPES["lbfgs"], num_c=3)
    chosen = evaluate(linear, pixels, digits, recipe).details["selection"]["chosen"]
    # Wrong labels on every test image must not move the choice.
    spoiled = [(label + 1) % 10 for label in digits.test.labels]
    data = replace(digits, test=replace(digits.test, labels=spoiled))
    outcome = evaluate(linear, pixels, data, recipe)
    assert outcome.details["selection"]["chosen"] == chosen
    assert outcome.metrics["top1"] < 10


def test_linear_takes_the_c_with_the_smallest_held_out_cross_entropy(digits, pixels):
    selection = evaluate(linear, pixels, digits, linear.RECIPES["lbfgs"]).details["selection"]
    losses = {c: scores["cross_entropy"] for c, scores in selection["by_c"].items()}
    assert f"{selection['chosen']:.3g}" == min(losses, key=losses.get)


def test_linear_judges_c_on_images_that_it_was_not_fitted_on(digits, pixels):
    # Labels that mean nothing: 64 pixels fit 60 images by heart, and others no better than chance.
    labels = torch.randint(0, 2, (60,), generator=torch.Generator().manual_seed(0)).tolist()
    noise = replace(digits, train=Split(digits.train.images[:60], labels, "noise"))
    recipe = replace(linear.RECIPES["lbfgs"], log10_c_min=0, log10_c_max=6, holdout=0.5)
    by_c = evaluate(linear, pixels, noise, recipe).details["selection"]["by_c"]
    assert max(scores["top1"] for scores in by_c.values()) < 80


def test_linear_reports_top5_and_feature_norm(digits, pixels):
    outcome = evaluate(linear, pixels, digits, replace(linear.RECIPES["lbfgs"], num_c=2))
    assert outcome.metrics["top1"] < outcome.metrics["top5"] <= 100
    assert outcome.num_test == 360
    assert outcome.details["feature_dim"] == 64
    assert outcome.details["feature_norm"] > 0


def manifest(size: int = 8) -> Manifest:
    spec = InputSpec(size=size, mean=(0, 0, 0), std=(1, 1, 1), crop_pct=1.0)
    return Manifest(source="test", format="test", tower="", arch="test", input=spec, num_loaded=0)


class Moving(nn.Module):
    """An encoder whose BatchNorm keeps learning while it is said to be frozen."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm.train()(x).flatten(1)


def test_a_frozen_encoder_that_moves_is_named(digits):
    few = replace(digits, train=Split(digits.train.images[:64], digits.train.labels[:64], "64"))
    with pytest.raises(AssertionError, match=r"norm\.running_mean, norm\.running_var"):
        evaluate(linear, Encoder(Moving(), manifest()), few, linear.RECIPES["lbfgs"])


class Weighted(nn.Module):
    """An encoder with weights of its own, so that its hash is another."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x.flatten(1) * self.weight


def test_features_are_computed_once(digits):
    calls = []

    class Counting(nn.Module):
        def forward(self, x):
            calls.append(len(x))
            return x.mean((2, 3)) + 3

    encoder = Encoder(Counting(), manifest(4))
    split = Split(digits.test.images[:10], digits.test.labels[:10], "ten")
    assert torch.equal(features.of_split(encoder, split), features.of_split(encoder, split))
    assert calls == [10]
    # Another encoder's features take the place of these: memory holds one encoder's at a time.
    features.of_split(Encoder(Weighted(), manifest(3)), split)
    features.of_split(encoder, split)
    assert calls == [10, 10]


def test_features_that_are_not_finite_end_the_run(digits):
    class Broken(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) * float("nan")

    split = Split(digits.test.images[:10], digits.test.labels[:10], "broken")
    with pytest.raises(DivergedError, match="features that are not finite on 10 images"):
        features.of_split(Encoder(Broken(), manifest(5)), split)


def test_impossible_recipes_are_refused():
    with pytest.raises(UsageError, match=r"holdout between 0 and 1, found 7 and 1\.5"):
        replace(linear.RECIPES["lbfgs"], holdout=1.5)
