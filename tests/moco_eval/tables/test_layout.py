import pytest

from moco_eval.errors import UsageError
from moco_eval.tables import ColumnLayout, Layout, RowLayout, read_layout
from moco_eval.tables.layout import parse_column

WHOLE = """
title = "What the digits say"
baseline = "random init"
cost = ["wall_s", "params_m"]
decimals = 2
tolerance = 1

[[rows]]
encoder = "MoCo v2"
label = "ours"
rule = true
published = {method = "MoCo v2", pretrain_epochs = 200}

[[columns]]
protocol = "knn"
version = 1
recipe = "knn-20"
data = "digits"
metric = "top1_k1"
title = "1-NN"
group = "all"
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "layout.toml"
        path.write_text(text)
        return path

    return write


def test_a_layout_is_read_from_toml(written):
    row = RowLayout(
        encoder="MoCo v2",
        label="ours",
        rule=True,
        published={"method": "MoCo v2", "pretrain_epochs": "200"},
    )
    column = ColumnLayout(
        protocol="knn",
        version=1,
        recipe="knn-20",
        data="digits",
        metric="top1_k1",
        title="1-NN",
        group="all",
    )
    assert read_layout(written(WHOLE)) == Layout(
        title="What the digits say",
        baseline="random init",
        cost=("wall_s", "params_m"),
        decimals=2,
        tolerance=1,
        rows=(row,),
        columns=(column,),
    )


def test_an_empty_file_is_a_layout_of_everything(written):
    assert read_layout(written("")) == Layout()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("titel = 'x'", "There is no key 'titel'. Did you mean 'title'?"),
        ("[[rows]]\nencodr = 'x'", "[[rows]] 1: There is no key 'encodr'. Did you mean 'encoder'?"),
        (
            "[[columns]]\nprotocol='a'\n[[columns]]\ndataset='x'",
            "[[columns]] 2: There is no key 'dataset'. Did you mean 'data'?",
        ),
        ("[[columns]]\ndata = 'digits'", "[[columns]] 1: protocol is missing."),
        ("[[rows]]\nlabel = 'x'", "[[rows]] 1: A row of a table has an encoder, or published"),
        ("[[rows]]\npublished = {method='x'}", "A row of published numbers alone needs a label."),
        ("[rows]\nencoder = 'x'", "rows is no list of tables: write [[rows]] above each."),
        ("columns = ['knn']", "columns is no list of tables: write [[columns]] above each."),
        ("decimals = '2'", "'2' should be a whole number."),
        ("decimals = true", "True should be a whole number."),
        ("decimals = 9", "A table has 0 to 6 decimals, not 9."),
        ("tolerance = -1", "A tolerance is not negative, as -1 is."),
        ("title = 1", "1 should be text."),
        ("cost = 'wall_s'", "'wall_s' should be a list of texts."),
        ("cost = ['wall']", "There is no cost column 'wall'. Did you mean 'wall_"),
        ("[[rows]]\nencoder = 'x'\nrule = 1", "1 should be true or false."),
        ("[[rows]]\nencoder = 'x'\npublished = 'y'", "'y' should be a table of names and values."),
        ("title =", "is no TOML:"),
    ],
)
def test_what_is_wrong_in_a_file_is_refused_and_the_nearest_key_offered(written, text, message):
    path = written(text)
    with pytest.raises(UsageError) as caught:
        read_layout(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"none\.toml cannot be read: No such file"):
        read_layout(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("knn", {}),
        ("knn@2", {"version": 2}),
        ("knn/knn-20", {"recipe": "knn-20"}),
        ("knn:digits", {"data": "digits"}),
        ("knn:digits:top1_k1", {"data": "digits", "metric": "top1_k1"}),
        ("knn::top1_k1", {"metric": "top1_k1"}),
        (
            "knn@2/knn-20:voc07+12:AP",
            {"version": 2, "recipe": "knn-20", "data": "voc07+12", "metric": "AP"},
        ),
    ],
)
def test_a_column_is_read_from_a_flag_and_printed_as_one(text, column):
    expected = ColumnLayout(protocol="knn", **column)
    assert parse_column(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize("text", ["", ":digits", "knn@x", "knn:digits:top1:more"])
def test_a_flag_that_is_no_column_is_refused(text):
    with pytest.raises(UsageError, match="is not of the form PROTOCOL"):
        parse_column(text)
