import csv
import io
from dataclasses import replace

import pytest
from trial_records import SMALL

from moco_eval import __version__, tables
from moco_eval.tables import Entry, Grid, Layout, Row
from moco_eval.tables.page import DARK, LIGHT
from moco_eval.tables.typeset import csv as as_csv
from moco_eval.tables.typeset import html, html_table, markdown

GRID = Grid(
    title="Transfer",
    corner="encoder",
    groups=(("VOC", 2), ("", 1)),
    columns=("AP", "AP50", "error"),
    higher_better=(True, True, False),
    rows=(
        Row(
            label="ours",
            entries=(
                Entry(text="57.0 ± 0.2 (3)", delta="+1.3", tone="better", bold=True, value=57.0123),
                Entry(text="82.5 (1)", delta="−0.6", tone="worse", marks="†‡", value=82.5),
                Entry(text="–"),
            ),
        ),
        Row(
            label="paper",
            is_published=True,
            has_rule=True,
            entries=(
                Entry(text="55.9", value=55.9),
                Entry(text="81.5", value=81.5),
                Entry(text=""),
            ),
        ),
    ),
    notes=("† departs.",),
)
PROTOCOLS = (
    "Protocols: linear-lbfgs@1, recipe lbfgs; detect-tv@1, recipe lbfgs, engine torchvision."
)
GOLDEN = f"""\
| encoder   |   digits<br>linear-lbfgs top1 |   digits<br>detect-tv AP |
|:----------|------------------------------:|-------------------------:|
| Random    |            **97.0 ± 1.0 (3)** |                 31.0 (1) |
| MoCo v2   |     **99.2 ± 0.3 (2)** (+2.2) |          31.0 (1) (+0.0) |

Cells, in percent: mean ± sample s.d. over seeds (their number); in brackets the difference to \
Random. Higher is better.

Bold: the best mean of a column, and all that Welch's t-test does not find worse (two-sided, alpha \
0.05). A cell of one seed has no spread: it is not bold, nor is any where it is best.

{PROTOCOLS}

"""


def test_a_small_table_is_typeset_to_the_letter():
    # t = 2.2 / sqrt(1 / 3 + 0.08 / 2) = 3.60, with 2.44 degrees of freedom: p = 0.0512, so that
    # both are bold.
    text = tables.render(tables.table(SMALL, Layout(baseline="Random")), "md")
    assert text.startswith(GOLDEN)
    assert text[len(GOLDEN) :].startswith("7 records, sha256 of their names ")
    assert text.endswith(f"; moco-eval {__version__}.\n")


def test_markdown_has_groups_above_titles_and_published_rows_in_italics():
    assert markdown(GRID) == (
        "**Transfer**\n\n"
        "| encoder   |                 VOC<br>AP |       VOC<br>AP50 |   error |\n"
        "|:----------|--------------------------:|------------------:|--------:|\n"
        "| ours      | **57.0 ± 0.2 (3)** (+1.3) | 82.5 (1) (−0.6)†‡ |       – |\n"
        "| *paper*   |                    *55.9* |            *81.5* |         |\n\n"
        "† departs.\n"
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a|b", r"a\|b"),
        ("1e5", "1e5"),  # as a number it would become 100000
        ("AP_mask", "AP_mask"),
        ("_x_ and __y__", r"\_x\_ and \_\_y\_\_"),
        ("a*b*c <b> `x` [y](z) ~w~", r"a\*b\*c \<b\> \`x\` \[y\](z) \~w\~"),
        ("&lt; & &c", r"\&lt; & &c"),
        ("two\nlines\ttabbed", "two lines tabbed"),
        ("\\", "\\\\"),
    ],
)
def test_markdown_shows_a_name_as_it_is(name, shown):
    grid = Grid(
        columns=(name,),
        rows=(Row(label=name, entries=(Entry(text=name),)),),
        notes=(name,),
        higher_better=(True,),
    )
    heading, _, row, _, note = markdown(grid).splitlines()
    assert [part.strip() for part in heading.split(" | ")] == ["| encoder", f"{shown} |"]
    assert [part.strip() for part in row.split(" | ")] == [f"| {shown}", f"{shown} |"]
    assert note == shown


def test_csv_of_a_grid_has_one_line_a_cell():
    lines = list(csv.DictReader(io.StringIO(as_csv(GRID))))
    assert len(lines) == 6
    assert list(lines[0].values()) == (
        ["ours", "measured", "VOC", "AP", "57.0 ± 0.2 (3)", "+1.3", "", "57.0123"]
    )
    assert list(lines[1].values()) == (
        ["ours", "measured", "VOC", "AP50", "82.5 (1)", "−0.6", "†‡", "82.5"]
    )
    assert list(lines[3].values())[:5] == ["paper", "published", "VOC", "AP", "55.9"]
    assert lines[5]["value"] == ""


def test_html_marks_cells_by_class_and_gives_the_numbers_to_sort_by():
    text = html_table(GRID)
    assert text.startswith('<table class="grid">\n<caption>Transfer</caption>\n')
    assert text.endswith("</table>\n")
    for part in (
        '<th scope="colgroup" class="group" colspan="2">VOC</th>\n<td colspan="1"></td>',
        '<th scope="col">encoder</th>',
        '<th scope="col" data-best="high">AP</th>',
        '<th scope="col" data-best="low">error</th>',
        '<th scope="row">ours</th>',
        '<td data-value="57.0123"><strong>57.0 ± 0.2 (3)</strong>'
        ' <span class="delta better">(+1.3)</span></td>',
        '<td data-value="82.5">82.5 (1) <span class="delta worse">(−0.6)</span>'
        '<sup class="marks">†‡</sup></td>',
        '<td class="missing">–</td>',
        '<tr class="published rule">\n<th scope="row">paper</th>\n<td data-value="55.9">55.9</td>',
    ):
        assert part in text.replace("</strong>\n <span", "</strong> <span")


def test_html_escapes_names_and_asks_for_nothing_from_elsewhere():
    hostile = "<script>&\"'"
    entry = Entry(text=hostile, delta=hostile, marks=hostile)
    grid = Grid(
        title=hostile,
        corner=hostile,
        groups=((hostile, 1),),
        columns=(hostile,),
        rows=(Row(label=hostile, entries=(entry,)),),
        notes=(hostile,),
        higher_better=(True,),
    )
    for text in (html(grid), html_table(grid)):
        assert "&lt;script&gt;&amp;&#34;&#39;" in text
        for outside in ("<script", "src=", "href=", "url(", "@import", "http"):
            assert outside not in text
    assert "prefers-color-scheme: dark" in html(grid)


def test_a_page_says_what_colours_mean_where_there_are_any():
    assert "Differences of at least half a point are coloured" in html(GRID)
    plain = replace(GRID, rows=(GRID.rows[1],))
    assert "coloured" not in html(plain)


def luminance(colour):
    """Of ``RRGGBB``, after WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize(("palette", "paper"), [(LIGHT, "ffffff"), (DARK, "14171b")])
def test_coloured_differences_are_readable_on_their_background(palette, paper):
    for colour in palette.values():
        one, two = sorted([luminance(colour), luminance(paper)])
        assert (two + 0.05) / (one + 0.05) > 4.5
