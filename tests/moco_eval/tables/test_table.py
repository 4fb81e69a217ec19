import csv
import io
import random

import pytest
from trial_records import SMALL, record, stored, texts, trials

from moco_eval import __version__, tables
from moco_eval.errors import UsageError
from moco_eval.tables import Layout, RowLayout, rows_of

BASELINE = Layout(baseline="Random")
LINEAR, DETECT = "linear-lbfgs top1", "detect-tv AP"


def cells(records, layout=None):
    return texts(tables.table(stored(records), layout))


def test_a_cell_is_mean_and_sample_sd_and_number_of_seeds():
    found = texts(tables.table(SMALL))
    assert found["Random", LINEAR] == "97.0 ± 1.0 (3)"
    assert found["MoCo v2", LINEAR] == "99.2 ± 0.3 (2)"


def test_a_single_seed_shows_no_spread():
    assert texts(tables.table(SMALL))["Random", DETECT] == "31.0 (1)"


def test_deltas_refer_to_the_baseline_and_its_own_row_has_none():
    found = texts(tables.table(SMALL, BASELINE))
    assert found["Random", LINEAR] == "97.0 ± 1.0 (3)"
    assert found["MoCo v2", LINEAR] == "99.2 ± 0.3 (2) (+2.2)"
    assert found["MoCo v2", DETECT] == "31.0 (1) (+0.0)"
    # 97 - 99.2, with a minus sign and not a hyphen.
    other = texts(tables.table(SMALL, Layout(baseline="MoCo v2")))
    assert other["Random", LINEAR] == "97.0 ± 1.0 (3) (−2.2)"


def test_a_delta_is_coloured_by_what_is_printed_and_by_the_metrics_direction():
    # 0.46 is printed as +0.5 and coloured so; 0.44 as +0.4.
    values = {"base": 50.0, "up": 50.46, "little": 50.44, "down": 49.5}
    found = tables.table(
        stored([record(name, value) for name, value in values.items()]), Layout(baseline="base")
    ).grid()
    assert [row.entries[0].tone for row in found.rows] == ["", "better", "", "worse"]
    errors = [record(n, v, metric="ece", higher_better=False) for n, v in values.items()]
    found = tables.table(stored(errors), Layout(baseline="base")).grid()
    assert [row.entries[0].tone for row in found.rows] == ["", "worse", "", "better"]
    assert [row.entries[0].delta for row in found.rows] == ["", "+0.5", "+0.4", "−0.5"]
    assert found.higher_better == (False,)
    assert any("Lower is better in linear-lbfgs ece." in note for note in found.notes)


def test_not_run_failed_and_preempted_and_a_number_are_told_apart():
    table = tables.table(
        stored(
            [
                record("A", 50.0),
                record("B", None, status="failed"),
                record("C", None, status="preempted"),
                record("D", 60.0, dataset="scenes"),
                record("E", None, status="preempted", seed=0),
                record("E", None, status="failed", seed=1),
            ]
        ),
        Layout(baseline="A"),
    )
    grid = table.grid()
    assert [row.entries[0].text for row in grid.rows] == ["50.0 (1)", "fail", "stop", "–", "fail"]
    assert [row.entries[0].value for row in grid.rows] == [50.0, None, None, None, None]
    # Without the baseline's number there is no delta.
    assert grid.rows[3].entries[1].text == "60.0 (1)"
    assert grid.rows[3].entries[1].delta == ""
    legend = next(note for note in grid.notes if note.startswith("Cells"))
    assert "–: not run; fail: no seed succeeded; stop: preempted, to be run again." in legend


def test_the_legend_explains_only_what_is_there():
    legend = next(n for n in tables.table(stored([record("A", 5.0)])).notes if "Cells" in n)
    assert "not run" not in legend
    assert "fail" not in legend


def test_a_metric_of_a_failed_run_is_not_averaged():
    # A run that ended in NaN keeps its other metrics; none of them may count.
    found = cells([record("A", 50.0), record("A", 1e9, seed=1, status="failed")])
    assert found["A", LINEAR] == "50.0 (1)‡"


