"""A grid as Markdown, LaTeX or CSV; ``typeset.html`` and ``html_table`` come from ``page``.

Markup goes into cells as characters that no name can hold; a library escapes the text around
them, and only then do they become commands.
"""

from __future__ import annotations

import csv as csv_module
import io
import re
from collections.abc import Sequence
from itertools import accumulate

import pandas as pd
from tabulate import tabulate

from moco_eval.tables.grid import Entry, Grid, Row
from moco_eval.tables.page import COLOURED, LIGHT, html, html_table, printable

__all__ = ["csv", "html", "html_table", "latex", "markdown"]

# Private characters, which ``printable`` takes out of names: each becomes a LaTeX command.
_END, _BOLD, _GREY, _BETTER, _WORSE, _RULE, _NEXT, _NOT = map(chr, range(0xE000, 0xE008))
_COMMANDS = {
    _END: "}",
    _BOLD: r"\textbf{",
    _GREY: r"\textcolor{gray}{",
    _BETTER: rf"\textcolor[HTML]{{{LIGHT['better']}}}{{",
    _WORSE: rf"\textcolor[HTML]{{{LIGHT['worse']}}}{{",
    _RULE: "\\midrule\n",
    _NEXT: "",
    _NOT: "{}",
}

# Left as they are by pandas, and not in the font of every LaTeX engine, or another glyph there.
_SYMBOLS = {
    **{"±": r"$\pm$", "–": "--", "—": "---", "−": "$-$", "×": r"$\times$", "·": r"$\cdot$"},
    **{"†": r"$^\dagger$", "‡": r"$^\ddagger$", "§": r"$^\S$", "¶": r"$^\P$"},
    **{"→": r"$\rightarrow$", "↑": r"$\uparrow$", "↓": r"$\downarrow$"},
    **{"≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$", "∞": r"$\infty$"},
    **{"α": r"$\alpha$", "β": r"$\beta$", "τ": r"$\tau$", "Δ": r"$\Delta$", "µ": r"$\mu$"},
    **{"|": r"\textbar{}", "<": r"\textless{}", ">": r"\textgreater{}", "…": r"\ldots{}"},
}

# What LaTeX would read as a command: a dash of two hyphens, an option of the line before.
_COMMAND = re.compile("^(?=[*[])|(?<=-)(?=-)")

# What GitHub would read as markup; a bar would end the cell. An underscore within a word is safe.
_MARKUP = re.compile(r"[\\`*<>|~\[\]]|(?<![^\W_])_|_(?![^\W_])|&(?=[#\w]+;)")


def markdown(grid: Grid) -> str:
    """A table in GitHub's Markdown, its title above it, each note a paragraph under it.

    Published rows are in italics, as there is no grey; a group stands above its column's title.
    """
    headings = [_markup(grid.corner)]
    for group, title in zip(_group_of_each_column(grid), grid.columns, strict=True):
        headings.append("<br>".join(_markup(part) for part in (group, title) if part))
    cells = [
        [_row_label(row), *(_markdown_cell(row, entry) for entry in row.entries)]
        for row in grid.rows
    ]
    body = tabulate(
        cells,
        headers=headings,
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left", *["right"] * len(grid.columns)],
    )
    title = [f"**{_markup(grid.title)}**"] if grid.title else []
    return "\n\n".join([*title, body, *map(_markup, grid.notes)]) + "\n"


def latex(grid: Grid) -> str:
    r"""Two tabulars, the table (booktabs) and its notes, both escaped by pandas.

    With a title they are a float of their own with a caption; without, they can be put into one.
    pdfLaTeX sets Latin letters with any accent; for others, such as 漢, the text begins with a
    comment that asks for XeLaTeX or LuaLaTeX and a font that has them.
    """
    labels = [(_RULE if row.has_rule else "") + _wrapped(row, row.label) for row in grid.rows]
    cells = [[_latex_cell(row, entry) for entry in row.entries] for row in grid.rows]
    frame = pd.DataFrame(cells, index=pd.Index(labels), columns=_column_index(grid))
    style = frame.style.format(escape="latex")
    style = style.format_index(escape="latex", axis=0).format_index(escape="latex", axis=1)
    layout = "l" + "r" * len(grid.columns)
    body = style.to_latex(hrules=True, multicol_align="c", column_format=layout)
    if grid.groups:
        body = body.replace("\\\\\n", f"\\\\\n{_rules_under_groups(grid)}\n", 1)
    notes = _escaped([_plain(note) for note in (*grid.notes, *_on_colour(grid))])
    text = f"{body}\n\\par\\medskip\n{{\\footnotesize\n{notes}}}\n"
    if grid.title:
        caption = _escaped([_plain(grid.title)]).splitlines()[1].removesuffix(r" \\")
        text = f"\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n{text}\\end{{table}}\n"
    for character, command in (_SYMBOLS | _COMMANDS).items():
        text = text.replace(character, command)
    strange = sorted({character for character in text if ord(character) > 0x17F})
    needs = "% Needs \\usepackage{booktabs} and \\usepackage{xcolor}.\n"
    if strange:
        needs += f"% Has {' '.join(strange)}: for XeLaTeX or LuaLaTeX with a font of them.\n"
    return needs + text


