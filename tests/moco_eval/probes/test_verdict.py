"""What counts as a probe that has learnt nothing."""

import pytest
import torch

from moco_eval.chance import Fit
from moco_eval.errors import DivergedError
from moco_eval.probes.verdict import caution, require_learnt

# 1,000 images of two classes: ln 2 = 0.693 is what knowing nothing costs, and half are hit.
# 3 s.d. of 1,000 coins are 4.7 %.
COINS = torch.arange(1000) % 2


def judge(loss, top1, labels=COINS, **more):
    require_learnt(Fit(loss=loss, top1=top1), labels, feature_norm=2.5, **more)


def test_a_loss_that_is_not_finite_has_diverged_and_the_text_has_the_numbers():
    with pytest.raises(DivergedError) as raised:
        judge(float("nan"), 12.5, lr=30.0)
    assert str(raised.value) == (
        "The probe has diverged: its loss is not finite. It gets 12.50 % of its training images "
        "right, and always saying the commonest class 50.00 %; learning rate 30, mean feature norm "
        "2.5. A learning rate suits features of one length: try another (--set lr=...), features "
        "brought to one scale (--set batch_norm=true), many rates at once (--recipe grid), or none "
        "(--recipe lbfgs). If all fail alike, look at the features: moco-eval check"
    )


def test_a_hundred_times_the_loss_of_knowing_nothing_has_diverged_whatever_it_hits():
    with pytest.raises(DivergedError, match=r"diverged: its loss is 70, and knowing nothing costs"):
        judge(70.0, 90.0, lr=1e6)
    judge(69.0, 90.0)


def test_a_loss_above_that_of_knowing_nothing_is_told():
    assert "0.7 is above the 0.693 of knowing nothing" in caution(Fit(loss=0.7, top1=90.0), COINS)
    assert caution(Fit(loss=0.69, top1=90.0), COINS) == ""


def test_chance_is_the_commonest_class_and_a_loss_that_says_no_more():
    with pytest.raises(DivergedError, match=r"no better than chance: its loss is 0\.69, and"):
        judge(0.69, 54.0)
    # Either shows that something was learnt.
    judge(0.69, 55.0)
    judge(0.67, 54.0)


def test_a_probe_without_a_learning_rate_is_not_told_to_change_it():
    with pytest.raises(DivergedError, match=r"norm 2\.5\. Look at the features with: moco-eval"):
        judge(0.7, 50.0)


def test_a_weak_encoder_on_many_classes_is_an_honest_result():
    # 1 % of 1,000 classes, at a loss a hair below ln 1000 = 6.908.
    judge(6.9, 1.0, torch.arange(100_000) % 1000)


def test_always_saying_a_class_that_is_common_is_chance():
    # 90 % of the images are of class 0, and knowing that costs 0.325.
    with pytest.raises(DivergedError, match=r"90\.00 % of its .* commonest class 90\.00 %"):
        judge(0.33, 90.0, (torch.arange(1000) % 10 == 0).long())