def test_the_newest_record_of_a_seed_stands_and_is_no_second_trial():
    found = cells([record("A", -9.0, seed=4), record("A", 50.0, seed=4), record("A", 51.0, seed=5)])
    # (50 + 51) / 2 = 50.5, sample s.d. sqrt(0.25 + 0.25) = 0.707.
    assert found["A", LINEAR] == "50.5 ± 0.7 (2)"


def test_a_seed_that_failed_once_and_then_succeeded_is_a_success():
    found = cells([record("A", None, status="failed"), record("A", 50.0)])
    assert found["A", LINEAR] == "50.0 (1)"


def test_seeds_that_failed_or_were_preempted_where_others_succeeded_have_marks_of_their_own():
    table = tables.table(
        stored(
            [
                record("A", 50.0),
                *(record("A", None, seed=s, status="failed") for s in (7, 3)),
                record("A", None, seed=5, status="preempted"),
                # It failed first; how it ended last counts.
                record("A", None, seed=6, status="failed"),
                record("A", None, seed=6, status="preempted"),
            ]
        )
    )
    assert texts(table)["A", LINEAR] == "50.0 (1)‡§"
    assert table.notes[:2] == (
        f"§ {LINEAR}, A: preempted and not in the mean: seed 5, 6.",
        f"‡ {LINEAR}, A: failed and not in the mean: seed 3, 7.",
    )


def test_a_failure_of_other_weights_is_not_counted_against_these():
    records = [record("A", 50.0), record("A", None, seed=1, status="failed", weights="old")]
    assert cells(records)["A", LINEAR] == "50.0 (1)"


def test_a_deviating_cell_is_marked_and_its_footnote_names_the_deviation():
    deviating = {"deviations": (("num_c", 3),)}
    table = tables.table(
        stored([record("A", 50.0), record("B", 51.0, **deviating), record("C", 52.0, **deviating)])
    )
    assert list(texts(table).values()) == ["50.0 (1)", "51.0 (1)†", "52.0 (1)†"]
    assert table.notes[0] == f"† {LINEAR}, B, C: departs from recipe lbfgs: num_c=3."


def test_footnotes_call_rows_by_their_labels():
    rows = (RowLayout(encoder="A", label="ours"), RowLayout(encoder="B"))
    records = [record("A", 50.0), record("A", None, seed=1, status="failed"), record("B", 1.0)]
    table = tables.table(stored(records), Layout(rows=rows, baseline="A"))
    assert table.notes[0].startswith(f"‡ {LINEAR}, ours:")
    assert any("the difference to ours" in note for note in table.notes)
    assert [row.label for row in table.grid().rows] == ["ours", "B"]


@pytest.mark.parametrize(
    ("change", "field", "one", "two"),
    [
        ({"weights": "other"}, "encoder.tensor_sha256", "weights of MoCo v2", "other"),
        ({"fingerprint": "f1"}, "dataset.fingerprint", "f0", "f1"),
        ({"config": (("num_c", 7), ("holdout", 0.3))}, "config.holdout", "0.2", "0.3"),
        ({"config": (("num_c", 7),)}, "config.holdout", "0.2", "absent"),
        ({"deviations": (("num_c", 3),)}, "num_c", "7", "3"),
    ],
    ids=["weights", "data", "config", "config of another release", "deviation"],
)
def test_records_that_differ_by_more_than_the_seed_are_refused(change, field, one, two):
    first, second = stored([record("MoCo v2", 50.0), record("MoCo v2", 51.0, seed=1, **change)])
    with pytest.raises(UsageError) as caught:
        tables.table([first, second])
    text = str(caught.value)
    # Data and recipe are compared over the whole column, weights within the cell.
    assert "under linear-lbfgs@1 on digits cannot be" in text
    assert f"{field} is {one} in {first['name']} (encoder 'MoCo v2')" in text
    assert f"and {two} in {second['name']} (encoder 'MoCo v2')" in text


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"fingerprint": "f1"}, "dataset.fingerprint is f0 in"),
        ({"config": (("num_c", 7), ("holdout", 0.3))}, "config.holdout is 0.2 in"),
        ({"metric": "AP50"}, "primary metric is top1 in"),
    ],
    ids=["data", "config", "metric"],
)
def test_rows_that_do_not_share_data_metric_and_recipe_are_refused(change, field):
    with pytest.raises(
        UsageError, match="The rows under linear-lbfgs@1 on digits cannot"
    ) as caught:
        tables.table(stored([record("A", 50.0), record("B", 51.0, **change)]))
    assert field in str(caught.value)
    assert "(encoder 'B')" in str(caught.value)


