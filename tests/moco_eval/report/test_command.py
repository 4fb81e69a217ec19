"""The command, and the document that it writes for LaTeX."""

import shutil
import subprocess
from dataclasses import replace

import pytest

from moco_eval.cli import parser_of
from moco_eval.errors import OutputError, UsageError
from moco_eval.report import command
from moco_eval.report.document import MAX_LINES, latex
from moco_eval.tables.grid import Entry, Grid, Row


@pytest.fixture
def make(store, tmp_path, monkeypatch):
    """Run the command on ``store`` in a folder of its own; more options as told."""
    monkeypatch.chdir(tmp_path)

    def run(*options):
        wanted = ["--results", str(store / "results"), "--output", "report.html", *options]
        command.run(parser_of("report").parse_args(wanted))
        return (tmp_path / "report.html").read_text()

    return run


def test_the_command_writes_the_page_and_says_how_large_it_is(make, store, capsys):
    page = make("--work", str(store / "work"))
    said = capsys.readouterr()
    assert said.out.startswith("report.html: 3 encoders, 13 pictures, ")
    assert said.out.endswith(" MiB.\n")
    # The copy of a record under a name that is not its own is told of, here and on the page.
    assert "is left out" in said.err
    assert "is left out" in page


def test_encoders_are_shown_in_the_order_in_which_they_are_asked_for(make):
    page = make("--encoders", "MoCo v2", "random init", "--pictures", "none")
    order = [page.index(f'href="#encoder-{n}-') for n in (1, 2)]
    assert order == sorted(order)
    assert "#encoder-1-moco-v2" in page
    assert "#encoder-3" not in page


def test_a_layout_is_the_only_table(make, tmp_path):
    (tmp_path / "layout.toml").write_text(
        'title = "Only kNN"\n[[columns]]\nprotocol = "knn"\ntitle = "20-NN"\n'
    )
    page = make("--layout", "layout.toml", "--pictures", "none")
    assert "Only kNN" in page
    assert "20-NN" in page
    assert "Detection and segmentation" not in page


def test_a_row_of_a_layout_without_records_is_refused(make, tmp_path):
    (tmp_path / "layout.toml").write_text('[[rows]]\nencoder = "MoCo v3"\n')
    with pytest.raises(UsageError, match="Did you mean 'MoCo v2'"):
        make("--layout", "layout.toml")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--baseline", "MoCo v3"), "There is no encoder .* Did you mean 'MoCo v2'"),
        (("--encoders", "raw"), "There is no encoder in these records called 'raw'"),
        (("--pictures", "some"), "There is no choice of pictures 'some'"),
        (("--work", "nowhere"), "--work nowhere is no folder. Give the one"),
    ],
)
def test_an_option_that_names_what_is_not_there_is_refused(make, tmp_path, options, said):
    with pytest.raises(UsageError, match=said):
        make(*options)
    assert not (tmp_path / "report.html").exists()


def test_a_page_that_cannot_be_written_is_an_output_error(make, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        make("--output", "file/report.html", "--pictures", "none")


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="there is no pdflatex to compile it with")
def test_the_document_compiles_whatever_the_names_hold(make, store, tmp_path):
    make("--work", str(store / "work"), "--latex", "report.tex", "--baseline", "random init")
    text = (tmp_path / "report.tex").read_text()
    assert r"\toprule" in text
    ended = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    log = (tmp_path / "report.log").read_text(errors="replace")
    assert ended.returncode == 0, log[-2000:]
    # Nothing runs over the margin or off the page.
    assert "Overfull" not in log
    assert "too large" not in log
    assert (tmp_path / "report.pdf").stat().st_size > 20_000


def wide(num_rows, num_columns):
    entries = tuple(Entry(text="12.3 ± 4.5 (5)", value=12.3) for _ in range(num_columns))
    return Grid(
        title="wide",
        columns=tuple(f"column {number}" for number in range(num_columns)),
        rows=tuple(Row(label=f"row {number}", entries=entries) for number in range(num_rows)),
        notes=("the note",),
        higher_better=(True,) * num_columns,
        groups=(("left", 2), ("right", num_columns - 2)),
    )


def test_a_table_too_large_for_a_page_is_parted_and_its_notes_stand_under_the_last(report):
    comparison = replace(report.comparisons[0], title="wide", grid=wide(MAX_LINES + 1, 20))
    text = latex(replace(report, comparisons=(comparison,), sections=(), problems=()), {})
    parts = text.split(r"\begin{table}")[2:]
    # 7 characters of a label and 17 of a column, of 150: 8 columns, so three times two parts.
    assert len(parts) == 6
    assert [part.count("the note") for part in parts] == [0] * 5 + [1]
    assert "wide (1 of 6)" in parts[0]
    for number in range(20):
        assert text.count(f"column {number} ") + text.count(f"column {number}\\") == 2
    # The headings over columns are cut with them.
    assert r"\multicolumn{2}{c}{left}" in parts[0]
    assert r"\multicolumn{2}{c}{left}" not in parts[2]
