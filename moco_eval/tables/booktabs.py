"""A grid as LaTeX, escaped by pandas.

Markup goes into cells as characters that no name can hold; pandas escapes the text around them, and
only then do they become commands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate

import pandas as pd

from moco_eval.tables.grid import Entry, Grid, Row
from moco_eval.tables.page import LIGHT, notes_of, printable

# Private characters, which ``printable`` takes out of names: each becomes a command.
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

# The last letter that pdfLaTeX has in its usual fonts, ž.
_LAST_LETTER = 0x17E

# What LaTeX would read as a command: a dash of two hyphens, an option of the line before.
_COMMAND = re.compile("^(?=[*[])|(?<=-)(?=-)")


def latex(grid: Grid) -> str:
    """The grid as ``typeset.latex`` describes it."""
    labels = [(_RULE if row.has_rule else "") + _wrapped(row, row.label) for row in grid.rows]
    cells = [[_cell(row, entry) for entry in row.entries] for row in grid.rows]
    frame = pd.DataFrame(cells, index=pd.Index(labels), columns=_column_index(grid))
    style = frame.style.format(escape="latex")
    style = style.format_index(escape="latex", axis=0).format_index(escape="latex", axis=1)
    layout = "l" + "r" * len(grid.columns)
    body = style.to_latex(hrules=True, multicol_align="c", column_format=layout)
    if grid.groups:
        body = body.replace("\\\\\n", f"\\\\\n{_rules_under_groups(grid)}\n", 1)
    text = f"{body}\n\\par\\medskip\n{{\\footnotesize\n{_paragraphs(notes_of(grid))}}}\n"
    if grid.title:
        caption = _paragraphs([grid.title]).splitlines()[1].removesuffix(r" \\")
        text = f"\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n{text}\\end{{table}}\n"
    for character, command in (_SYMBOLS | _COMMANDS).items():
        text = text.replace(character, command)
    needs = "% Needs \\usepackage{booktabs} and \\usepackage{xcolor}.\n"
    strange = sorted({character for character in text if ord(character) > _LAST_LETTER})
    if strange:
        needs += f"% Has {' '.join(strange)}: for XeLaTeX or LuaLaTeX with a font of them.\n"
    return needs + text


def _plain(text: str) -> str:
    return _COMMAND.sub(_NOT, printable(text))


def _wrapped(row: Row, text: str) -> str:
    text = _plain(text)
    return f"{_GREY}{text}{_END}" if row.is_published and text else text


def _cell(row: Row, entry: Entry) -> str:
    text = _wrapped(row, entry.text)
    text = f"{_BOLD}{text}{_END}" if entry.bold else text
    if entry.delta:
        colour = {"better": _BETTER, "worse": _WORSE, "": ""}[entry.tone]
        text += f" {colour}({printable(entry.delta)}){_END if colour else ''}"
    return text + printable(entry.marks)


def _column_index(grid: Grid) -> list[str] | pd.MultiIndex:
    titles = [_plain(title) for title in grid.columns]
    if not grid.groups:
        return titles
    # Neighbouring groups of one name stay two.
    groups = [
        _plain(name) + _NEXT * (number % 2)
        for number, (name, span) in enumerate(grid.groups)
        for _ in range(span)
    ]
    index: pd.MultiIndex = pd.MultiIndex.from_arrays([groups, titles])
    return index


def _rules_under_groups(grid: Grid) -> str:
    ends = list(accumulate((span for _, span in grid.groups), initial=1))
    return " ".join(
        f"\\cmidrule(lr){{{start + 1}-{end}}}"
        for (name, _), start, end in zip(grid.groups, ends, ends[1:], strict=False)
        if name
    )


def _paragraphs(texts: Sequence[str]) -> str:
    """A tabular of one column, as wide as the page."""
    style = pd.DataFrame({"text": list(map(_plain, texts))}).style.format(escape="latex")
    style = style.hide(axis="index").hide(axis="columns")
    tabular: str = style.to_latex(column_format=r"@{}p{\linewidth}@{}")
    return tabular