def test_records_of_rows_that_are_not_shown_are_not_compared():
    other = record("B", 51.0, fingerprint="f1")
    layout = Layout(rows=rows_of(["A"]))
    assert cells([record("A", 50.0), other], layout) == {("A", LINEAR): "50.0 (1)"}


def test_rows_can_be_chosen_and_ordered():
    table = tables.table(SMALL, Layout(baseline="Random", rows=rows_of(["MoCo v2"])))
    assert table.encoders == ("MoCo v2",)
    assert texts(table)["MoCo v2", LINEAR] == "99.2 ± 0.3 (2) (+2.2)"


def test_baseline_and_encoders_are_short_for_a_layout():
    short = tables.table(SMALL, baseline="Random", encoders=["MoCo v2"])
    assert short == tables.table(SMALL, Layout(baseline="Random", rows=rows_of(["MoCo v2"])))


def test_an_unknown_encoder_is_refused_and_the_nearest_is_offered():
    with pytest.raises(UsageError, match=r"called 'Moco v2'\. Did you mean 'MoCo v2'\?"):
        tables.table(SMALL, Layout(baseline="Moco v2"))


def test_no_records_make_no_table():
    with pytest.raises(UsageError, match="no records"):
        tables.table([])


def test_the_best_mean_is_bold_where_the_difference_exceeds_the_spread_and_ties_are_too():
    # B against A: difference 10, s.d. 1 each, t = 10 / sqrt(2 / 3) = 12.2; C against B: 0.1.
    records = [
        *trials("A", [49.0, 50.0, 51.0]),
        *trials("B", [59.0, 60.0, 61.0]),
        *trials("C", [58.9, 59.9, 60.9]),
    ]
    grid = tables.table(stored(records)).grid()
    assert [row.entries[0].bold for row in grid.rows] == [False, True, True]
    assert any(note.startswith("Bold: the best mean") and "Welch" in note for note in grid.notes)


def test_with_one_seed_a_cell_nothing_is_bold_and_the_footer_says_why():
    grid = tables.table(stored([record("A", 1.0), record("B", 99.0)])).grid()
    assert [row.entries[0].bold for row in grid.rows] == [False, False]
    assert any(note.startswith("Nothing is bold: with one seed") for note in grid.notes)


def test_a_table_of_one_row_has_no_best_and_no_word_on_it():
    grid = tables.table(stored(trials("A", [1.0, 2.0]))).grid()
    assert not grid.rows[0].entries[0].bold
    assert not any("bold" in note.lower() for note in grid.notes)


def test_the_footer_says_what_was_run_and_on_which_records():
    table = tables.table(SMALL, BASELINE)
    *_, protocols, source = table.notes
    assert protocols == (
        "Protocols: linear-lbfgs@1, recipe lbfgs; detect-tv@1, recipe lbfgs, engine torchvision."
    )
    # sha256 of the seven names sorted and joined by line feeds, computed with coreutils.
    digest = "afa4604b9c05"
    assert source == f"7 records, sha256 of their names {digest}; moco-eval {__version__}."
    one_less = tables.table(SMALL[:-1], BASELINE)
    assert one_less.notes[-1] != source


def test_only_records_of_shown_columns_and_rows_are_in_the_footers_hash():
    layout = Layout(protocols=("detect-tv",), rows=rows_of(["Random"]))
    assert tables.table(SMALL, layout).notes[-1].startswith("1 records,")
    assert tables.table(SMALL, Layout(protocols=("detect-tv",))).notes[-1].startswith("2 records,")


