import math

import numpy as np
import pytest
from scipy import stats
from trial_records import record, stored, trials

from moco_eval import tables
from moco_eval.tables.significance import ALPHA, best, welch


def test_welchs_p_value_is_the_one_worked_out_by_hand():
    # Means 2 and 5; variances 2 and 2, each over 2: t = 3 / sqrt(2), with
    # (1 + 1)^2 / (1 / 1 + 1 / 1) = 2 degrees of freedom, where p = 1 - t / sqrt(t^2 + 2).
    t = 3 / math.sqrt(2)
    assert welch([1.0, 3.0], [4.0, 6.0]) == pytest.approx(1 - t / math.sqrt(t**2 + 2))
    # One without spread: variance 0 and 2 / 2, t = 5, 1 degree, where p = 1 - 2 atan(t) / pi.
    assert welch([10.0, 10.0], [4.0, 6.0]) == pytest.approx(1 - 2 * math.atan(5) / math.pi)


def test_welchs_p_value_is_scipys():
    draws = np.random.default_rng(0)
    for num_one, num_two in ((2, 2), (3, 5), (5, 5), (20, 2)):
        one = draws.normal(50, 1, num_one)
        two = draws.normal(51, 3, num_two)
        expected = stats.ttest_ind(one, two, equal_var=False).pvalue
        assert welch(list(one), list(two)) == pytest.approx(expected)


def test_samples_without_spread_differ_for_certain_or_not_at_all():
    assert welch([50.0, 50.0], [50.1, 50.1]) == 0.0
    assert welch([50.0, 50.0], [50.0, 50.0, 50.0]) == 1.0
    # What the last binary digits say is neither a spread nor a difference.
    assert welch([50.0, 50.0 + 1e-6], [50.1, 50.1 + 1e-6]) == 0.0
    assert welch([50.0, 50.0 + 1e-6], [50.0 + 2e-6, 50.0 + 3e-6]) == 1.0


def test_the_best_and_all_that_are_not_worse_are_best():
    # Against 60 with s.d. 1: 59.5 with s.d. 1 is near; 50 is not; 55 with s.d. 20 may be.
    column = [[59.0, 60.0, 61.0], [58.5, 59.5, 60.5], [49.0, 50.0, 51.0], [35.0, 55.0, 75.0]]
    assert best(column, higher_better=True) == [True, True, False, True]
    assert best(column[:3], higher_better=False) == [False, False, True]


def test_the_line_is_drawn_at_alpha():
    # t = d / sqrt(1 / 2 + 1 / 2) = d with 2 degrees of freedom: p = 0.05 at d = 4.3027.
    assert ALPHA == 0.05

    def is_tied(difference):
        low = 50 - difference
        half = math.sqrt(0.5)
        return best([[50 - half, 50 + half], [low - half, low + half]], higher_better=True)[1]

    assert is_tied(4.30)
    assert not is_tied(4.31)


def test_a_cell_of_one_seed_is_never_best_and_where_it_leads_nothing_is():
    assert best([[50.0, 51.0], [30.0]], higher_better=True) == [True, False]
    assert best([[50.0, 51.0], [60.0]], higher_better=True) == [False, False]
    # As good as the leader of one seed is no better known.
    assert best([[60.0, 60.0], [60.0]], higher_better=True) == [False, False]
    assert best([[50.0], [60.0]], higher_better=True) == [False, False]


def test_a_column_with_fewer_than_two_numbers_has_no_best():
    assert best([], higher_better=True) == []
    assert best([[], []], higher_better=True) == [False, False]
    assert best([[50.0, 51.0], []], higher_better=True) == [False, False]


def test_deterministic_cells_are_told_apart_exactly():
    column = [[97.5] * 5, [97.5] * 3, [97.4] * 5]
    assert best(column, higher_better=True) == [True, True, False]


def test_the_footer_speaks_of_cells_of_one_seed_and_of_cells_without_spread_where_there_are():
    def note(records):
        notes = tables.table(stored(records)).notes
        return next(each for each in notes if each.startswith("Bold"))

    spread = [*trials("A", [1.0, 2.0]), *trials("B", [3.0, 4.0])]
    assert "one seed" not in note(spread)
    assert "without any spread" not in note(spread)
    assert "A cell of one seed has no spread: it is not bold" in note([*spread, record("C", 1.0)])
    exact = [*trials("A", [1.0, 1.0]), *trials("B", [3.0, 3.0])]
    assert "Between two cells without any spread every difference counts." in note(exact)
