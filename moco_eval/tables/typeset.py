"""A grid as Markdown, LaTeX, CSV or HTML. Nothing else knows how a table looks."""

from __future__ import annotations

import csv as csv_module
import io
import re

from tabulate import tabulate

from moco_eval.tables.grid import Entry, Grid, Row
from moco_eval.tables.page import html, html_table, printable

__all__ = ["csv", "html", "html_table", "latex", "markdown"]

# What GitHub would read as markup; a bar would end the cell. An underscore within a word is safe.
_MARKUP = re.compile(r"[\\`*<>|~\[\]]|(?<![^\W_])_|_(?![^\W_])|&(?=[#\w]+;)")


def markdown(grid: Grid) -> str:
    """A table in GitHub's Markdown, its title above it, each note a paragraph under it.

    Published rows are in italics, as there is no grey; a group stands above its column's title.
    """
    headings = [_escaped(grid.corner)]
    for group, title in zip(_group_of_each_column(grid), grid.columns, strict=True):
        headings.append("<br>".join(_escaped(part) for part in (group, title) if part))
    cells = [[_label(row), *(_cell(row, entry) for entry in row.entries)] for row in grid.rows]
    body = tabulate(
        cells,
        headers=headings,
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left", *["right"] * len(grid.columns)],
    )
    above = [f"**{_escaped(grid.title)}**"] if grid.title else []
    return "\n\n".join([*above, body, *map(_escaped, grid.notes)]) + "\n"


def latex(grid: Grid) -> str:
    """Two tabulars, the table (booktabs) and its notes.

    With a title they are a float of their own with a caption; without, they can be put into one.
    pdfLaTeX sets Latin letters with any accent; for others, such as 漢, the text begins with a
    comment that asks for XeLaTeX or LuaLaTeX and a font that has them.
    """
    # pandas takes longer to import than a table of another format to make.
    from moco_eval.tables import booktabs

    return booktabs.latex(grid)


def csv(grid: Grid) -> str:
    """One line a cell: its row, whether that is published, its column, its text and its value."""
    file = io.StringIO()
    writer = csv_module.writer(file, lineterminator="\n")
    writer.writerow(["row", "kind", "group", "column", "text", "delta", "marks", "value"])
    groups = _group_of_each_column(grid)
    for row in grid.rows:
        kind = "published" if row.is_published else "measured"
        for group, column, entry in zip(groups, grid.columns, row.entries, strict=True):
            value = "" if entry.value is None else round(float(entry.value), 6)
            place = [row.label, kind, group, column]
            writer.writerow([*place, entry.text, entry.delta, entry.marks, value])
    return file.getvalue()


def _group_of_each_column(grid: Grid) -> list[str]:
    if not grid.groups:
        return [""] * len(grid.columns)
    return [name for name, span in grid.groups for _ in range(span)]


def _escaped(text: str) -> str:
    return _MARKUP.sub(lambda found: f"\\{found[0]}", printable(text))


def _label(row: Row) -> str:
    return f"*{_escaped(row.label)}*" if row.is_published else _escaped(row.label)


def _cell(row: Row, entry: Entry) -> str:
    text = _escaped(entry.text)
    text = f"*{text}*" if row.is_published and text else text
    text = f"**{text}**" if entry.bold else text
    return text + (f" ({entry.delta})" if entry.delta else "") + _escaped(entry.marks)