@pytest.mark.parametrize("format", ["md", "latex", "csv", "html"])
def test_the_order_of_the_records_changes_no_byte(format):
    shuffled = [
        *SMALL,
        *stored(
            [
                record("A", -9.0, seed=4),
                record("A", 50.0, seed=4),
                record("A", None, status="failed"),
                *trials("B", [0.1, 0.2, 0.3, 0.7], deviations=(("num_c", 3),)),
            ]
        ),
    ]
    layout = Layout(baseline="Random", cost=("wall_s", "params_m"))
    first = tables.render(tables.table(shuffled, layout), format)
    for seed in range(5):
        random.Random(seed).shuffle(shuffled)
        assert tables.render(tables.table(shuffled, layout), format) == first
    assert first.endswith("\n")


def test_csv_has_one_line_a_cell_with_its_numbers():
    failed = {**record("MoCo v2", None, dataset="scenes", status="failed"), "name": "9.json"}
    table = tables.table([*SMALL, failed], BASELINE)
    rows = list(csv.DictReader(io.StringIO(tables.render(table, "csv"))))
    assert len(rows) == 2 * 3
    assert list(rows[0].values()) == (
        ["Random", "linear-lbfgs", "1", "lbfgs", "digits", "top1", "97.0", "1.0", "3", "", "ok", ""]
    )
    # sqrt(0.08) = 0.282843; 30.96 - 31 = -0.04.
    by_place = {(r["encoder"], r["protocol"], r["dataset"]): r for r in rows}
    moco = by_place["MoCo v2", "linear-lbfgs", "digits"]
    assert (moco["mean"], moco["sd"], moco["n"], moco["delta"]) == ("99.2", "0.282843", "2", "2.2")
    assert by_place["MoCo v2", "detect-tv", "digits"]["delta"] == "-0.04"
    assert by_place["MoCo v2", "linear-lbfgs", "scenes"]["status"] == "failed"
    assert by_place["Random", "linear-lbfgs", "scenes"]["status"] == "not run"
    assert by_place["Random", "linear-lbfgs", "scenes"]["mean"] == ""


def test_decimals_hold_for_means_spreads_and_deltas():
    found = texts(tables.table(SMALL, Layout(baseline="Random", decimals=2)))
    assert found["MoCo v2", LINEAR] == "99.20 ± 0.28 (2) (+2.20)"
    assert found["MoCo v2", DETECT] == "30.96 (1) (−0.04)"


def test_a_row_of_published_numbers_is_grey_and_names_its_source():
    # MoCo v1's headline figure: 60.6 top-1 (arXiv:1911.05722, table 1), and nothing else of it.
    where = {"method": "MoCo v1", "architecture": "R50", "source": "arXiv 1911.05722 Table 1"}
    rows = (RowLayout(encoder="A", rule=True), RowLayout(label="MoCo v1, paper", published=where))
    linear = {"protocol": "linear-sgd", "recipe": "mocov1", "dataset": "imagenet"}
    records = [record("A", 50.0, **linear), record("A", 1.0, protocol="knn")]
    table = tables.table(stored(records), Layout(rows=rows, cost=("wall_s",)))
    measured, published = table.grid().rows
    assert (measured.is_published, measured.has_rule) == (False, True)
    assert (published.is_published, published.has_rule) == (True, False)
    by_column = dict(zip(table.grid().columns, published.entries, strict=True))
    assert by_column["linear-sgd top1"].text == "60.6"
    assert by_column["linear-sgd top1"].value == 60.6
    assert by_column["knn top1"].text == ""
    assert table.grid().notes[0] == "Published, MoCo v1, paper: arXiv 1911.05722 Table 1."
    # It is no measured row: not in the numbers, not averaged, not ranked.
    assert {line["encoder"] for line in table.tidy()} == {"A"}


def test_an_unknown_format_is_refused():
    with pytest.raises(UsageError, match=r"table format 'markdown'.*csv, html, latex, md"):
        tables.render(tables.table(SMALL), "markdown")  # type: ignore[arg-type]
