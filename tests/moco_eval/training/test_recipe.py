"""What a recipe means in each step."""

from dataclasses import replace

import pytest

from moco_eval.errors import UsageError
from moco_eval.finetune import RECIPES
from moco_eval.recipes import choose
from moco_eval.training.recipe import Plan, Recipe

PLAIN = Recipe(lr=(0.1,), weight_decay=(1e-4,), batch_total=10, epochs=4)


def test_drops_come_at_their_shares_of_the_training():
    # 1,000 images in batches of 256 for 100 epochs: 390.6, so 391 steps; 70 % of them are 273.7,
    # 90 % are 351.9.
    plan = Plan(RECIPES["mocov1-inat18"], 1000)
    assert plan.num_steps == 391
    assert [plan.lr(step) for step in (0, 273, 274, 351, 352, 390)] == pytest.approx(
        [0.025, 0.025, 0.0025, 0.0025, 0.00025, 0.00025]
    )


def test_a_rise_and_a_cosine_end_at_the_least_rate():
    # 5 steps an epoch, 20 in all, one epoch of rise: step 10 is a third of the fall, where the
    # cosine has left 3 / 4.
    plan = Plan(replace(PLAIN, warmup_epochs=1, lr_min=0.02), 50)
    assert plan.num_steps == 20
    assert [plan.lr(step) for step in (0, 1, 5, 10, 20)] == pytest.approx(
        [0.02, 0.02 + 0.08 / 5, 0.1, 0.02 + 0.08 * 0.75, 0.02]
    )


def test_the_sweep_of_the_transfer_tables_is_theirs():
    recipe = RECIPES["kornblith"]
    assert len(list(recipe.pairs())) == 7 * 8
    assert recipe.lr == pytest.approx((1e-4, 10**-3.5, 1e-3, 10**-2.5, 1e-2, 10**-1.5, 0.1))
    assert recipe.weight_decay[:2] == pytest.approx((0, 1e-6))
    assert recipe.weight_decay[-1] == pytest.approx(1e-3)
    pair = replace(recipe, lr=(0.01,), weight_decay=(1e-4,))
    # The decay is divided by the rate: 1e-4 / 0.01.
    assert Plan(pair, 2000).weight_decay == pytest.approx(0.01)
    # 51,200 images are 200 steps of 256: 1 - 10 / 200 is kept, so that torch's momentum is 0.05;
    # of 2,560, 1 - 10 / 10 is less than 0.9, which is kept.
    assert Plan(pair, 51_200).batch_norm_momentum == pytest.approx(0.05)
    assert Plan(pair, 2560).batch_norm_momentum == pytest.approx(0.1)
    assert Plan(pair, 2560).num_steps == 20_000
    assert Plan(PLAIN, 50).batch_norm_momentum is None


def test_a_few_images_are_trained_on_for_at_least_one_step():
    assert Plan(replace(PLAIN, epochs=1), 3).num_steps == 1


def test_pairs_go_through_all_decays_of_a_rate_first():
    recipe = replace(PLAIN, lr=(0.1, 0.2), weight_decay=(0, 1))
    told = [(pair.lr, pair.weight_decay, pair.is_single) for pair in recipe.pairs()]
    assert told == [((lr,), (wd,), True) for lr in (0.1, 0.2) for wd in (0, 1)]
    assert not recipe.is_single


def test_the_command_line_takes_a_list_of_rates():
    assert choose(RECIPES, "digits", ["lr=[0.1, 0.01]"]).lr == (0.1, 0.01)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"lr": ()}, "lr and weight_decay are one or more numbers"),
        ({"weight_decay": (-1e-4,)}, "above 0 and from 0 on"),
        ({"num_steps": 5}, "Either epochs or num_steps is positive .* found 4 and 5"),
        ({"epochs": 0}, "found 0 and 0"),
        ({"holdout": 1.0}, "holdout between 0 and 1"),
        ({"layer_decay": 1.1}, "layer_decay must lie above 0 and up to 1"),
        ({"drop_path": 1.0}, "drop_path from 0 on and below 1"),
    ],
)
def test_numbers_that_make_no_training_are_refused(change, told):
    with pytest.raises(UsageError, match=told):
        replace(PLAIN, **change)
