import pytest
from trial_records import record, stored, trials

from moco_eval import tables
from moco_eval.errors import UsageError
from moco_eval.tables import Layout, RowLayout, rows_of
from moco_eval.tables.bands import Reference, check, judge, read_references
from moco_eval.tables.trials import Cell

# MoCo v1's 60.6 top-1 on ImageNet (arXiv:1911.05722, table 1), by our linear-sgd protocol.
IMAGENET = {"protocol": "linear-sgd", "recipe": "mocov1", "dataset": "imagenet"}
PAPER = {"method": "MoCo v1", "architecture": "R50", "source": "arXiv 1911.05722 Table 1"}


def checked(records, where=PAPER, **layout):
    rows = (RowLayout(encoder="A", label="ours", published=where),)
    return check(tables.table(stored(records), Layout(rows=rows, **layout)), None)


def verdicts(lines):
    return [line.split("  ")[0] for line in lines[:-1]]


@pytest.mark.parametrize(
    ("mean", "verdict"),
    [(60.6, "inside"), (60.1, "inside"), (61.1, "inside"), (60.09, "outside"), (61.11, "outside")],
)
def test_a_published_number_without_a_spread_has_a_band_of_the_tolerance(mean, verdict):
    lines, is_clean = checked([record("A", mean, **IMAGENET)])
    assert verdicts(lines) == [verdict]
    assert is_clean == (verdict == "inside")


def test_a_line_says_what_was_measured_and_with_what_it_was_compared():
    lines, _ = checked(trials("A", [60.0, 61.0], **IMAGENET))
    assert lines == [
        "inside        ours, linear-sgd top1: measured 60.5 ± 0.7 (2), reference 60.6, band 60.10"
        " to 61.10 (arXiv 1911.05722 Table 1)",
        "1 inside, 0 outside, 0 no reference, 0 not measured. Band: ±2 s.d. of the reference, at"
        " least ±0.5 points.",
    ]


def test_another_tolerance_is_another_band():
    lines, is_clean = checked([record("A", 58.6, **IMAGENET)], tolerance=2.0)
    assert verdicts(lines) == ["inside"]
    assert "band 58.60 to 62.60" in lines[0]
    assert lines[-1].endswith("at least ±2 points.")
    assert is_clean


def test_the_spread_of_noisy_runs_does_not_widen_the_band():
    lines, is_clean = checked(trials("A", [40.0, 76.0], **IMAGENET))
    assert verdicts(lines) == ["outside"]
    assert not is_clean


def test_cells_that_no_paper_has_and_cells_without_a_number_are_no_fault():
    lines, is_clean = checked(
        [
            record("A", 1.0, protocol="knn"),
            record("A", None, protocol="svm", status="failed"),
            record("A", 1.0, **{**IMAGENET, "recipe": "another"}),
        ]
    )
    assert verdicts(lines) == ["no reference", "no reference"]
    assert lines[-1].startswith("0 inside, 0 outside, 2 no reference, 1 not measured.")
    assert is_clean


def test_a_row_that_names_no_published_numbers_has_no_reference():
    lines, _ = checked([record("A", 1.0, **IMAGENET)], where={})
    assert verdicts(lines) == ["no reference"]


def test_a_deviating_cell_is_not_compared_with_the_recipe_it_departs_from():
    lines, is_clean = checked([record("A", 1.0, deviations=(("lr", 3),), **IMAGENET)])
    assert lines[0].startswith("no reference  ours, linear-sgd top1: measured 1.0 (1); deviates:")
    assert "lr=3" in lines[0]
    assert is_clean


VOC = {"protocol": "detect-tv", "recipe": "voc-c4-24k", "dataset": "voc07+12", "metric": "AP"}
V1_DETECTOR = {"method": "MoCo v1", "architecture": "R50", "pretrain_data": "IN-1M"}


def test_a_line_says_how_many_sources_there_are_and_in_what_they_differ_from_ours():
    # 55.9 in both papers, with Detectron2.
    lines, is_clean = checked([record("A", 56.4, **VOC)], where=V1_DETECTOR)
    assert verdicts(lines) == ["inside"]
    assert "reference 55.9, the nearest of 2, band 55.40 to 56.40 (arXiv 1911.05722" in lines[0]
    assert "published with Detectron2" in lines[0]
    assert is_clean


