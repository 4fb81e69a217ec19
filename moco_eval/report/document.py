"""A report as a LaTeX document of booktabs tables, for pdflatex."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby

from moco_eval.canvas import shorten
from moco_eval.report.content import Report
from moco_eval.report.section import Section
from moco_eval.tables import typeset
from moco_eval.tables.grid import Entry, Grid, Row

# What a page in landscape holds beside and below each other, in small print.
MAX_CHARACTERS = 150
MAX_LINES = 28
# Beyond Latin letters with accents pdfLaTeX knows no letter by itself.
_LAST_KNOWN = 0x17F
_BETWEEN_COLUMNS = 3

_DOCUMENT = r"""%% Compile with pdflatex; the pictures lie beside this file.
\documentclass[10pt,a4paper]{article}
\usepackage[utf8]{inputenc}
%(fonts)s\usepackage[landscape,margin=12mm]{geometry}
\usepackage{booktabs}
\usepackage{xcolor}
\usepackage{graphicx}
\usepackage{float}
\usepackage[font=small]{caption}
\floatplacement{table}{H}
\floatplacement{figure}{H}
\setlength{\parindent}{0pt}
%(letters)s\begin{document}
\small
\section*{How well the encoders transfer}
%(body)s
\end{document}
"""

# Accented letters need them; without any, the fonts that every installation has will do.
_FONTS = r"""\usepackage[T1]{fontenc}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
"""

# Only pdfLaTeX has to be told; other engines take such letters from their font.
_LETTER = (
    r"\ifdefined\DeclareUnicodeCharacter\DeclareUnicodeCharacter{%(code)s}"
    r"{\texttt{U+%(code)s}}\fi"
)


def latex(report: Report, pictures: Mapping[str, str]) -> str:
    """The document.

    Args:
        report: Its content.
        pictures: Of each of the report's pictures that is to be shown, by name, its file.
    """
    parts = [_laid(_pairs("What was measured", report.facts))]
    for each in report.comparisons:
        grid = each.grid or _said(f"No table: {each.problem}")
        parts.append(_laid(replace(grid, title=each.title)))
    shown = [picture for picture in report.pictures if picture.name in pictures]
    if shown:
        parts.append("\\clearpage\n\\section*{At a glance}")
    for picture in shown:
        size = "width=\\linewidth,height=0.8\\textheight,keepaspectratio"
        name = pictures[picture.name]
        parts.append(f"\\begin{{center}}\n\\includegraphics[{size}]{{{name}}}\n\\end{{center}}")
    if report.sections:
        parts.append("\\clearpage\n\\section*{Encoders}")
    parts += [_encoder(section) for section in report.sections]
    if report.problems:
        parts.append(_laid(replace(_said(*report.problems), title="Left out")))
    body = "\n".join(parts)
    strange = sorted({letter for letter in body if ord(letter) > _LAST_KNOWN})
    letters = "".join(_LETTER % {"code": f"{ord(letter):04X}"} + "\n" for letter in strange)
    has_accents = any(0x7F < ord(letter) <= _LAST_KNOWN for letter in body)
    fonts = _FONTS if has_accents else ""
    return _DOCUMENT % {"fonts": fonts, "letters": letters, "body": body}


def _pairs(title: str, rows: tuple[tuple[str, str], ...]) -> Grid:
    """A grid of names and values."""
    return Grid(
        title=title,
        corner="fact",
        columns=("value",),
        rows=tuple(Row(label=n, entries=(Entry(text=shorten(v, 110)),)) for n, v in rows),
        notes=(),
        higher_better=(True,),
    )


def _said(*sentences: str) -> Grid:
    """A grid of nothing but notes."""
    return Grid(columns=(), rows=(), notes=sentences, higher_better=(), corner="")


def _encoder(section: Section) -> str:
    failures = tuple(f"Failed or stopped: {failure}" for failure in section.failures)
    results = section.results or _said("No run succeeded.")
    results = replace(results, notes=(*results.notes, *failures), title=section.name)
    parts = [results]
    if section.metrics:
        parts.append(replace(section.metrics, title=f"{section.name}: all metrics"))
    for manifest in section.manifests:
        rows = tuple((f"{head}: {name}", value) for head, own in manifest for name, value in own)
        parts.append(_pairs(f"{section.name}: manifest", rows))
    return "\n".join(_laid(grid) for grid in parts)


def _laid(grid: Grid) -> str:
    """A grid in parts that fit a page, the notes under the last."""
    parts = [low for part in _columns(grid) for low in _rows(part)]
    count = len(parts)
    laid = []
    for number, part in enumerate(parts, start=1):
        title = f"{grid.title} ({number} of {count})" if count > 1 else grid.title
        notes = grid.notes if number == count else ()
        laid.append(typeset.latex(replace(part, title=title, notes=notes)))
    return "\n".join(laid)


def _rows(grid: Grid) -> Iterator[Grid]:
    for start in range(0, max(1, len(grid.rows)), MAX_LINES):
        yield replace(grid, rows=grid.rows[start : start + MAX_LINES])


def _columns(grid: Grid) -> Iterator[Grid]:
    """Neighbouring columns that fit beside the labels, at least one at a time."""
    left = max([len(grid.corner), *(len(row.label) for row in grid.rows)]) + _BETWEEN_COLUMNS
    widths = [_width(grid, column) for column in range(len(grid.columns))]
    start = 0
    while start < len(widths) or start == 0:
        stop, used = start + 1, left + sum(widths[start : start + 1])
        while stop < len(widths) and used + widths[stop] <= MAX_CHARACTERS:
            used += widths[stop]
            stop += 1
        yield _cut(grid, start, stop)
        start = stop


def _width(grid: Grid, column: int) -> int:
    cells = [row.entries[column] for row in grid.rows]
    texts = [
        f"{cell.text} ({cell.delta}){cell.marks}" if cell.delta else cell.text for cell in cells
    ]
    return max([len(grid.columns[column]), *map(len, texts)]) + _BETWEEN_COLUMNS


def _cut(grid: Grid, start: int, stop: int) -> Grid:
    names = [(place, name) for place, (name, span) in enumerate(grid.groups) for _ in range(span)]
    groups = tuple((name, len(list(own))) for (_, name), own in groupby(names[start:stop]))
    return replace(
        grid,
        columns=grid.columns[start:stop],
        higher_better=grid.higher_better[start:stop],
        groups=groups,
        rows=tuple(replace(row, entries=row.entries[start:stop]) for row in grid.rows),
    )
