"""What is typeset: rows of cells that know how they want to look, and the notes under them.

Tables of our records and tables of papers both end as a ``Grid``; ``typeset`` knows nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One cell.

    Attributes:
        text: The number with its spread, or why there is none: ``–`` (not run), ``fail``.
        delta: The difference to the baseline as it is printed, ``+1.3``; empty for none.
        tone: How the delta is coloured: by at least half a point better or worse.
        bold: Whether it is among the best of its column.
        marks: Footnote marks, such as ``†``.
        value: What a reader sorts by; None where there is no number.
    """

    text: str
    delta: str = ""
    tone: Literal["", "better", "worse"] = ""
    bold: bool = False
    marks: str = ""
    value: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One encoder.

    Attributes:
        label: What it is called.
        entries: One a column.
        is_published: Whether a paper says so, and not a record: such rows are grey.
        has_rule: Whether a line is drawn above it, which parts groups of rows.
    """

    label: str
    entries: tuple[Entry, ...]
    is_published: bool = False
    has_rule: bool = False


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table as it is printed.

    Attributes:
        title: What stands above it; may be empty.
        corner: What the labels of the rows are: ``encoder``.
        groups: Headings over neighbouring columns, each with how many it spans, together all
            columns; empty for none.
        columns: The heading of each column.
        rows: The rows, top down.
        notes: Paragraphs under the table: footnotes to the marks, then the footer.
        higher_better: The direction of each column.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    higher_better: tuple[bool, ...]
    title: str = ""
    corner: str = "encoder"
    groups: tuple[tuple[str, int], ...] = ()
