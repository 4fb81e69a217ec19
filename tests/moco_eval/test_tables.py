import csv
import io

import pytest

from moco_eval import __version__, recipes, suite, tables
from moco_eval.errors import UsageError


def record(encoder, value, *, seed=0, **changes):
    """A record as ``read_all`` returns it; ``value`` None for a run that measured nothing."""
    given = {
        "protocol": "linear-lbfgs",
        "version": 1,
        "recipe": "lbfgs",
        "dataset": "digits",
        "metric": "top1",
        "weights": f"weights of {encoder}",
        "fingerprint": "f0",
        "config": {"num_c": 7, "holdout": 0.2},
        "deviations": {},
        "engine": None,
        "status": "ok",
        **changes,
    }
    metric = {"value": value, "primary": True, "n": 360, "unit": "%", "higher_better": True}
    # What is not the primary metric must stay out of the table.
    decoy = {"value": 1e9, "primary": False, "n": 360, "unit": "%", "higher_better": True}
    measured = {} if value is None else {"decoy": decoy, given["metric"]: metric}
    name = f"{encoder}-{given['protocol']}-{given['dataset']}-{seed}-{value}.json"
    return {
        "encoder": {"id": encoder, "tensor_sha256": given["weights"]},
        "protocol": {key: given[key] for key in ("version", "recipe", "deviations", "engine")}
        | {"id": given["protocol"]},
        "config": given["config"],
        "dataset": {"id": given["dataset"], "fingerprint": given["fingerprint"]},
        "seed": seed,
        "status": given["status"],
        "metrics": measured,
        "name": name,
    }


def cells(records, **options):
    frame = tables.table(records, **{"baseline": None, **options}).frame()
    return {(row, column): frame.loc[row, column] for row in frame.index for column in frame}


# Random: mean (96 + 97 + 98) / 3 = 97, sample s.d. sqrt((1 + 0 + 1) / 2) = 1.
# MoCo v2: mean (99 + 99.4) / 2 = 99.2, sample s.d. sqrt((0.04 + 0.04) / 1) = 0.283;
#   against Random 99.2 - 97 = +2.2.
# Detection: 30.96 - 31 = -0.04, which is no -0.0.
SMALL = [
    record("Random", 96.0, seed=0),
    record("Random", 97.0, seed=1),
    record("Random", 98.0, seed=2),
    record("MoCo v2", 99.0, seed=0),
    record("MoCo v2", 99.4, seed=1),
    record("Random", 31.0, protocol="detect-tv", metric="AP", engine="torchvision"),
    record("MoCo v2", 30.96, protocol="detect-tv", metric="AP", engine="torchvision"),
]


def test_a_cell_is_mean_and_sample_sd_and_number_of_seeds():
    found = cells(SMALL)
    assert found["Random", "linear-lbfgs digits top1"] == "97.0 ± 1.0 (3)"
    assert found["MoCo v2", "linear-lbfgs digits top1"] == "99.2 ± 0.3 (2)"


def test_a_single_seed_shows_no_spread():
    assert cells(SMALL)["Random", "detect-tv digits AP"] == "31.0 (1)"


def test_deltas_refer_to_the_baseline_and_its_own_row_has_none():
    found = cells(SMALL, baseline="Random")
    assert found["Random", "linear-lbfgs digits top1"] == "97.0 ± 1.0 (3)"
    assert found["MoCo v2", "linear-lbfgs digits top1"] == "99.2 ± 0.3 (2) (+2.2)"
    assert found["MoCo v2", "detect-tv digits AP"] == "31.0 (1) (+0.0)"
    # 97 - 99.2, with a minus sign and not a hyphen.
    assert cells(SMALL, baseline="MoCo v2")["Random", "linear-lbfgs digits top1"].endswith("(−2.2)")


def test_not_run_and_failed_and_preempted_and_a_number_are_told_apart():
    found = cells(
        [
            record("A", 50.0),
            record("B", None, status="failed"),
            record("C", None, status="preempted"),
            record("D", 60.0, dataset="scenes"),
            record("E", None, status="preempted", seed=0),
            record("E", None, status="failed", seed=1),
        ],
        baseline="A",
    )
    column = [found[name, "linear-lbfgs digits top1"] for name in "ABCDE"]
    assert column == ["50.0 (1)", "fail", "–", "–", "fail"]
    # Without the baseline's number there is no delta.
    assert found["D", "linear-lbfgs scenes top1"] == "60.0 (1)"


def test_a_metric_of_a_failed_run_is_not_averaged():
    # A run that ended in NaN keeps its other metrics; none of them may count.
    found = cells([record("A", 50.0), record("A", 1e9, seed=1, status="failed")])
    assert found["A", "linear-lbfgs digits top1"] == "50.0 (1)‡"


def test_the_newest_record_of_a_seed_stands_and_is_no_second_trial():
    found = cells([record("A", -9.0, seed=4), record("A", 50.0, seed=4), record("A", 51.0, seed=5)])
    # (50 + 51) / 2 = 50.5, sample s.d. sqrt(0.25 + 0.25) = 0.707.
    assert found["A", "linear-lbfgs digits top1"] == "50.5 ± 0.7 (2)"


