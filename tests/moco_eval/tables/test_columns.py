import pytest
from trial_records import record, stored, texts, trials

from moco_eval import recipes, suite, tables
from moco_eval.errors import UsageError
from moco_eval.tables import ColumnLayout, Layout, RowLayout


def titles(records, layout=None):
    grid = tables.table(stored(records), layout).grid()
    groups = [name for name, span in grid.groups for _ in range(span)]
    return list(zip(groups, grid.columns, strict=True))


def test_versions_and_recipes_have_columns_of_their_own():
    records = [
        record("A", 50.0),
        record("A", 60.0, version=2),
        record("A", 70.0, recipe="lbfgs-45", config=(("num_c", 45),)),
    ]
    assert list(texts(tables.table(stored(records))).items()) == [
        (("A", "linear-lbfgs@1 lbfgs top1"), "50.0 (1)"),
        (("A", "linear-lbfgs@1 lbfgs-45 top1"), "70.0 (1)"),
        (("A", "linear-lbfgs@2 lbfgs top1"), "60.0 (1)"),
    ]


def test_columns_stand_in_their_fixed_order_whenever_they_were_measured():
    ordered = [*tables.PROTOCOLS, "another", "own"]
    shuffled = [record("mine", 1.0, protocol=protocol) for protocol in sorted(ordered)]
    found = tables.table(stored(shuffled))
    assert [column.place.protocol for column in found.columns] == ordered


def test_every_protocol_of_this_project_has_its_place_among_the_columns():
    for name in (*suite.IMAGE_PROTOCOLS, *suite.DENSE_PROTOCOLS):
        module = suite.protocol_module(name)
        ids = {recipes.protocol_id(name, recipe) for recipe in module.RECIPES.values()}
        assert ids <= set(tables.PROTOCOLS), name
    assert {"detect-tv", "segment-tv"} <= set(tables.PROTOCOLS)


def test_neighbouring_columns_on_one_data_set_share_a_heading():
    records = [
        record("A", 1.0),
        record("A", 1.0, protocol="knn"),
        record("A", 1.0, protocol="detect", dataset="scenes", metric="AP"),
    ]
    grid = tables.table(stored(records)).grid()
    assert grid.groups == (("digits", 2), ("scenes", 1))
    assert grid.columns == ("linear-lbfgs top1", "knn top1", "detect AP")


MANY = [
    record("A", 1.0, others=(("top5", 5.0),)),
    record("A", 2.0, dataset="other"),
    record("A", 3.0, protocol="knn", others=(("top1_k1", 4.0),)),
]


def test_protocols_and_data_sets_and_metrics_leave_only_their_columns():
    def found(**layout):
        return titles(MANY, Layout(**layout))

    linear, other, knn = ("digits", "linear-lbfgs top1"), ("other", "linear-lbfgs top1"), "knn top1"
    assert found() == [linear, other, ("digits", knn)]
    assert found(protocols=("knn",)) == [("digits", knn)]
    assert found(datasets=("digits",)) == [linear, ("digits", knn)]
    assert found(protocols=("linear-lbfgs",), datasets=("other",)) == [other]
    # In the order asked for; a column that has neither is left out.
    assert found(metrics=("top5", "top1"), datasets=("digits",)) == [
        ("digits", "linear-lbfgs top5"),
        linear,
        ("digits", knn),
    ]
    assert found(metrics=("top1_k1",)) == [("digits", "knn top1_k1")]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"protocols": ("kmn",)}, "no protocol in these records called 'kmn'. Did you mean 'knn'?"),
        ({"datasets": ("digit",)}, "no data set in these records called 'digit'. Did you mean"),
        ({"metrics": ("top2",)}, "no metric in these records called 'top2'. Did you mean 'top"),
        ({"protocols": ("knn",), "datasets": ("other",)}, "No record is of one of these protocols"),
    ],
)
def test_a_filter_that_fits_nothing_is_refused(layout, message):
    with pytest.raises(UsageError) as caught:
        titles(MANY, Layout(**layout))
    assert message in str(caught.value)


def test_a_layouts_columns_have_its_order_metrics_titles_and_groups():
    columns = (
        ColumnLayout(protocol="knn", metric="top1_k1", title="1-NN", group="neighbours"),
        ColumnLayout(protocol="linear-lbfgs", data="other"),
    )
    table = tables.table(stored(MANY), Layout(columns=columns))
    assert texts(table) == {("A", "1-NN"): "4.0 (1)", ("A", "linear-lbfgs top1"): "2.0 (1)"}
    assert table.grid().groups == (("neighbours", 1), ("other", 1))


