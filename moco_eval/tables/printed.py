"""A table's cells as they are printed: a grid for ``typeset``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from moco_eval.published import PublishedNumber
from moco_eval.tables import notes
from moco_eval.tables.columns import Column
from moco_eval.tables.costs import CostColumn, three_digits
from moco_eval.tables.grid import Entry, Grid, Row
from moco_eval.tables.layout import Layout
from moco_eval.tables.reported import reported, sources
from moco_eval.tables.trials import Cell

# A difference of so many points is coloured.
COLOURED_FROM = 0.5


def grid_of(
    layout: Layout,
    columns: Sequence[Column],
    cells: Sequence[Sequence[Cell]],
    *,
    costs: Sequence[CostColumn],
    footer: Sequence[str],
) -> Grid:
    """Print a table.

    Args:
        layout: With all its rows.
        columns: The columns of cells.
        cells: One row for each row of the layout that has an encoder.
        costs: Columns to the right of them.
        footer: The notes under the table.
    """
    measured = iter(enumerate(cells))
    rows: list[Row] = []
    said: list[str] = []
    for row in layout.rows:
        if row.encoder:
            line, own = next(measured)
            entries = [_entry(*each, layout.decimals) for each in zip(own, columns, strict=True)]
            entries += [_cost_entry(cost.values[line]) for cost in costs]
        else:
            found = [reported(row, column.place, column.metric) for column in columns]
            from_papers = [
                source
                for column, numbers in zip(columns, found, strict=True)
                for source in sources(column.place, numbers)
            ]
            if from_papers:
                said.append(f"Published, {row.title}: {'; '.join(dict.fromkeys(from_papers))}.")
            entries = [_published_entry(each) for each in found]
            entries += [Entry(text="")] * len(costs)
        rows.append(
            Row(
                label=row.title,
                entries=tuple(entries),
                is_published=not row.encoder,
                has_rule=row.rule,
            )
        )
    return Grid(
        title=layout.title,
        groups=_spans([*(c.group for c in columns), *(c.group for c in costs)]),
        columns=(*(c.title for c in columns), *(c.title for c in costs)),
        rows=tuple(rows),
        notes=(*said, *footer),
        higher_better=(*(c.higher_better for c in columns), *(False for _ in costs)),
    )


def number_of(cell: Cell, decimals: int) -> str:
    """``mean ± s.d. (n)``, or why there is no number."""
    if cell.mean is None:
        return notes.empty(cell)
    spread = "" if cell.sd is None else f" ± {cell.sd:.{decimals}f}"
    return f"{cell.mean:.{decimals}f}{spread} ({len(cell.by_seed)})"


def _entry(cell: Cell, column: Column, decimals: int) -> Entry:
    entry = Entry(
        text=number_of(cell, decimals),
        bold=cell.is_best,
        marks=notes.marks(cell),
        value=cell.mean,
    )
    if cell.delta is None:
        return entry
    # Rounded first and added to zero, so that -0.04 is not printed as -0.0; and coloured by what
    # is printed.
    delta = round(cell.delta, decimals) + 0.0
    gain = delta if column.higher_better else -delta
    return Entry(
        text=entry.text,
        delta=f"{delta:+.{decimals}f}".replace("-", "−"),
        tone="better" if gain >= COLOURED_FROM else "worse" if gain <= -COLOURED_FROM else "",
        bold=entry.bold,
        marks=entry.marks,
        value=entry.value,
    )


def _cost_entry(value: float | None) -> Entry:
    return Entry(text=notes.NOT_RUN if value is None else three_digits(value), value=value)


def _published_entry(numbers: Sequence[PublishedNumber]) -> Entry:
    """What papers say; several where they say several things."""
    if not numbers:
        return Entry(text="")
    text = " / ".join(dict.fromkeys(number.text for number in numbers))
    return Entry(text=text, value=numbers[0].number)


def _spans(groups: Iterable[str]) -> tuple[tuple[str, int], ...]:
    spans = tuple((name, len(list(same))) for name, same in groupby(groups))
    return spans if any(name for name, _ in spans) else ()
