"""The tables of the papers, laid out as they printed them, with what was measured beside.

Each is data: which row of ``published.csv`` stands in which cell. Nothing is averaged with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from moco_eval.errors import UsageError, unknown
from moco_eval.tables.grid import Grid, Row
from moco_eval.tables.papers import moco_v1, moco_v2, moco_v3, simsiam, transfer
from moco_eval.tables.papers.measured import (
    MeasuredRow,
    entries,
    measured_rows,
    notes_on,
    sources,
)
from moco_eval.tables.papers.paper import PaperTable
from moco_eval.tables.papers.published_rows import notes, published_row
from moco_eval.tables.trials import Record

__all__ = ["TABLES", "grid", "known"]

TABLES: Mapping[str, PaperTable] = {
    table.id: table
    for module in (moco_v1, moco_v2, moco_v3, simsiam, transfer)
    for table in module.TABLES
}


def known() -> dict[str, str]:
    """The ids of all tables, each with its title."""
    return {name: table.title for name, table in TABLES.items()}


def grid(paper_id: str, records: Sequence[Record], *, beside: Mapping[str, str]) -> Grid:
    """Lay out a paper's table with the encoders of ``records`` that have any of its columns.

    Args:
        paper_id: A key of ``known()``, such as ``moco-v1/table2``.
        records: As ``store.read_heads`` returns them; may be empty.
        beside: By the name of a measured encoder, the label of the published row that it is put
            under; all others come below a rule at the end. What is put under the table's baseline
            is what measured differences are taken from.

    Raises:
        UsageError: If there is no such table, row or encoder, or records that would share a cell
            or a column differ by more than they may.
    """
    if paper_id not in TABLES:
        raise unknown("table of a paper", paper_id, TABLES)
    table = TABLES[paper_id]
    ours = measured_rows(table, records)
    _require_beside(table, beside, ours)
    baselines = [
        row for row in ours if table.baseline and beside.get(row.encoder) == table.baseline
    ]
    return Grid(
        title=table.title,
        corner=table.corner,
        groups=_groups(table),
        columns=(*table.facts, *(column.heading for column in table.columns)),
        higher_better=(
            *(True for _ in table.facts),
            *(column.higher_better for column in table.columns),
        ),
        rows=_rows(table, ours, beside, baselines),
        notes=(*notes(table), *notes_on(table, ours, baselines)),
    )


def _require_beside(
    table: PaperTable, beside: Mapping[str, str], ours: Sequence[MeasuredRow]
) -> None:
    labels = [row.label for row in table.rows]
    encoders = dict.fromkeys(row.encoder for row in ours)
    for name, label in beside.items():
        if label not in labels:
            raise unknown(f"row of {table.id} called", label, labels)
        if name not in encoders:
            known_sources = {
                str(s): None for column in table.columns for s in sources(table, column)
            }
            raise UsageError(
                f"No record of an encoder called '{name}' has a column of {table.id}. Encoders "
                f"that have one: {', '.join(encoders) or 'none'}. Its columns are measured by: "
                f"{'; '.join(known_sources) or 'nothing here'}."
            )


def _rows(
    table: PaperTable,
    ours: Sequence[MeasuredRow],
    beside: Mapping[str, str],
    baselines: Sequence[MeasuredRow],
) -> tuple[Row, ...]:
    """Each published row with its measured ones, then the others."""

    def printed(row: MeasuredRow) -> Row:
        return Row(label=row.label, entries=entries(table, row, baselines))

    rows = []
    for row in table.rows:
        rows.append(published_row(table, row))
        rows += [printed(each) for each in ours if beside.get(each.encoder) == row.label]
    others = [printed(each) for each in ours if each.encoder not in beside]
    return (*rows, *(replace(row, has_rule=place == 0) for place, row in enumerate(others)))


def _groups(table: PaperTable) -> tuple[tuple[str, int], ...]:
    names = [*("" for _ in table.facts), *(column.group for column in table.columns)]
    if not any(names):
        return ()
    return tuple((name, len(list(same))) for name, same in groupby(names))
