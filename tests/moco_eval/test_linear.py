"""The linear probe's four ways, from images to numbers."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from moco_eval import distributed, linear, store, suite
from moco_eval.data.catalog import ImageData, open_images
from moco_eval.data.images import InputSpec
from moco_eval.data.splits import MultiLabelData, MultiLabelSplit
from moco_eval.data.subsets import subset
from moco_eval.encoders.encoder import Encoder, Manifest
from moco_eval.encoders.load import load_encoder
from moco_eval.errors import DataError, DivergedError, UsageError
from moco_eval.probes.bank import Scores, best
from moco_eval.probes.recipes import Grid, Sgd
from moco_eval.probes.train import _labelled, _lr_factor
from moco_eval.recipes import protocol_id

SGD, GRID = linear.RECIPES["sgd-digits"], linear.RECIPES["grid-digits"]
SHORT = {"epochs": 3, "batch_total": 32}


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return open_images("digits")


@pytest.fixture(scope="module")
def few(digits) -> ImageData:
    """The first 64 training and 40 test digits."""
    return replace(
        digits, train=subset(digits.train, range(64)), test=subset(digits.test, range(40))
    )


@pytest.fixture(scope="module")
def pixels() -> Encoder:
    return load_encoder("pixels")


def evaluate(encoder, recipe, data, seed=0):
    return linear.evaluate(encoder, recipe, data, seed=seed, work_dir=Path())


def shortened(recipe):
    """So few steps teach something only at greater rates."""
    if not isinstance(recipe, (Sgd, Grid)):
        return recipe
    recipe = replace(recipe, epochs=11, batch_total=16, crop_scale=(0.8, 1.0))
    if recipe.optimizer == "lars":
        # A step of the weights is a thousandth of their length, times the rate.
        return replace(recipe, epochs=60, lr=40.0)
    if isinstance(recipe, Sgd):
        return replace(recipe, lr=8.0)
    # Pixels have no class token.
    return replace(recipe, lrs=tuple(100 * lr for lr in recipe.lrs), features=("pooled",))


@pytest.mark.parametrize("name", linear.RECIPES)
def test_every_recipe_runs_on_64_images(few, pixels, name):
    outcome = evaluate(pixels, shortened(linear.RECIPES[name]), few)
    assert outcome.num_test == 40
    assert all(0 <= value <= 100 for value in outcome.metrics.values())
    assert next(iter(outcome.metrics)) == "top1"
    assert outcome.details["feature_norm"] > 0


def test_every_recipe_says_what_it_should_reach():
    assert linear.PUBLISHED.keys() == linear.RECIPES.keys()


def test_the_four_ways_are_four_protocols():
    ids = {protocol_id("linear", recipe) for recipe in linear.RECIPES.values()}
    assert ids == {"linear-sgd", "linear-grid", "linear-lbfgs", "linear-ridge"}
    assert protocol_id("linear", linear.RECIPES[linear.DEFAULT_RECIPE]) == "linear-lbfgs"


def test_the_metric_of_the_data_comes_first(few, pixels):
    data = replace(few, metric="mean_per_class")
    for recipe in (linear.RECIPES["lbfgs"], linear.RECIPES["ridge"], replace(SGD, **SHORT)):
        assert next(iter(evaluate(pixels, recipe, data).metrics)) == "mean_per_class"


def test_a_grid_names_the_head_that_the_slice_prefers_whatever_the_test_set(few, pixels):
    recipe = replace(GRID, **SHORT)
    outcome = evaluate(pixels, recipe, few)
    selection = outcome.details["selection"]
    assert selection["num_heads"] == len(selection["by_head"]) == 40
    chosen = selection["chosen"]
    tops = [row["top1"] for row in selection["by_head"] if row["top1"] is not None]
    assert chosen | {"top1": max(tops)} in selection["by_head"]
    assert {key: outcome.details[key] for key in chosen} == chosen
    # Wrong labels on every test image must not move the choice.
    spoiled = [(label + 1) % 10 for label in few.test.labels]
    data = replace(few, test=replace(few.test, labels=spoiled))
    assert evaluate(pixels, recipe, data).details["selection"]["chosen"] == chosen


def test_a_head_is_the_same_alone_as_in_a_grid(few, pixels):
    # The same rate, decay and input, once among 40 heads and once as the only one.
    alone = replace(
        SGD, **SHORT, lr=GRID.lrs[4], batch_norm=False, schedule="cosine-by-step", drop_last=False
    )
    grid = evaluate(pixels, replace(GRID, **SHORT), few).details["selection"]
    number = next(
        number
        for number, row in enumerate(grid["by_head"])
        if (row["lr"], row["weight_decay"], row["batch_norm"])
        == (pytest.approx(GRID.lrs[4] * 32 / 256), 0.0, False)
    )
    outcome = evaluate(pixels, alone, few)
    assert grid["test_top1_by_head"][number] == pytest.approx(outcome.metrics["top1"])


def test_scouts_never_see_the_slice_and_the_head_that_counts_does(few, pixels):
    # Every held-out image gets another label, which the head that counts learns and the scout not.
    data = replace(few, held_out=tuple(range(32)))
    recipe = replace(GRID, epochs=10, batch_total=16, lrs=(8.0,), weight_decays=(0.0,))
    recipe = replace(recipe, batch_norms=(False,), crop_scale=(1.0, 1.0))
    labels = [(label + 1) % 10 if n < 32 else label for n, label in enumerate(few.train.labels)]
    spoiled = replace(data, train=replace(few.train, labels=labels, fingerprint="spoiled"))
    honest, misled = (evaluate(pixels, recipe, each) for each in (data, spoiled))
    # Right of the one is wrong of the other: no image's class is both.
    on_slice = [each.details["selection"]["by_head"][0]["top1"] for each in (honest, misled)]
    assert on_slice[0] > 50
    assert on_slice[0] + on_slice[1] <= 100
    assert not torch.equal(honest.drawn["logits"], misled.drawn["logits"])


def curve(slice_top1, slice_loss, test_top1):
    return [
        Scores(*(torch.tensor([value]) for value in values))
        for values in zip(slice_top1, slice_loss, test_top1, strict=True)
    ]


def test_last_best_on_test_and_selected_are_three_numbers():
    # The slice prefers the second epoch, which ties with the third and has the lower loss; the test
    # set prefers the first.
    epochs = curve([80.0, 90.0, 90.0], [0.5, 0.3, 0.4], [70.0, 60.0, 50.0])
    assert _labelled(SGD, epochs, 0) == {
        "top1_last": 50,
        "top1_best_on_test": 70,
        "top1_selected": 60,
    }
    assert _labelled(replace(SGD, holdout=0), epochs, 0).keys() == {
        "top1_last",
        "top1_best_on_test",
    }


def test_a_head_that_has_diverged_is_never_chosen():
    assert best([math.nan, 10.0, math.nan], [math.nan, 5.0, math.nan]) == 1
    assert best([math.nan, math.nan], [math.nan, math.nan]) == 0


def test_without_a_slice_nothing_is_selected(few, pixels):
    outcome = evaluate(pixels, replace(SGD, **SHORT, holdout=0), few)
    assert "top1_selected" not in outcome.metrics
    assert outcome.metrics["top1"] == pytest.approx(outcome.metrics["top1_last"])
    assert outcome.details["selection"]["what"].startswith("nothing")


def test_the_learning_rate_is_for_256_images_and_told_with_the_feature_norm(few, pixels, capsys):
    # 64 images are fewer than mocov3's batch of 1,024: 0.1 x 64 / 256.
    recipe = replace(linear.RECIPES["mocov3-resnet50"], epochs=20, crop_scale=(1.0, 1.0))
    outcome = evaluate(pixels, recipe, few)
    assert outcome.details["lr"] == pytest.approx(0.025)
    assert outcome.details["batch_used"] == 64
    norm = outcome.details["feature_norm"]
    told = f"Learning rate 0.025, batches of 64, mean feature norm {norm:.3g}."
    assert told in capsys.readouterr().out


def test_schedules_by_hand():
    drops = replace(SGD, epochs=4, schedule="drops", lr_drops=(2, 3))
    # Two steps an epoch.
    factors = [_lr_factor(drops, step, 2) for step in range(8)]
    assert factors == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    cosine = replace(SGD, epochs=2, schedule="cosine")
    assert [_lr_factor(cosine, step, 2) for step in range(4)] == pytest.approx([1, 1, 0.5, 0.5])
    rising = replace(SGD, epochs=3, schedule="cosine-by-step", warmup_epochs=1)
    # 0 and 1/2 in the first epoch, then half a cosine over two: 1, 0.854, 0.5, 0.146.
    factors = [_lr_factor(rising, step, 2) for step in range(6)]
    assert factors == pytest.approx([0, 0.5, 1, 0.854, 0.5, 0.146], abs=1e-3)


def test_a_learning_rate_of_a_million_ends_as_diverged_and_is_recorded(tmp_path):
    cell = suite.Cell(
        protocol="linear",
        encoder="pixels",
        data="digits",
        recipe="mocov2",
        overrides=("lr=1e6", "epochs=2"),
    )
    with pytest.raises(
        DivergedError, match=r"diverged: .* learning rate 1e\+06, mean .*lbfgs"
    ) as e:
        suite.run_cell(cell, results=tmp_path, work_dir=tmp_path)
    assert e.value.exit_code == 70
    (record,), problems = store.read_all(tmp_path)
    assert not problems
    assert (record["status"], record["protocol"]["id"]) == ("failed", "linear-sgd")
    assert "learning rate 1e+06" in record["error"]


def test_features_that_are_all_the_same_are_no_result(few):
    blank = load_encoder("random:resnet10_small")
    for parameter in blank.network.parameters():
        parameter.zero_()
    for recipe in (linear.RECIPES["lbfgs"], linear.RECIPES["ridge"]):
        with pytest.raises(DivergedError, match="no better than chance"):
            evaluate(blank, recipe, few)


class MovesInTraining(nn.Module):
    """Its BatchNorm learns from batches of 13 images, of which no split is made."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm.train(len(x) == 13)(x).flatten(1)


