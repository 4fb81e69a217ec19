"""Linear SVMs a class, and the average precision that judges them."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from moco_eval import recipes, svm
from moco_eval.accuracy import eleven_point_precision, envelope_precision
from moco_eval.data.catalog import ImageData, Split, open_images
from moco_eval.data.sampler import keyed_generator
from moco_eval.data.splits import ABSENT, DIFFICULT, PRESENT, MultiLabelData, MultiLabelSplit
from moco_eval.encoders.load import load_encoder
from moco_eval.errors import DataError, UsageError
from moco_eval.features import of_data
from moco_eval.probes import one_vs_rest
from moco_eval.probes.svm_lowshot import take_shots

QUICK = svm.Recipe(costs=(0.1, 1.0, 10.0), dual=False)


def evaluate(recipe, data, seed=0):
    return svm.evaluate(load_encoder("pixels"), recipe, data, seed=seed, work_dir=Path())


def first(data, num_train, num_test):
    parts = [
        Split(part.images[:number], part.labels[:number], f"first {number}")
        for part, number in ((data.train, num_train), (data.test, num_test))
    ]
    return replace(data, train=parts[0], test=parts[1])


@pytest.fixture(scope="module")
def few() -> ImageData:
    """64 training and 80 test images."""
    return first(open_images("digits"), 64, 80)


@pytest.fixture(scope="module")
def two_digits() -> MultiLabelData:
    """Classes that overlap: "round" has 0, 6, 8 and 9, "even" every second digit."""
    data = first(open_images("digits"), 200, 100)

    def labelled(split):
        shown = [[int(d in (0, 6, 8, 9)), int(d % 2 == 0)] for d in split.labels]
        return MultiLabelSplit(split.images, shown, f"{split.fingerprint} twice")

    return MultiLabelData(
        "two", ("round", "even"), train=labelled(data.train), test=labelled(data.test)
    )


def test_average_precision_by_hand():
    # Ranked + - + + -: three positives, whose precisions are 1/1, 2/3 and 3/4. The second one is a
    # dip, which the envelope fills: at each recall counts the best precision from there on.
    # Envelope: (1 + 3/4 + 3/4) / 3 = 5/6. Unfilled it is (1 + 2/3 + 3/4) / 3 = 0.806. At 11 points:
    # recalls 0, .1, .2 and .3 have precision 1, the seven others 3/4: (4 + 7 * 3/4) / 11 = 0.841.
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    is_positive = torch.tensor([True, False, True, True, False])
    assert envelope_precision(scores, is_positive) == pytest.approx(5 / 6)
    assert eleven_point_precision(scores, is_positive) == pytest.approx(9.25 / 11)


def test_average_precision_is_of_the_order_alone():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(200, generator=generator).double()
    is_positive = torch.rand(200, generator=generator) < 0.3
    found = envelope_precision(scores, is_positive)
    assert envelope_precision(1e6 * scores - 17, is_positive) == found
    assert envelope_precision(scores.exp(), is_positive) == found
    order = torch.randperm(200, generator=generator)
    assert envelope_precision(scores[order], is_positive[order]) == found


def test_average_precision_of_the_best_and_the_worst_order():
    # Two positives behind two negatives: precisions 1/3 and 2/4, filled to 1/2 and 1/2.
    is_positive = torch.tensor([False, True, False, True])
    assert envelope_precision(torch.tensor([1.0, 4, 2, 3]), is_positive) == 1
    assert envelope_precision(torch.tensor([4.0, 1, 3, 2]), is_positive) == 0.5


def test_no_positive_has_no_average_precision():
    assert np.isnan(envelope_precision(torch.ones(3), torch.zeros(3, dtype=torch.bool)))


def test_a_class_that_no_test_image_shows_does_not_count(few):
    outcome = evaluate(QUICK, first(few, 64, 40))
    by_class = outcome.details["AP_by_class"]
    assert np.isnan(by_class.pop("eight"))
    assert outcome.metrics["mAP"] == pytest.approx(np.mean(list(by_class.values())))


def test_c_is_the_one_of_the_best_cross_validated_average_precision(two_digits):
    selection = evaluate(QUICK, two_digits).details["selection"]
    features = of_data(load_encoder("pixels"), two_digits)
    x = features.train.double().numpy()
    x = x / (np.linalg.norm(x, axis=1) + 1e-5)[:, None]
    for number, name in enumerate(two_digits.classes):
        # scikit-learn's own loop, as VISSL calls it.
        y = np.where(features.train_labels[:, number].numpy() == 1, 1, -1)
        expected = {
            str(c): 100
            * cross_val_score(
                LinearSVC(C=c, class_weight={1: 2, -1: 1}, dual=False, max_iter=2000),
                x,
                y,
                cv=3,
                scoring="average_precision",
            ).mean()
            for c in QUICK.costs
        }
        assert selection["by_class"][name] == pytest.approx(expected)
        assert str(selection["chosen"][name]) == max(expected, key=expected.get)


def test_nothing_is_chosen_on_the_test_set(two_digits):
    chosen = evaluate(QUICK, two_digits).details["selection"]
    spoiled = replace(two_digits.test, labels=[[0, 1]] * 50 + [[1, 0]] * 50)
    outcome = evaluate(QUICK, replace(two_digits, test=spoiled))
    assert outcome.details["selection"] == chosen
    assert outcome.metrics["mAP"] < 75


def relabelled(split, image, label):
    labels = [list(row) for row in split.labels]
    for index in image:
        labels[index][0] = label
    return replace(split, labels=labels)


def test_difficult_images_are_negatives_in_training(two_digits):
    some = [i for i, row in enumerate(two_digits.train.labels) if row[0] == ABSENT][:40]
    hard, absent = (
        evaluate(QUICK, replace(two_digits, train=relabelled(two_digits.train, some, label)))
        for label in (DIFFICULT, ABSENT)
    )
    assert hard.metrics == absent.metrics
    assert hard.details == absent.details


def test_difficult_images_do_not_count_in_the_test(two_digits):
    plain = evaluate(QUICK, two_digits)
    scores = plain.drawn["scores"][:, 0]
    labels = torch.tensor(two_digits.test.labels)[:, 0]
    # The surest negatives, which stand highest: without them the precision rises.
    wrong = [i for i in scores.argsort(descending=True).tolist() if labels[i] == ABSENT][:5]
    data = replace(two_digits, test=relabelled(two_digits.test, wrong, DIFFICULT))
    kept = torch.tensor([i for i in range(100) if i not in wrong])
    by_class = evaluate(QUICK, data).details["AP_by_class"]
    assert by_class["round"] == 100 * envelope_precision(scores[kept], labels[kept] == PRESENT)
    assert by_class["round"] > plain.details["AP_by_class"]["round"]
    assert by_class["even"] == plain.details["AP_by_class"]["even"]


def test_features_have_length_1():
    unit = one_vs_rest._of_length_1(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    assert unit.tolist() == [pytest.approx([3 / 5.00001, 4 / 5.00001]), [0, 0]]


def test_raw_pixels_of_the_digits(few):
    outcome = evaluate(svm.RECIPES["digits"], open_images("digits"))
    assert list(outcome.metrics) == ["mAP", "top1", "mean_per_class"]
    assert outcome.num_test == 360
    # One against the rest by scikit-learn with C = 1 for each class gets 94 % of the test digits.
    assert outcome.metrics["top1"] > 94
    assert outcome.metrics["mAP"] > 96
    assert outcome.drawn["labels"].tolist() == list(open_images("digits").test.labels)
    assert outcome.drawn["scores"].shape == (360, 10)
    assert outcome.details["num_unconverged"] == 0


def test_fits_that_do_not_converge_are_counted_and_said(two_digits, capsys):
    recipe = svm.Recipe(costs=(0.001, 1000.0), max_iter=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        details = evaluate(recipe, two_digits).details
    # Two classes, two C, three folds, and the final fit of each class.
    assert details["num_fits"] == 2 * (2 * 3 + 1)
    # None of the smaller C, all of the larger.
    assert details["num_unconverged"] == 2 * 3 + 2
    assert "8 of 14 SVMs did not converge within 20 passes" in capsys.readouterr().out


def test_few_positives_are_drawn_with_more_negatives():
    labels = torch.tensor([PRESENT] * 5 + [ABSENT] * 20 + [DIFFICULT] * 9)
    drawn = take_shots(labels, 2, 8, torch.Generator().manual_seed(0))
    assert labels[drawn].tolist() == [PRESENT] * 2 + [ABSENT] * 8
    assert len(set(drawn.tolist())) == 10


def test_lowshot_names_what_was_best_on_the_test_set(two_digits):
    recipe = svm.LowShotRecipe(shots=(2, 5), num_draws=3, costs=(0.01, 10.0), c=0.01, dual=False)
    outcome = evaluate(recipe, two_digits)
    # The most shots count, so they come first.
    assert list(outcome.metrics) == [
        *("mAP_k5", "mAP_k5_best_on_test"),
        *("mAP_k2", "mAP_k2_best_on_test"),
    ]
    for k in ("5", "2"):
        found = outcome.details["by_shots"][k]
        mean = outcome.metrics[f"mAP_k{k}"]
        assert mean == pytest.approx(np.mean(found["mAP_by_draw"]))
        assert found["sd"] == pytest.approx(np.std(found["mAP_by_draw"], ddof=1))
        assert outcome.metrics[f"mAP_k{k}_best_on_test"] >= mean


def test_lowshot_is_what_single_svms_say(two_digits):
    features = of_data(load_encoder("pixels"), two_digits)
    problem = one_vs_rest.Problem.of(features, two_digits)
    expected, costs = {}, (0.001, 1.0, 100.0)
    for c in costs:
        aps = []
        for number in (0, 1):
            generator = keyed_generator(1, 3, 0, number)
            drawn = take_shots(problem.train_labels[:, number], 3, 3, generator)
            machine = LinearSVC(C=c, class_weight={1: 2, -1: 1}, dual=False)
            machine.fit(problem.train[drawn], problem.train_labels[drawn, number].numpy() * 2 - 1)
            scores = torch.tensor(machine.decision_function(problem.test))
            aps.append(envelope_precision(scores, problem.test_labels[:, number] == 1))
        expected[c] = 100 * np.mean(aps)
    # Neither the first nor the last is the best on the test set.
    assert max(expected, key=expected.get) == 1.0
    for c in costs:
        recipe = svm.LowShotRecipe(shots=(3,), num_draws=1, costs=costs, c=c, dual=False)
        metrics = evaluate(recipe, two_digits, seed=1).metrics
        assert metrics["mAP_k3"] == pytest.approx(expected[c])
        assert metrics["mAP_k3_best_on_test"] == pytest.approx(max(expected.values()))


def test_lowshot_draws_are_fixed_by_the_seed(two_digits):
    recipe = svm.LowShotRecipe(shots=(1,), num_draws=2, costs=(1.0,), dual=False)
    one, again, other = (evaluate(recipe, two_digits, seed=seed) for seed in (0, 0, 1))
    assert one == again
    marks = [o.details["by_shots"]["1"]["images_sha256"] for o in (one, other)]
    assert marks[0] != marks[1]
    assert len(set(one.details["by_shots"]["1"]["mAP_by_draw"])) == 2


def test_more_shots_than_a_class_has_are_left_out(few):
    recipe = svm.LowShotRecipe(shots=(1, 50), num_draws=1, costs=(1.0,), dual=False)
    outcome = evaluate(recipe, few)
    assert outcome.details["shots_left_out"] == [50]
    assert list(outcome.metrics) == ["mAP_k1", "mAP_k1_best_on_test"]
    with pytest.raises(DataError, match=r"fewer than 50 training images that show it or 450 that"):
        evaluate(replace(recipe, shots=(50,)), few)


@pytest.mark.parametrize("name", svm.RECIPES)
def test_every_recipe_runs_on_64_images(name, few):
    outcome = evaluate(svm.RECIPES[name], few)
    assert outcome.num_test == 80
    assert 0 <= next(iter(outcome.metrics.values())) <= 100
    assert name in svm.PUBLISHED


def test_the_two_protocols_have_names_of_their_own():
    names = [recipes.protocol_id("svm", svm.RECIPES[name]) for name in ("voc07", "voc07-lowshot")]
    assert names == ["svm", "svm-lowshot"]


def _on_a_rank(data):
    full = evaluate(svm.Recipe(costs=(0.1, 10.0), dual=False), data)
    few_shots = evaluate(svm.LowShotRecipe(shots=(1,), num_draws=2, costs=(1.0,), dual=False), data)
    return full.metrics, full.details, few_shots.metrics, few_shots.details


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_ranks_share_the_classes_and_change_no_number(on_ranks, few, num_ranks):
    assert on_ranks(num_ranks, _on_a_rank, few) == [_on_a_rank(few)] * num_ranks


def _too_many(data):
    with pytest.raises(UsageError, match="3 processes cannot share 2 classes"):
        evaluate(QUICK, data)
    return True


def test_more_ranks_than_classes_are_refused(on_ranks, two_digits):
    assert on_ranks(3, _too_many, two_digits) == [True] * 3


def test_a_class_with_fewer_images_than_folds_is_refused(few):
    labels = [label if label != 4 else 5 for label in few.train.labels]
    labels[0] = 4
    with pytest.raises(DataError, match=r"1 training images show the class 'four'.*num_folds=2"):
        evaluate(QUICK, replace(few, train=replace(few.train, labels=labels)))


def test_impossible_recipes_are_refused():
    with pytest.raises(UsageError, match="costs must be positive and ascending"):
        svm.Recipe(costs=(1.0, 0.1))
    with pytest.raises(UsageError, match="num_folds must be at least 2"):
        svm.Recipe(num_folds=1)
    with pytest.raises(UsageError, match=r"c = 3\.0 is none of the costs"):
        svm.LowShotRecipe(c=3.0)
    with pytest.raises(UsageError, match="shots and num_draws must be positive"):
        svm.LowShotRecipe(shots=(0, 1))
