"""Records become the table that a paper would print.

Nothing depends on the clock, on the folder or on the order of the records, so a table is
byte-identical when it is made again from the same ones.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from moco_eval.errors import UsageError, unknown
from moco_eval.tables import notes, typeset
from moco_eval.tables.columns import Column, columns_of
from moco_eval.tables.costs import CostColumn, cost_columns
from moco_eval.tables.grid import Grid
from moco_eval.tables.layout import Layout, rows_of
from moco_eval.tables.printed import grid_of
from moco_eval.tables.significance import best
from moco_eval.tables.trials import Cell, Place, Record, average, place_of

Format = Literal["md", "latex", "csv", "html"]

ByPlace = Mapping[Place, Sequence[Record]]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells by encoder and column, with what a reader must know about them.

    Attributes:
        layout: What was asked for, with all its rows.
        encoders: The measured rows, by the encoder's id.
        columns: The columns.
        cells: One row an encoder, one cell a column.
        costs: Columns of what the runs cost.
        notes: Footnotes to the marks, then the footer.
    """

    layout: Layout
    encoders: tuple[str, ...]
    columns: tuple[Column, ...]
    cells: tuple[tuple[Cell, ...], ...]
    costs: tuple[CostColumn, ...]
    notes: tuple[str, ...]

    def grid(self) -> Grid:
        """What is printed."""
        return grid_of(self.layout, self.columns, self.cells, costs=self.costs, footer=self.notes)

    def tidy(self) -> list[dict[str, Any]]:
        """One line a cell, with its numbers.

        They are rounded to six decimals, so that no digit tells in which order they were added.
        """
        return [
            {
                "encoder": encoder,
                **column.place._asdict(),
                "metric": column.metric,
                "mean": _rounded(cell.mean),
                "sd": _rounded(cell.sd),
                "n": len(cell.by_seed),
                "delta": _rounded(cell.delta),
                "status": cell.status,
                "deviations": notes.settings(cell.deviations),
                **{
                    cost.name: _rounded(cost.values[row])
                    for cost in self.costs
                    if cost.place in (None, column.place)
                },
            }
            for row, (encoder, cells) in enumerate(zip(self.encoders, self.cells, strict=True))
            for column, cell in zip(self.columns, cells, strict=True)
        ]


def table(
    records: Sequence[Record],
    layout: Layout | None = None,
    *,
    baseline: str | None = None,
    encoders: Sequence[str] = (),
) -> Table:
    """Arrange records into a table.

    Args:
        records: As ``store.read_heads`` returns them; of a seed's successes the newest counts, by
            its name.
        layout: Its rows and columns; by default all.
        baseline: Short for a layout with this baseline.
        encoders: Short for a layout with these rows.

    Raises:
        UsageError: If there are no records, the layout names what is not in them, or records that
            would share a cell or a column differ by more than they may.
    """
    layout = layout or Layout(baseline=baseline or "", rows=rows_of(encoders))
    if not records:
        raise UsageError("There are no records to make a table of: evaluate an encoder first.")
    by_encoder = _grouped(records)
    layout = layout if layout.rows else replace(layout, rows=rows_of(tuple(by_encoder)))
    names = [row.encoder for row in layout.rows if row.encoder]
    used = {}
    for name in (*names, *([layout.baseline] if layout.baseline else [])):
        if name not in by_encoder:
            raise unknown("encoder in these records called", name, by_encoder)
        used[name] = by_encoder[name]

    columns = columns_of(_joined(used), layout)
    places = {column.place: _called(column, columns) for column in columns}
    cells = _cells(names, columns, used, layout)
    costs = cost_columns(layout.cost, places, [used[name] for name in names])
    return Table(
        layout=layout,
        encoders=tuple(names),
        columns=columns,
        cells=cells,
        costs=costs,
        notes=(
            *_notes(layout, columns, cells),
            *notes.on_costs(costs),
            notes.protocols(columns),
            notes.provenance(
                [r for own in used.values() for place in places for r in own.get(place, ())]
            ),
        ),
    )


def render(table: Table | Grid, format: Format) -> str:
    """Typeset a table; the text ends with a newline.

    Args:
        table: What ``table`` returned, or a grid of another origin.
        format: ``md`` (GitHub's Markdown), ``latex`` (booktabs), ``csv`` (one line a cell, its
            numbers to six decimals) or ``html`` (a page of its own).

    Raises:
        UsageError: If there is no such format.
    """
    if format not in get_args(Format):
        raise unknown("table format", format, get_args(Format))
    if isinstance(table, Table):
        if format == "csv":
            return _csv(table.tidy())
        table = table.grid()
    typesetters = {
        "md": typeset.markdown,
        "latex": typeset.latex,
        "csv": typeset.csv,
        "html": typeset.html,
    }
    return typesetters[format](table)


def _grouped(records: Sequence[Record]) -> dict[str, dict[Place, list[Record]]]:
    """The records of each encoder at each place, oldest first, in whatever order they come."""
    by_encoder: dict[str, dict[Place, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in sorted(records, key=lambda record: str(record["name"])):
        by_encoder[record["encoder"]["id"]][place_of(record)].append(record)
    return by_encoder


def _joined(parts: Mapping[str, ByPlace]) -> dict[Place, list[Record]]:
    joined: dict[Place, list[Record]] = defaultdict(list)
    for part in parts.values():
        for place, records in part.items():
            joined[place] += records
    return joined


def _cells(
    names: Sequence[str], columns: Sequence[Column], used: Mapping[str, ByPlace], layout: Layout
) -> tuple[tuple[Cell, ...], ...]:
    """One row an encoder, with deltas and the best of each column."""

    def row(encoder: str) -> list[Cell]:
        return [average(used[encoder].get(c.place, ()), c.metric) for c in columns]

    rows = [row(name) for name in names]
    if layout.baseline:
        reference = row(layout.baseline)
        rows = [
            own if name == layout.baseline else _with_deltas(own, reference)
            for name, own in zip(names, rows, strict=True)
        ]
    for number, column in enumerate(columns):
        values = [own[number].values for own in rows]
        for own, is_best in zip(
            rows, best(values, higher_better=column.higher_better), strict=True
        ):
            own[number] = replace(own[number], is_best=is_best)
    return tuple(map(tuple, rows))


def _with_deltas(row: Sequence[Cell], reference: Sequence[Cell]) -> list[Cell]:
    return [
        cell
        if cell.mean is None or base.mean is None
        else replace(cell, delta=cell.mean - base.mean)
        for cell, base in zip(row, reference, strict=True)
    ]


def _notes(
    layout: Layout, columns: Sequence[Column], cells: Sequence[Sequence[Cell]]
) -> tuple[str, ...]:
    measured = [row for row in layout.rows if row.encoder]
    titles = {row.encoder: row.title for row in measured}
    return (
        *notes.footnotes([row.title for row in measured], columns, cells),
        notes.legend(columns, cells, titles.get(layout.baseline, layout.baseline)),
        *notes.on_bold(cells),
        *notes.on_order(columns, cells),
    )


def _called(column: Column, columns: Sequence[Column]) -> str:
    alike = {c.place for c in columns if c.place.protocol == column.place.protocol}
    return column.place.protocol if len(alike) < 2 else str(column.place)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()
