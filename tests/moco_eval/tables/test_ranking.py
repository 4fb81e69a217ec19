import math

import numpy as np
import pytest
from scipy import stats
from trial_records import record, stored, trials

from moco_eval import tables
from moco_eval.tables.ranking import across_seeds, between, tau_b


def tau(one, two):
    return tau_b(np.array([one, two], dtype=float))[0, 1]


def test_tau_is_the_one_worked_out_by_hand():
    # Of three pairs two agree and one does not.
    assert tau([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)
    assert tau([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # One pair is tied in the first: 2 agree, over sqrt(2 * 3).
    assert tau([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(6))


def test_tau_is_scipys_with_ties_and_gaps():
    draws = np.random.default_rng(0)
    lines = draws.integers(0, 6, (8, 12)).astype(float)
    lines[draws.random(lines.shape) < 0.2] = np.nan
    found = tau_b(lines)
    for i, one in enumerate(lines):
        for j, two in enumerate(lines):
            both = ~np.isnan(one) & ~np.isnan(two)
            assert found[i, j] == pytest.approx(stats.kendalltau(one[both], two[both]).statistic)


def test_columns_that_tell_no_order_are_left_out():
    nan = math.nan
    assert math.isnan(tau([1, 2, 3], [5, 5, 5]))
    assert math.isnan(tau([1, 2, nan], [1, 2, 3]))
    assert between([]) == []
    # The third is constant; the fourth shares only two rows with the others.
    columns = [[1, 2, 3], [1, 3, 2], [4, 4, 4], [1, 2, None]]
    assert between(columns) == [(0, 1, pytest.approx(1 / 3))]


def test_the_order_is_compared_between_each_two_seeds():
    # Seed 0: A < B < C. Seed 1: A < C < B. Seed 2: as 0. Taus: 1/3, 1, 1/3; mean 5/9.
    column = [{0: 1.0, 1: 1.0, 2: 1.0}, {0: 2.0, 1: 3.0, 2: 2.0}, {0: 3.0, 1: 2.0, 2: 3.0}]
    assert across_seeds(column) == pytest.approx(5 / 9)
    # An encoder without a second seed is left out of the pair, and two encoders are too few.
    assert across_seeds([{0: 1.0, 1: 1.0}, {0: 2.0, 1: 3.0}, {0: 3.0}]) is None
    assert across_seeds([{0: 1.0}, {0: 2.0}, {0: 3.0}]) is None
    assert across_seeds([{}, {}, {}]) is None


def order_notes(records):
    notes = tables.table(stored(records)).notes
    return [each for each in notes if each.startswith(("Order", "The same"))]


def test_the_footer_has_a_line_between_columns_and_one_across_seeds():
    # Means: linear 1, 2, 3; kNN 1, 3, 2; errors, lower is better, 3, 2, 1: as linear.
    records = [
        *[
            record(n, v, seed=s)
            for n, v in zip("ABC", (1.0, 2.0, 3.0), strict=True)
            for s in (0, 1)
        ],
        *[record(n, v, protocol="knn") for n, v in zip("ABC", (1.0, 3.0, 2.0), strict=True)],
        *[
            record(n, v, protocol="svm", metric="ece", higher_better=False)
            for n, v in zip("ABC", (3.0, 2.0, 1.0), strict=True)
        ],
    ]
    # Taus: linear and svm 1, each of them and kNN 1/3; mean 5/9.
    assert order_notes(records) == [
        "Order of the rows, Kendall's tau-b between columns: mean 0.56 of 3 pairs, lowest 0.33"
        " (linear-lbfgs top1; knn top1).",
        "The same between single seeds of a column, mean: linear-lbfgs top1 1.00.",
    ]


def test_one_pair_of_columns_has_no_mean():
    records = [
        record(n, v, protocol=p)
        for p, values in (("knn", (1.0, 2.0, 3.0)), ("svm", (3.0, 2.0, 1.0)))
        for n, v in zip("ABC", values, strict=True)
    ]
    assert order_notes(records) == [
        "Order of the rows, Kendall's tau-b between columns: −1.00 (svm top1; knn top1)."
    ]


def test_fewer_than_three_rows_or_constant_columns_have_no_line():
    assert order_notes([*trials("A", [1.0, 2.0]), *trials("B", [2.0, 3.0])]) == []
    same = [r for name in "ABC" for r in trials(name, [5.0, 5.0])]
    assert order_notes([*same, *(record(n, 5.0, protocol="knn") for n in "ABC")]) == []


def test_a_tau_just_below_zero_is_printed_without_a_sign():
    # Of 22 rows' 231 pairs 116 stand the other way: 15 rows reversed, 105, and one before 11 more.
    order = [14, 13, 12, 11, 15, *range(10, -1, -1), *range(16, 22)]
    records = [record(f"e{row}", float(row), protocol="svm") for row in range(22)]
    records += [record(f"e{row}", float(value), protocol="knn") for row, value in enumerate(order)]
    # (115 - 116) / 231 = -0.0043.
    assert order_notes(records) == [
        "Order of the rows, Kendall's tau-b between columns: 0.00 (svm top1; knn top1)."
    ]
