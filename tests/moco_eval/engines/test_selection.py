"""The learning rate chosen on held-out training images."""

import dataclasses

import pytest

from moco_eval.engines import evaluation
from moco_eval.engines.selection import JUDGES, judges, select_lr
from moco_eval.errors import DataError, DivergedError


def with_grid(recipe, *rates):
    return dataclasses.replace(recipe, lr=0.5, lr_grid=rates)


def test_the_best_rate_is_taken_and_the_choice_told(tiny_recipe):
    tried = []

    def judge(recipe):
        assert recipe.lr_grid == ()
        tried.append(recipe.lr)
        return {0.01: 20.0, 0.02: 30.00004, 0.04: 10.0}[recipe.lr]

    recipe, details = select_lr(with_grid(tiny_recipe, 0.04, 0.01, 0.02, 0.01), judge)
    # Each once, whatever the order; the recipe's own rate, 0.5, is none of them.
    assert tried == [0.01, 0.02, 0.04]
    assert (recipe.lr, recipe.lr_grid) == (0.02, ())
    assert details["selection"] == {
        "lr": 0.02,
        "score_by_lr": {"0.01": 20.0, "0.02": 30.0, "0.04": 10.0},
        "judged_on": "1 in 5 training images",
    }


def test_of_equal_rates_the_smaller_one_is_taken(tiny_recipe):
    recipe, _ = select_lr(with_grid(tiny_recipe, 0.1, 0.2), lambda _: 7.0)
    assert recipe.lr == 0.1


def test_a_rate_that_diverges_is_worse_than_one_that_finds_nothing(tiny_recipe, capsys):
    def judge(recipe):
        if recipe.lr > 1:
            raise DivergedError("The loss is not finite.")
        return 0.0

    recipe, details = select_lr(with_grid(tiny_recipe, 0.1, 5.0), judge)
    assert recipe.lr == 0.1
    assert details["selection"]["score_by_lr"] == {"0.1": 0.0, "5": None}
    assert "lr 5: The loss is not finite." in capsys.readouterr().out


def test_when_all_diverge_so_does_the_run(tiny_recipe):
    def judge(_):
        raise DivergedError("The loss is not finite.")

    with pytest.raises(DivergedError, match=r"every learning rate of \(0\.1, 5\.0\)"):
        select_lr(with_grid(tiny_recipe, 0.1, 5.0), judge)


def test_without_a_grid_nobody_judges(tiny_recipe):
    def judge(_):
        raise AssertionError("nothing is to be chosen")

    assert select_lr(tiny_recipe, judge) == (tiny_recipe, {})


def test_a_fifth_of_the_names_judges_and_always_the_same():
    names = [f"{number}.jpg" for number in range(1000)]
    first = judges(names)
    assert sum(first) == 1000 / JUDGES
    # A few have one judge all the same.
    assert sum(judges(names[:3])) == 1
    assert judges(names[::-1]) == first[::-1]


def test_judges_are_training_scenes_and_the_test_scenes_stay_unseen(tiny_data):
    held = evaluation._held_out(tiny_data)
    names = {scene.path.name for scene in tiny_data.train.scenes}
    trained, judging = (
        {scene.path.name for scene in split.scenes} for split in (held.train, held.test)
    )
    assert trained | judging == names
    assert not trained & judging
    assert len(judging) == 2


def test_too_few_scenes_to_hold_some_out_are_refused(tiny_data):
    one = dataclasses.replace(tiny_data.train, scenes=tiny_data.train.scenes[:1])
    with pytest.raises(DataError, match="too few to hold some out"):
        evaluation._held_out(dataclasses.replace(tiny_data, train=one))