def test_where_sources_differ_the_nearest_counts():
    near = Reference(mean=50.0, sd=None, text="50.0", source="near")
    # Its band reaches farther: 60 - 2 * 3 = 54.
    wide = Reference(mean=60.0, sd=3.0, text="60.0 ± 3.0", source="wide")

    def judged(mean):
        cell = Cell(status="ok", by_seed={0: mean})
        return judge(cell, [near, wide], tolerance=0.5, decimals=1)

    assert judged(50.5)[0] == judged(54.0)[0] == "inside"
    assert judged(50.6)[0] == judged(53.9)[0] == "outside"
    assert "(near)" in judged(50.6)[1]
    assert "(wide)" in judged(53.9)[1]


def test_a_row_whose_published_numbers_are_of_several_encoders_is_refused():
    # MoCo v1's detectors on VOC are of two pretrainings: ImageNet and Instagram.
    with pytest.raises(UsageError) as caught:
        checked([record("A", 56.4, **VOC)], where={"method": "MoCo v1"})
    assert "row 'ours' under detect-tv@1 voc-c4-24k on voc07+12" in str(caught.value)
    assert "pretrain_data is IG-1B and IN-1M. Add pretrain_data to" in str(caught.value)


@pytest.fixture
def reference(tmp_path):
    def write(records):
        path = tmp_path / "reference.csv"
        path.write_text(tables.render(tables.table(stored(records)), "csv"))
        return read_references(path)

    return write


def compare(records, references):
    names = tuple(dict.fromkeys(r["encoder"]["id"] for r in records))
    return check(tables.table(stored(records), Layout(rows=rows_of(names))), references)


def test_the_csv_of_another_table_is_a_reference_with_two_of_its_standard_deviations(reference):
    # Mean 50, s.d. 2: the band is 46 to 54.
    references = reference(trials("A", [48.0, 50.0, 52.0]))
    for mean, verdict in ((46.0, "inside"), (54.0, "inside"), (45.9, "outside"), (54.1, "outside")):
        lines, is_clean = compare([record("A", mean)], references)
        assert verdicts(lines) == [verdict]
        assert is_clean == (verdict == "inside")
        assert "reference 50.00 ± 2.00, band 46.00 to 54.00 (reference.csv, n 3)" in lines[0]


def test_a_table_is_inside_the_bands_of_its_own_csv(reference):
    records = [*trials("A", [1.0, 2.0]), record("B", 5.0), record("B", 5.0, protocol="knn")]
    lines, is_clean = compare(records, reference(records))
    assert verdicts(lines) == ["inside"] * 3
    assert is_clean


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"recipe": "another"},
        {"dataset": "other"},
        {"metric": "top5"},
        {"protocol": "knn"},
        {"deviations": (("lr", 3),)},
    ],
    ids=str,
)
def test_only_the_very_same_measurement_is_a_reference(reference, change):
    lines, _ = compare([record("A", 50.0, **change)], reference([record("A", 50.0)]))
    assert verdicts(lines) == ["no reference"]


def test_a_deviating_cell_is_compared_with_one_that_deviates_alike(reference):
    deviating = {"deviations": (("lr", 3),)}
    lines, is_clean = compare(
        [record("A", 50.0, **deviating)], reference([record("A", 90.0, **deviating)])
    )
    assert verdicts(lines) == ["outside"]
    assert not is_clean


def test_cells_that_the_other_table_lacks_have_no_reference(reference):
    references = reference([record("A", None, status="failed"), record("B", 1.0)])
    lines, _ = compare([record("A", 50.0)], references)
    assert verdicts(lines) == ["no reference"]


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n"])
def test_a_file_that_is_no_table_of_ours_is_refused(tmp_path, text):
    path = tmp_path / "other.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"other\.csv is no table of moco-eval.*deviations"):
        read_references(path)
    with pytest.raises(UsageError, match=r"none\.csv cannot be read"):
        read_references(tmp_path / "none.csv")