def test_a_seed_that_failed_once_and_then_succeeded_is_a_success():
    found = cells([record("A", None, status="failed"), record("A", 50.0)])
    assert found["A", "linear-lbfgs digits top1"] == "50.0 (1)"


def test_seeds_that_failed_where_others_succeeded_get_a_footnote():
    table = tables.table(
        [record("A", 50.0), *(record("A", None, seed=s, status="failed") for s in (7, 3))],
        baseline=None,
    )
    assert table.frame().loc["A", "linear-lbfgs digits top1"] == "50.0 (1)‡"
    assert table.notes[0] == "‡ linear-lbfgs digits top1, A: failed and not in the mean: seed 3, 7."


def test_a_deviating_cell_is_marked_and_its_footnote_names_the_deviation():
    deviating = {"config": {"num_c": 3, "holdout": 0.2}, "deviations": {"num_c": 3}}
    table = tables.table(
        [record("A", 50.0), record("B", 51.0, **deviating), record("C", 52.0, **deviating)],
        baseline=None,
    )
    assert list(table.frame()["linear-lbfgs digits top1"]) == ["50.0 (1)", "51.0 (1)†", "52.0 (1)†"]
    assert table.notes[0] == "† linear-lbfgs digits top1, B, C: departs from recipe lbfgs: num_c=3."


@pytest.mark.parametrize(
    ("change", "field", "one", "two"),
    [
        ({"weights": "other"}, "encoder.tensor_sha256", "weights of MoCo v2", "other"),
        ({"fingerprint": "f1"}, "dataset.fingerprint", "f0", "f1"),
        ({"config": {"num_c": 7, "holdout": 0.3}}, "config.holdout", "0.2", "0.3"),
        ({"config": {"num_c": 7}}, "config.holdout", "0.2", "absent"),
        ({"config": {"num_c": 3, "holdout": 0.2}, "deviations": {"num_c": 3}}, "num_c", "7", "3"),
    ],
    ids=["weights", "data", "config", "config of another release", "deviation"],
)
def test_records_that_differ_by_more_than_the_seed_are_refused(change, field, one, two):
    first, second = record("MoCo v2", 50.0), record("MoCo v2", 51.0, seed=1, **change)
    with pytest.raises(UsageError) as caught:
        tables.table([first, second], baseline=None)
    text = str(caught.value)
    # Data and recipe are compared over the whole column, weights within the cell.
    assert "under linear-lbfgs@1 on digits cannot be" in text
    assert f"{field} is {one} in {first['name']} (encoder 'MoCo v2')" in text
    assert f"and {two} in {second['name']} (encoder 'MoCo v2')" in text


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"fingerprint": "f1"}, "dataset.fingerprint is f0 in"),
        ({"config": {"num_c": 7, "holdout": 0.3}}, "config.holdout is 0.2 in"),
        ({"metric": "AP50"}, "primary metric is top1 in"),
    ],
    ids=["data", "config", "metric"],
)
def test_rows_that_do_not_share_data_metric_and_recipe_are_refused(change, field):
    with pytest.raises(
        UsageError, match="The rows under linear-lbfgs@1 on digits cannot"
    ) as caught:
        tables.table([record("A", 50.0), record("B", 51.0, **change)], baseline=None)
    assert field in str(caught.value)
    assert "(encoder 'B')" in str(caught.value)


def test_versions_and_recipes_have_columns_of_their_own():
    found = tables.table(
        [
            record("A", 50.0),
            record("A", 60.0, version=2),
            record("A", 70.0, recipe="lbfgs-45", config={"num_c": 45}),
        ],
        baseline=None,
    ).frame()
    assert list(found.columns) == [
        "linear-lbfgs@1 lbfgs digits top1",
        "linear-lbfgs@1 lbfgs-45 digits top1",
        "linear-lbfgs@2 lbfgs digits top1",
    ]
    assert list(found.loc["A"]) == ["50.0 (1)", "70.0 (1)", "60.0 (1)"]


def test_rows_can_be_chosen_and_ordered():
    table = tables.table(SMALL, baseline="Random", encoders=["MoCo v2"])
    assert table.encoders == ("MoCo v2",)
    assert table.frame().loc["MoCo v2", "linear-lbfgs digits top1"] == "99.2 ± 0.3 (2) (+2.2)"


def test_an_unknown_encoder_is_refused_and_the_nearest_is_offered():
    with pytest.raises(UsageError, match=r"called 'Moco v2'\. Did you mean 'MoCo v2'\?"):
        tables.table(SMALL, baseline="Moco v2")


def test_no_records_make_no_table():
    with pytest.raises(UsageError, match="no records"):
        tables.table([], baseline=None)


def test_the_footer_says_what_was_run_and_on_which_records():
    *_, protocols, source = tables.table(SMALL, baseline="Random").notes
    assert protocols == PROTOCOLS
    assert source == SOURCE
    changed = tables.table([*SMALL[:-1], record("MoCo v2", 30.96, seed=1)], baseline="Random")
    assert changed.notes[-1] != source