def test_an_encoder_that_moves_while_heads_are_trained_is_named(few):
    spec = InputSpec(size=8, mean=(0, 0, 0), std=(1, 1, 1), crop_pct=1.0)
    manifest = Manifest(
        source="test", format="test", tower="", arch="moving", input=spec, num_loaded=0
    )
    with pytest.raises(AssertionError, match=r"norm\.running_mean, norm\.running_var"):
        evaluate(Encoder(MovesInTraining(), manifest), replace(SGD, epochs=1, batch_total=13), few)


def _on_a_rank():
    data = open_images("digits")
    few = replace(data, train=subset(data.train, range(150)), test=subset(data.test, range(60)))
    recipe = replace(GRID, epochs=2, batch_total=32, lrs=(0.1, 1.0))
    outcome = evaluate(load_encoder("random:resnet10_small"), recipe, few)
    return distributed.rank(), outcome.metrics, outcome.num_test, outcome.drawn["logits"]


def test_any_number_of_processes_gives_the_same_numbers(on_ranks):
    _, metrics, num_test, logits = _on_a_rank()
    for num_processes in (2, 4):
        for _, found, counted, scores in on_ranks(num_processes, _on_a_rank):
            assert counted == num_test == 60
            assert torch.equal(scores.argmax(1), logits.argmax(1))
            assert found.pop("ece") == pytest.approx(metrics["ece"], abs=0.01)
            assert found == {name: metrics[name] for name in found}


