"""The comparison tables of the page: one for each family of protocols, or one by a layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from moco_eval import tables
from moco_eval.errors import UsageError
from moco_eval.tables.grid import Grid
from moco_eval.tables.layout import Layout

Record = Mapping[str, Any]

_DENSE = ("detect", "segment")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One table, or why there is none.

    Attributes:
        name: What its files are called.
        title: What it compares.
        grid: The table; None where its records cannot be compared.
        problem: Why not.
    """

    name: str
    title: str
    grid: Grid | None
    problem: str = ""


def families(records: Sequence[Record]) -> list[tuple[str, str, list[Record]]]:
    """Name, title and records of classification, then of detection and segmentation."""
    dense = [record for record in records if _is_dense(record)]
    others = [record for record in records if not _is_dense(record)]
    parts = (
        ("classification", "Classification", others),
        ("dense", "Detection and segmentation", dense),
    )
    return [part for part in parts if part[2]]


def compare(
    records: Sequence[Record], layout: Layout, *, is_given: bool = False
) -> list[Comparison]:
    """The tables of these records; those whose records cannot be compared say why.

    Args:
        records: Oldest first.
        layout: Rows, baseline and what else the tables have; a family without the baseline has no
            deltas.
        is_given: Whether the layout says which table is wanted, which is then the only one.
    """
    if is_given:
        title = layout.title or "As laid out"
        return [_compared("layout", title, records, layout)]
    made = []
    for name, title, own in families(records):
        known = {record["encoder"]["id"] for record in own}
        here = replace(
            layout,
            rows=tuple(row for row in layout.rows if row.encoder in known),
            baseline=layout.baseline if layout.baseline in known else "",
        )
        made.append(_compared(name, title, own, here))
    return made


def _compared(name: str, title: str, records: Sequence[Record], layout: Layout) -> Comparison:
    try:
        grid = tables.table(records, layout).grid()
    except UsageError as problem:
        return Comparison(name=name, title=title, grid=None, problem=str(problem))
    # The page says the title above the table.
    return Comparison(name=name, title=title, grid=replace(grid, title=""))


def _is_dense(record: Record) -> bool:
    return str(record["protocol"]["id"]).startswith(_DENSE)
