"""The rows that a paper prints, digit by digit, with its differences and what nobody checked."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from moco_eval.published import UNVERIFIED, UNVERIFIED_NOTE, PublishedNumber
from moco_eval.tables.grid import Entry, Row
from moco_eval.tables.papers.paper import PaperRow, PaperTable

HALF_A_POINT = Decimal("0.5")


def published_row(table: PaperTable, row: PaperRow) -> Row:
    """A grey row: facts of the encoder, then numbers as they were printed."""
    assert len(row.facts) in (0, len(table.facts)), f"{table.id}, row '{row.label}': its facts"
    facts = row.facts or ("",) * len(table.facts)
    base = next((each for each in table.rows if each.label == table.baseline), None)
    entries = []
    for column in table.columns:
        number = table.number(row, column)
        reference = table.number(base, column) if base and row.has_deltas else None
        entries.append(_entry(number, reference, higher_better=column.higher_better))
    return Row(
        label=row.label,
        entries=(*(Entry(text=fact) for fact in facts), *entries),
        is_published=True,
        has_rule=row.has_rule,
    )


def signed(difference: Decimal) -> str:
    """With a sign, as papers print it; none of a difference that is nil."""
    return f"{difference:+}".replace("-", "−") if difference else f"{abs(difference)}"


def tone(difference: Decimal, *, higher_better: bool) -> Literal["", "better", "worse"]:
    """How a difference is coloured: by at least half a point better or worse."""
    if abs(difference) < HALF_A_POINT:
        return ""
    return "better" if (difference > 0) == higher_better else "worse"


def notes(table: PaperTable) -> list[str]:
    """The paper, what a reader must know, and where each number is from."""
    numbers = [
        number
        for row in table.rows
        for column in table.columns
        if (number := table.number(row, column))
    ]
    texts = list(table.notes)
    if not all(number.is_verified for number in numbers):
        texts.append(UNVERIFIED_NOTE)
    sources = "; ".join(dict.fromkeys(number.source for number in numbers))
    texts.append(f"Published (grey or italic) by {table.source}. In published.csv: {sources}.")
    return texts


def _entry(
    number: PublishedNumber | None, reference: PublishedNumber | None, *, higher_better: bool
) -> Entry:
    if number is None:
        return Entry(text="")
    marks = "" if number.is_verified else UNVERIFIED
    text = number.text.removesuffix(UNVERIFIED)
    if reference is None:
        return Entry(text=text, marks=marks, value=number.number)
    difference = Decimal(number.value) - Decimal(reference.value)
    return Entry(
        text=text,
        delta=signed(difference),
        tone=tone(difference, higher_better=higher_better),
        marks=marks,
        value=number.number,
    )