def several_classes(digits, num_images=400):
    """Which of the digits 0 to 2 an image shows; every tenth is difficult for digit 0."""

    def split(part, count):
        labels = [[int(label == n) for n in range(3)] for label in part.labels[:count]]
        labels = [[-1, *row[1:]] if n % 10 == 0 else row for n, row in enumerate(labels)]
        return MultiLabelSplit(subset(part, range(count)).images, labels, f"several{count}")

    train, test = split(digits.train, num_images), split(digits.test, 100)
    return MultiLabelData("several", ("zero", "one", "two"), train, test)


def test_images_of_several_classes_get_one_regression_a_class(digits, pixels):
    recipe = replace(linear.RECIPES["lbfgs-45"], num_c=5, log10_c_min=-2, log10_c_max=2)
    outcome = evaluate(pixels, recipe, several_classes(digits))
    assert list(outcome.metrics) == ["mAP_11point"]
    assert outcome.metrics["mAP_11point"] > 95
    assert outcome.num_test == 100
    by_c = outcome.details["selection"]["by_c"]
    chosen = f"{outcome.details['selection']['chosen']:.3g}"
    assert by_c[chosen]["mAP_11point"] == max(row["mAP_11point"] for row in by_c.values())


def test_what_tells_one_class_alone_refuses_images_of_several(digits, pixels):
    with pytest.raises(DataError, match=r"several classes, and linear-sgd tells one.*lbfgs-45"):
        evaluate(pixels, SGD, several_classes(digits))


def test_impossible_recipes_are_refused():
    with pytest.raises(UsageError, match=r"found 0, 128 and 0\.1"):
        replace(SGD, epochs=0)
    with pytest.raises(UsageError, match="lr must be positive, found -1"):
        replace(SGD, lr=-1)
    with pytest.raises(UsageError, match=r"rising numbers in \(0, 1\], found \(0\.5, 0\.2\)"):
        replace(SGD, crop_scale=(0.5, 0.2))
    with pytest.raises(UsageError, match="cosine-by-step has a warm-up, not 'cosine'"):
        replace(SGD, warmup_epochs=5)
    with pytest.raises(UsageError, match="holdout must be above 0"):
        replace(GRID, holdout=0)
    with pytest.raises(UsageError, match="num_lambda must be at least 1"):
        replace(linear.RECIPES["ridge"], num_lambda=0)
