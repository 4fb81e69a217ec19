"""Fine-tuning as a protocol: recipes run, pairs are compared honestly, a stop costs nothing."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from moco_eval import finetune
from moco_eval.data.splits import ImageData, MultiLabelData, MultiLabelSplit, Split
from moco_eval.errors import DivergedError, PreemptedError, UsageError
from moco_eval.resources import PLAIN
from moco_eval.training import run as training_run

RECIPES = finetune.RECIPES
# 64 images in batches of 16: 4 steps an epoch.
SHORT = replace(RECIPES["digits"], batch_total=16, epochs=3, warmup_epochs=0)


def shades(num, *, seed=0):
    """Noise, dark or bright: a few steps suffice to tell them apart."""
    draw, labels = np.random.RandomState(seed), [number % 2 for number in range(num)]
    pixels = [draw.randint(0, 64, (12, 12)) + 190 * label for label in labels]
    images = [Image.fromarray(each.astype(np.uint8)) for each in pixels]
    return Split(images, labels, f"{num}-shades")


@pytest.fixture
def data():
    return ImageData("shades", ("dark", "bright"), shades(64), shades(41, seed=1))


class Interrupting:
    """Images of which the one that is looked at as number ``asked`` brings a request to stop."""

    def __init__(self, images, asked=None):
        self.images, self.asked, self.num_seen = images, asked, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.num_seen += 1
        if self.num_seen == self.asked:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.images[index]


def interrupted(data, asked=None):
    images = Interrupting(data.train.images, asked)
    return replace(data, train=replace(data.train, images=images)), images


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_on_64_images(name, data, make_encoder, tmp_path):
    recipe = RECIPES[name]
    encoder = make_encoder("vit_digits" if recipe.optimizer == "adamw" else "resnet10_small")
    length = {"epochs": 3} if recipe.epochs else {"num_steps": 12}
    short = replace(
        recipe,
        batch_total=16,
        lr=recipe.lr[-2:],
        weight_decay=recipe.weight_decay[-1:],
        warmup_epochs=min(recipe.warmup_epochs, 1),
        **length,
    )
    before = encoder.tensor_sha256()
    outcome = finetune.evaluate(encoder, short, data, seed=0, work_dir=tmp_path)
    assert outcome.num_test == 41
    assert outcome.metrics["top1"] > 90
    assert outcome.details["num_steps"] == 12
    # What other protocols of the same process share is as it was, and still frozen.
    assert encoder.tensor_sha256() == before
    assert not any(parameter.requires_grad for parameter in encoder.network.parameters())
    assert not encoder.network.training
    assert not list(tmp_path.glob("finetune/*"))


def test_every_recipe_says_what_it_should_reach():
    assert finetune.PUBLISHED.keys() == RECIPES.keys()
    assert "77.0" in finetune.PUBLISHED["mocov1-imagenet"]


def test_the_metric_that_the_field_reports_comes_first(data, make_encoder, tmp_path):
    outcome = finetune.evaluate(
        make_encoder(), SHORT, replace(data, metric="mean_per_class"), seed=0, work_dir=tmp_path
    )
    assert list(outcome.metrics) == ["mean_per_class", "top1", "top5", "ece"]
    assert outcome.drawn["logits"].shape == (41, 2)
    assert outcome.drawn["labels"].tolist() == data.test.labels
    assert "selection" not in outcome.details


def test_of_several_pairs_the_best_on_the_held_out_images_is_trained_again(
    data, make_encoder, tmp_path
):
    # A learning rate of 1e-9 leaves the classifier at chance; it comes first and last.
    recipe = replace(SHORT, lr=(1e-9, 0.05, 2e-9))
    # Labels of the test set are turned round: had it been chosen on, the others would win.
    turned = replace(data.test, labels=[1 - label for label in data.test.labels])
    outcome = finetune.evaluate(
        make_encoder(), recipe, replace(data, test=turned), seed=0, work_dir=tmp_path
    )
    rows = outcome.drawn["sensitivity"]
    assert [(row["lr"], row["weight_decay"]) for row in rows] == [
        (1e-9, 5e-4),
        (0.05, 5e-4),
        (2e-9, 5e-4),
    ]
    assert rows[1]["top1"] > 90 > max(rows[0]["top1"], rows[2]["top1"])
    assert outcome.metrics["top1"] < 10
    assert outcome.details["lr"] == 0.05
    assert outcome.details["selection"]["chosen"] == [0.05, 5e-4]
    assert outcome.details["selection"]["on"] == "20% of the training set"
    # The refit: the same recipe alone, from the encoder's own weights.
    alone = finetune.evaluate(
        make_encoder(), replace(SHORT, lr=(0.05,)), data, seed=0, work_dir=tmp_path
    )
    assert torch.equal(alone.drawn["logits"], outcome.drawn["logits"])


def test_a_pair_that_diverges_loses_and_the_others_go_on(data, make_encoder, tmp_path, capsys):
    recipe = replace(SHORT, lr=(1e30, 0.05), epochs=2)
    outcome = finetune.evaluate(make_encoder(), recipe, data, seed=0, work_dir=tmp_path)
    assert outcome.drawn["sensitivity"][0]["top1"] == 0
    assert outcome.details["lr"] == 0.05
    assert "lr 1e+30, weight decay 0.0005: The loss is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lr", "told"),
    [
        (1e30, r"^The (loss is|logits are).*Try a smaller learning rate: --set \"lr="),
        (
            1e-9,
            r"no better than chance.*It gets \d\d\.\d\d % of its training images right.*50\.00 %",
        ),
    ],
)
def test_a_learning_rate_that_does_not_work_ends_as_diverged(
    data, make_encoder, tmp_path, lr, told
):
    with pytest.raises(DivergedError, match=told) as caught:
        finetune.evaluate(make_encoder(), replace(SHORT, lr=(lr,)), data, seed=0, work_dir=tmp_path)
    assert caught.value.exit_code == 70


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(data, make_encoder, tmp_path):
    # The second of two pairs is stopped: the first is not trained again.
    recipe = replace(SHORT, lr=(0.02, 0.05), epochs=3)
    whole = finetune.evaluate(make_encoder(), recipe, data, seed=0, work_dir=tmp_path / "whole")

    # A pair takes 3 * 51 / 16 steps, so 10, on the 51 images that are kept, and 13 are judged on:
    # image 160 + 13 + 40 belongs to the third step of the second pair.
    stopped, images = interrupted(data, asked=160 + 13 + 40)
    with pytest.raises(
        PreemptedError, match=r"SIGTERM after step 3 of 10.*The same command"
    ) as told:
        finetune.evaluate(make_encoder(), recipe, stopped, seed=0, work_dir=tmp_path)
    assert told.value.exit_code == 75
    assert images.num_seen == 160 + 13 + 48
    folders = sorted(path.name.partition("-wd")[0] for path in tmp_path.glob("finetune/*"))
    assert folders == ["lr0.02", "lr0.05"]
    assert len(list(tmp_path.glob("finetune/*/checkpoints/step-*"))) == 1

    again, images = interrupted(data)
    outcome = finetune.evaluate(make_encoder(), recipe, again, seed=0, work_dir=tmp_path)
    assert torch.equal(outcome.drawn["logits"], whole.drawn["logits"])
    assert outcome.drawn["sensitivity"] == whole.drawn["sensitivity"]
    # The 7 steps that were left, and 13 to judge on; then 12 steps on all, and 64 looked at.
    assert images.num_seen == 7 * 16 + 13 + 12 * 16 + 64


def test_what_another_recipe_left_is_not_taken_for_ones_own(data, make_encoder, tmp_path):
    encoder, everything = make_encoder(), torch.arange(64)
    given = {"seed": 0, "work_dir": tmp_path}
    first = finetune.fit_and_score(encoder, SHORT, data, everything, **given)
    seen, images = interrupted(data)
    assert torch.equal(finetune.fit_and_score(encoder, SHORT, seen, everything, **given), first)
    assert images.num_seen == 0
    otherwise = make_encoder()
    otherwise.network.conv1.weight[0, 0, 0, 0] += 0.1
    for change in (
        {"recipe": replace(SHORT, label_smoothing=0.1)},
        {"indices": everything.flip(0)},
        {"encoder": otherwise},
    ):
        settings = {"encoder": encoder, "recipe": SHORT, "indices": everything} | change
        other = finetune.fit_and_score(data=seen, **settings, **given)
        assert not torch.equal(other, first)
    finetune.forget(encoder, tmp_path)
    assert not list(tmp_path.iterdir())


def test_some_training_images_suffice_and_no_other_is_looked_at(data, make_encoder, tmp_path):
    chosen = torch.tensor([5, 8, 13, 20, 33, 48])
    train = replace(data.train, images=[Image.new("L", (12, 12), 0)] * 64)
    for index in chosen.tolist():
        train.images[index] = data.train.images[index]
    recipe, given = replace(SHORT, epochs=20), {"seed": 0, "work_dir": tmp_path}
    logits = finetune.fit_and_score(make_encoder(), recipe, data, chosen, **given)
    # 6 images in batches of 16: batches go on from epoch to epoch.
    assert (logits.argmax(1) == torch.tensor(data.test.labels)).double().mean() > 0.9
    hidden = finetune.fit_and_score(
        make_encoder(), recipe, replace(data, train=train), chosen, seed=0, work_dir=tmp_path / "b"
    )
    assert torch.equal(hidden, logits)


def on_rank(data, encoder, recipe, work_dir):
    settings = {"seed": 0, "work_dir": work_dir, "resources": PLAIN}
    run = training_run.Run(protocol="test", encoder=encoder, data=data, **settings)
    # As of a pair that is compared: two steps are too few to have learnt anything.
    after_two = training_run.logits_of(
        run, replace(recipe, num_steps=2, epochs=0), torch.arange(64), data.test
    )
    outcome = finetune.evaluate(encoder, recipe, data, seed=0, work_dir=work_dir)
    return after_two, outcome.metrics["top1"], outcome.num_test


def test_two_processes_end_as_one_but_for_rounding(on_ranks, data, make_encoder, tmp_path):
    # Mixed pairs of images are the same ones, too, and BatchNorm sees both processes' images.
    recipe = replace(SHORT, mixup=0.8, cutmix=1.0, epochs=2, lr=(0.01,))
    alone, top1, _ = on_rank(data, make_encoder(), recipe, tmp_path / "one")
    told = on_ranks(2, on_rank, data, make_encoder(), recipe, tmp_path / "two")
    for logits, top1_of_two, num_test in told:
        torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-5)
        assert (top1_of_two, num_test) == (top1, 41)
    assert torch.equal(told[0][0], told[1][0])


def test_a_batch_that_processes_cannot_share_is_refused(data, make_encoder, tmp_path):
    recipe = replace(SHORT, batch_total=15, mixup=0.5)
    with pytest.raises(UsageError, match=r"batch of 15 .* 1 processes, each .*multiple of 2"):
        finetune.evaluate(make_encoder(), recipe, data, seed=0, work_dir=tmp_path)


def test_images_of_several_classes_are_refused(data, make_encoder, tmp_path):
    split = MultiLabelSplit(data.train.images, [(1, 1)] * 64, "all")
    several = MultiLabelData("voc", ("a", "b"), split, split)
    with pytest.raises(UsageError, match=r"voc has images of several classes.*Take svm"):
        finetune.evaluate(make_encoder(), SHORT, several, seed=0, work_dir=tmp_path)


def test_a_network_that_has_learnt_something_is_not_refused():
    # Of 4 labels, 2 and 2; ln 2 = 0.693 for knowing nothing.
    labels = torch.tensor([0, 0, 1, 1])
    training_run._require_learnt(torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]), labels)
    # All wrong by a little, but the loss tells that it knows as much as nothing: 0.98 * 0.693.
    with pytest.raises(DivergedError, match=r"loss is 0\.698.*costs 0\.693.* 0\.00 % .*50\.00 %"):
        training_run._require_learnt(torch.tensor([[0, 0.01]] * 2 + [[0.01, 0]] * 2), labels)
    # Right in 3 of 4 and sure of the wrong one: 400 / 4 is more than a hundred times 0.693.
    with pytest.raises(DivergedError, match=r"diverged.*75\.00 %"):
        training_run._require_learnt(torch.tensor([[0, 400.0], [9, 0], [0, 9], [0, 9]]), labels)