def test_a_column_that_was_not_run_yet_is_there_and_empty():
    columns = (ColumnLayout(protocol="svm", data="digits"), ColumnLayout(protocol="knn"))
    found = texts(tables.table(stored(MANY), Layout(columns=columns)))
    assert found == {("A", "svm"): "–", ("A", "knn top1"): "3.0 (1)"}


def test_a_column_that_papers_have_and_no_record_is_there_with_their_numbers():
    column = ColumnLayout(
        protocol="linear-sgd", recipe="mocov1", data="imagenet", metric="top1", title="ImageNet"
    )
    where = {"method": "MoCo v1", "architecture": "R50", "pretrain_data": "IN-1M"}
    rows = (RowLayout(encoder="A"), RowLayout(label="paper", published=where))
    table = tables.table(stored(MANY), Layout(columns=(column,), rows=rows))
    assert texts(table) == {("A", "ImageNet"): "–", ("paper", "ImageNet"): "60.6"}
    assert table.notes[-2] == "Protocols: linear-sgd, recipe mocov1, not run."


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"protocol": "linear-lbfg"}, "Did you mean 'linear-lbfgs'?"),
        ({"protocol": "knn", "data": "digts"}, "Did you mean 'digits'?"),
        ({"protocol": "knn", "recipe": "lbfg"}, "Did you mean 'lbfgs'?"),
        (
            {"protocol": "knn", "metric": "top1_k2"},
            "no metric of knn@1 lbfgs on digits in these records called 'top1_k2'",
        ),
        (
            {"protocol": "linear-lbfgs"},
            "The column linear-lbfgs can be linear-lbfgs@1 lbfgs on digits and linear-lbfgs@1 lbfgs"
            " on other, which are never averaged: say which",
        ),
    ],
)
def test_a_layouts_column_that_is_unknown_or_can_be_several_is_refused(column, message):
    with pytest.raises(UsageError) as caught:
        titles(MANY, Layout(columns=(ColumnLayout(**column),)))
    assert message in str(caught.value)


def test_a_layout_that_mixes_versions_is_refused_by_name():
    records = [record("A", 50.0), record("B", 60.0, version=2)]
    mixed = Layout(columns=(ColumnLayout(protocol="linear-lbfgs", data="digits"),))
    with pytest.raises(UsageError, match=r"linear-lbfgs@1 .* and linear-lbfgs@2 .* never averaged"):
        titles(records, mixed)
    one = Layout(columns=(ColumnLayout(protocol="linear-lbfgs", version=2),))
    assert texts(tables.table(stored(records), one)) == {
        ("A", "linear-lbfgs@2 lbfgs top1"): "–",
        ("B", "linear-lbfgs@2 lbfgs top1"): "60.0 (1)",
    }


def test_runs_that_did_not_measure_the_metric_are_told_from_those_that_were_not_run():
    records = [
        record("A", 1.0, others=(("top5", 5.0),)),
        record("B", 2.0),
        record("C", 3.0, protocol="knn"),
    ]
    table = tables.table(stored(records), Layout(metrics=("top5",)))
    assert list(texts(table).values()) == ["5.0 (1)", "n/a", "–"]
    assert any("n/a: run, but this was not measured." in note for note in table.notes)


def test_a_second_metric_of_a_column_is_averaged_over_seeds_too():
    records = [record("A", 0.0, seed=s, others=(("top5", v),)) for s, v in enumerate([4.0, 8.0])]
    # Mean 6, sample s.d. sqrt(4 + 4) = 2.83.
    table = tables.table(stored(records), Layout(metrics=("top5", "top1")))
    assert list(texts(table).values()) == ["6.0 ± 2.8 (2)", "0.0 ± 0.0 (2)"]
    # They are one protocol, said once.
    assert table.notes[-2] == "Protocols: linear-lbfgs@1, recipe lbfgs."


def test_a_column_where_all_failed_stands_without_a_metric():
    records = [record("A", None, status="failed"), *trials("A", [1.0], protocol="knn")]
    assert texts(tables.table(stored(records))) == {
        ("A", "linear-lbfgs"): "fail",
        ("A", "knn top1"): "1.0 (1)",
    }