def csv(grid: Grid) -> str:
    """One line a cell: its row, whether that is published, its column, its text and its value."""
    file = io.StringIO()
    writer = csv_module.writer(file, lineterminator="\n")
    writer.writerow(["row", "kind", "group", "column", "text", "delta", "marks", "value"])
    for row in grid.rows:
        kind = "published" if row.is_published else "measured"
        for group, column, entry in zip(
            _group_of_each_column(grid), grid.columns, row.entries, strict=True
        ):
            value = "" if entry.value is None else round(float(entry.value), 6)
            place = [row.label, kind, group, column]
            writer.writerow([*place, entry.text, entry.delta, entry.marks, value])
    return file.getvalue()


def _group_of_each_column(grid: Grid) -> list[str]:
    if not grid.groups:
        return [""] * len(grid.columns)
    return [name for name, span in grid.groups for _ in range(span)]


def _markup(text: str) -> str:
    return _MARKUP.sub(lambda found: f"\\{found[0]}", printable(text))


def _row_label(row: Row) -> str:
    return f"*{_markup(row.label)}*" if row.is_published else _markup(row.label)


def _markdown_cell(row: Row, entry: Entry) -> str:
    text = _markup(entry.text)
    text = f"*{text}*" if row.is_published and text else text
    text = f"**{text}**" if entry.bold else text
    return text + (f" ({entry.delta})" if entry.delta else "") + _markup(entry.marks)


def _plain(text: str) -> str:
    return _COMMAND.sub(_NOT, printable(text))


def _wrapped(row: Row, text: str) -> str:
    text = _plain(text)
    return f"{_GREY}{text}{_END}" if row.is_published and text else text


def _latex_cell(row: Row, entry: Entry) -> str:
    text = _wrapped(row, entry.text)
    text = f"{_BOLD}{text}{_END}" if entry.bold else text
    if entry.delta:
        colour = {"better": _BETTER, "worse": _WORSE, "": ""}[entry.tone]
        text += f" {colour}({printable(entry.delta)}){_END if colour else ''}"
    return text + printable(entry.marks)


def _column_index(grid: Grid) -> pd.Index:
    titles = [_plain(title) for title in grid.columns]
    if not grid.groups:
        plain: pd.Index = pd.Index(titles)
        return plain
    # Neighbouring groups of one name stay two.
    groups = [
        _plain(name) + _NEXT * (number % 2)
        for number, (name, span) in enumerate(grid.groups)
        for _ in range(span)
    ]
    index: pd.Index = pd.MultiIndex.from_arrays([groups, titles])
    return index


def _rules_under_groups(grid: Grid) -> str:
    ends = list(accumulate((span for _, span in grid.groups), initial=1))
    return " ".join(
        f"\\cmidrule(lr){{{start + 1}-{end}}}"
        for (name, _), start, end in zip(grid.groups, ends, ends[1:], strict=False)
        if name
    )


def _escaped(lines: Sequence[str]) -> str:
    """A tabular of one column, as wide as the page."""
    style = pd.DataFrame({"note": lines}).style.format(escape="latex")
    style = style.hide(axis="index").hide(axis="columns")
    text: str = style.to_latex(column_format=r"@{}p{\linewidth}@{}")
    return text


def _on_colour(grid: Grid) -> tuple[str, ...]:
    toned = any(entry.tone for row in grid.rows for entry in row.entries)
    return (COLOURED,) if toned else ()
