import pytest
from trial_records import record, stored

from moco_eval import tables
from moco_eval.tables import Layout
from moco_eval.tables.costs import COSTS, three_digits

SIZE = 18_900_000
TIMES = (("device_s", 7200.0), ("peak_memory_mib", 512), ("peak_device_memory_mib", None))
RECORDS = stored(
    [
        # A repeated seed counts once, and a failed run not at all.
        record("A", 1.0, seed=0, time=(("wall_s", 1e9),), num_params=SIZE),
        record("A", 1.0, seed=0, time=(("wall_s", 1.0), *TIMES), num_params=SIZE),
        record("A", 2.0, seed=1, time=(("wall_s", 2.0), *TIMES), num_params=SIZE),
        record("A", None, seed=2, status="failed", time=(("wall_s", 1e9),), num_params=SIZE),
        record("A", 3.0, protocol="knn", time=(("wall_s", 0.25),), num_params=SIZE),
        # An older record: it has wall time alone.
        record("B", 3.0, protocol="knn", time=(("wall_s", 12345.6),)),
    ]
)


def test_costs_are_means_of_runs_with_parameters_first_and_then_place_by_place():
    names = ("wall_s", "params_m", "device_h", "memory_gib", "device_memory_gib")
    grid = tables.table(RECORDS, Layout(cost=names)).grid()
    shown = [
        (group, title, [row.entries[number].text for row in grid.rows])
        for number, (group, title) in enumerate(
            zip([g for g, span in grid.groups for _ in range(span)], grid.columns, strict=True)
        )
    ]
    # (1 + 2) / 2 s; 7200 s are 2 h; 512 MiB are 0.5 GiB.
    assert shown[2:] == [
        ("cost", "parameters, M", ["18.9", "1.00"]),
        ("cost of linear-lbfgs", "wall, s", ["1.50", "–"]),
        ("cost of linear-lbfgs", "device, h", ["2.00", "–"]),
        ("cost of linear-lbfgs", "memory, GiB", ["0.500", "–"]),
        ("cost of linear-lbfgs", "device memory, GiB", ["–", "–"]),
        ("cost of knn", "wall, s", ["0.250", "12300"]),
        ("cost of knn", "device, h", ["–", "–"]),
        ("cost of knn", "memory, GiB", ["–", "–"]),
        ("cost of knn", "device memory, GiB", ["–", "–"]),
    ]
    assert grid.higher_better == (True, True, *[False] * 9)
    assert "Costs: the mean of a run. –: not recorded." in grid.notes


def test_a_table_without_costs_says_nothing_of_them():
    grid = tables.table(RECORDS).grid()
    assert len(grid.columns) == 2
    assert not any("Costs" in note for note in grid.notes)


def test_costs_stand_in_the_csv_beside_their_column():
    lines = tables.table(RECORDS, Layout(cost=("wall_s", "params_m"))).tidy()
    found = {(line["encoder"], line["protocol"]): line["wall_s"] for line in lines}
    assert found == {
        ("A", "linear-lbfgs"): 1.5,
        ("A", "knn"): 0.25,
        ("B", "linear-lbfgs"): None,
        ("B", "knn"): 12345.6,
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.012345, "0.0123"),
        (1.0, "1.00"),
        (9.996, "10.0"),
        (123.4, "123"),
        (12345.6, "12300"),
    ],
)
def test_a_cost_has_three_digits_and_no_exponent(value, text):
    assert three_digits(value) == text


def test_every_cost_is_a_field_of_a_committed_record_or_of_new_ones():
    known = {"num_params", "wall_s", "device_s", "peak_memory_mib", "peak_device_memory_mib"}
    assert {cost.field for cost in COSTS.values()} == known