# sha256 of the seven names sorted and joined by line feeds, computed with coreutils.
DIGEST = "59723939fd1e"
PROTOCOLS = (
    "linear-lbfgs digits top1: linear-lbfgs@1, recipe lbfgs, higher is better; "
    "detect-tv digits AP: detect-tv@1, recipe lbfgs, engine torchvision, higher is better."
)
SOURCE = f"7 records, sha256 of their names {DIGEST}; moco-eval {__version__}."
GOLDEN_MD = f"""\
| encoder   |   linear-lbfgs digits top1 |   detect-tv digits AP |
|:----------|---------------------------:|----------------------:|
| Random    |             97.0 ± 1.0 (3) |              31.0 (1) |
| MoCo v2   |      99.2 ± 0.3 (2) (+2.2) |       31.0 (1) (+0.0) |

Cells, in percent: mean ± sample s.d. over seeds (seeds) (difference to Random). \
–: not run; fail: no seed succeeded.

{PROTOCOLS}

{SOURCE}
"""
GOLDEN_LATEX = f"""\
% Needs \\usepackage{{booktabs}} and \\usepackage{{xcolor}}.
\\begin{{tabular}}{{lrr}}
\\toprule
 & linear-lbfgs digits top1 & detect-tv digits AP \\\\
\\midrule
Random & 97.0 $\\pm$ 1.0 (3) & 31.0 (1) \\\\
MoCo v2 & 99.2 $\\pm$ 0.3 (2) (+2.2) & 31.0 (1) (+0.0) \\\\
\\bottomrule
\\end{{tabular}}

\\par\\medskip
{{\\footnotesize
\\begin{{tabular}}{{@{{}}p{{\\linewidth}}@{{}}}}
Cells, in percent: mean $\\pm$ sample s.d. over seeds (seeds) (difference to Random). \
--: not run; fail: no seed succeeded. \\\\
{PROTOCOLS} \\\\
{SOURCE} \\\\
\\end{{tabular}}
}}
"""


@pytest.mark.parametrize(("format", "golden"), [("md", GOLDEN_MD), ("latex", GOLDEN_LATEX)])
def test_a_small_table_is_typeset_to_the_letter(format, golden):
    assert tables.render(tables.table(SMALL, baseline="Random"), format) == golden


@pytest.mark.parametrize("format", ["md", "latex", "csv", "html"])
def test_a_table_made_again_is_the_same_text(format):
    first = tables.render(tables.table(SMALL, baseline="Random"), format)
    assert tables.render(tables.table(list(SMALL), baseline="Random"), format) == first
    assert first.endswith("\n")


def test_latex_escapes_names_and_settings():
    hostile = record("a_b & 50% #1 $x^2", 50.0, config={"lr_max": 3}, deviations={"lr_max": 3})
    text = tables.render(tables.table([hostile], baseline=None), "latex")
    name = r"a\_b \& 50\% \#1 \$x\textasciicircum 2"
    assert f"{name} & 50.0 (1)$^\\dagger$ \\\\" in text
    assert (
        rf"$^\dagger$ linear-lbfgs digits top1, {name}: departs from recipe lbfgs: lr\_max=3."
        in text
    )


def test_markdown_keeps_a_bar_and_a_number_like_name_as_they_are():
    bar = tables.table([record("a|b", 5.0)], baseline=None)
    assert r"| a\|b " in tables.render(bar, "md")
    # As a number it would become 100000.
    number = tables.table([record("1e5", 6.0)], baseline=None)
    assert "| 1e5 " in tables.render(number, "md")


def test_html_escapes_names_and_asks_for_nothing_from_elsewhere():
    text = tables.render(tables.table([record("<script>&", 50.0)], baseline=None), "html")
    assert "&lt;script&gt;&amp;" in text
    for outside in ("<script", "src=", "href=", "url(", "@import", "http"):
        assert outside not in text
    assert "prefers-color-scheme: dark" in text


def test_csv_has_one_line_a_cell_with_its_numbers():
    failed = record("MoCo v2", None, dataset="scenes", status="failed")
    table = tables.table([*SMALL, failed], baseline="Random")
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


def test_an_unknown_format_is_refused():
    with pytest.raises(UsageError, match=r"table format 'markdown'.*csv, html, latex, md"):
        tables.render(tables.table(SMALL, baseline=None), "markdown")  # type: ignore[arg-type]


def test_columns_stand_in_their_fixed_order_whenever_they_were_measured():
    ordered = [*tables.PROTOCOLS, "another", "own"]
    shuffled = [record("mine", 1.0, protocol=protocol) for protocol in sorted(ordered)]
    found = tables.table(shuffled, baseline=None)
    assert [column.protocol for column in found.columns] == ordered


def test_every_protocol_of_this_project_has_its_place_among_the_columns():
    for name in (*suite.IMAGE_PROTOCOLS, *suite.DENSE_PROTOCOLS):
        module = suite.protocol_module(name)
        ids = {recipes.protocol_id(name, recipe) for recipe in module.RECIPES.values()}
        assert ids <= set(tables.PROTOCOLS), name
    assert {"detect-tv", "segment-tv"} <= set(tables.PROTOCOLS)
