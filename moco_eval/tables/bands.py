"""Measured cells against published ones: inside their band, outside it, or without a reference.

The band around a published mean reaches as far on both sides as two of its standard deviations, and
at least as far as a tolerance, half a point unless said otherwise: most papers print one number of
one run. The measured spread widens nothing, so that noisy runs do not pass for good ones. A
reference comes from ``published.csv``, by the row's ``published`` and the column's protocol and
recipe, or from the CSV of another table, by encoder, protocol, version, recipe, data and metric.
A cell that deviates from its recipe has a reference only where that one deviates alike, which no
published one does. Where sources disagree, a cell is inside if it is in the band of any of them.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moco_eval.errors import UsageError
from moco_eval.tables import notes
from moco_eval.tables.layout import RowLayout
from moco_eval.tables.printed import number_of
from moco_eval.tables.reported import reported, sources
from moco_eval.tables.table import Table
from moco_eval.tables.trials import Cell, Place

NUM_SD = 2
INSIDE, OUTSIDE, NO_REFERENCE = "inside", "outside", "no reference"

# A mean that is printed as the band's end is inside, whatever its last binary digit.
_SLACK = 1e-9


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A number to compare with.

    Attributes:
        mean: In percent.
        sd: Its standard deviation; None where none is known.
        text: As it is printed.
        source: Where it is from.
    """

    mean: float
    sd: float | None
    text: str
    source: str

    def reach(self, tolerance: float) -> float:
        """Half the width of the band."""
        return max(NUM_SD * (self.sd or 0.0), tolerance)


Key = tuple[str, Place, str, str]


def read_references(path: Path) -> dict[Key, Reference]:
    """The means of a table that was written with ``--format csv``.

    Raises:
        UsageError: If it cannot be read, or is no such table.
    """
    wanted = {"encoder", *Place._fields, "metric", "mean", "sd", "n", "deviations"}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error
    if missing := sorted(wanted - set(lines[0] if lines else ())):
        raise UsageError(
            f"{path} is no table of moco-eval: it has no column {', '.join(missing)}. Write one"
            " with moco-eval table --format csv."
        )
    return {
        _key_of(line): Reference(
            mean=float(line["mean"]),
            sd=float(line["sd"]) if line["sd"] else None,
            text=" ± ".join(f"{float(line[name]):.2f}" for name in ("mean", "sd") if line[name]),
            source=f"{path.name}, n {line['n']}",
        )
        for line in lines
        if line["mean"]
    }


def check(table: Table, references: Mapping[Key, Reference] | None) -> tuple[list[str], bool]:
    """Compare every cell of a table that has a number.

    Args:
        table: What was measured; its layout has the rows' published numbers and the tolerance.
        references: From another table; None for the published ones.

    Returns:
        A line a cell, then a summary; and whether no cell is outside.
    """
    lines, verdicts = [], Counter[str]()
    rows = [row for row in table.layout.rows if row.encoder]
    names = notes.names_of(table.columns)
    for row, cells in zip(rows, table.cells, strict=True):
        for name, column, cell in zip(names, table.columns, cells, strict=True):
            if cell.mean is None:
                verdicts["not measured"] += 1
                continue
            found = (
                _published(row, column.place, column.metric, cell)
                if references is None
                else _from_table(references, row, column.place, column.metric, cell)
            )
            verdict, line = judge(
                cell, found, tolerance=table.layout.tolerance, decimals=table.layout.decimals
            )
            verdicts[verdict] += 1
            lines.append(f"{verdict:12}  {row.title}, {name}: {line}")
    kinds = (INSIDE, OUTSIDE, NO_REFERENCE, "not measured")
    counts = ", ".join(f"{verdicts[kind]} {kind}" for kind in kinds)
    band = f"±{NUM_SD} s.d. of the reference, at least ±{table.layout.tolerance:g} points"
    return [*lines, f"{counts}. Band: {band}."], not verdicts[OUTSIDE]


def judge(
    cell: Cell, found: Sequence[Reference], *, tolerance: float, decimals: int
) -> tuple[str, str]:
    """The verdict on a cell that has a number, and why; the nearest band of several counts."""
    measured = f"measured {number_of(cell, decimals)}"
    assert cell.mean is not None, "only what has a number is judged"
    if not found:
        why = f"; deviates: {notes.settings(cell.deviations)}" if cell.deviations else ""
        return NO_REFERENCE, f"{measured}{why}"
    mean = cell.mean
    nearest = min(found, key=lambda each: abs(mean - each.mean) - each.reach(tolerance))
    reach = nearest.reach(tolerance)
    is_inside = abs(mean - nearest.mean) <= reach + _SLACK
    low, high = (
        f"{end:.{max(decimals, 2)}f}" for end in (nearest.mean - reach, nearest.mean + reach)
    )
    others = f", the nearest of {len(found)}" if len(found) > 1 else ""
    line = f"{measured}, reference {nearest.text}{others}, band {low} to {high} ({nearest.source})"
    return INSIDE if is_inside else OUTSIDE, line


def _published(row: RowLayout, place: Place, metric: str, cell: Cell) -> list[Reference]:
    if cell.deviations:
        return []
    numbers = reported(row, place, metric)
    return [
        Reference(mean=number.number, sd=number.std, text=number.text, source=source)
        for number, source in zip(numbers, sources(place, numbers), strict=True)
    ]


def _from_table(
    references: Mapping[Key, Reference], row: RowLayout, place: Place, metric: str, cell: Cell
) -> list[Reference]:
    key = (row.encoder, place, metric, notes.settings(cell.deviations))
    return [references[key]] if key in references else []


def _key_of(line: Mapping[str, str]) -> Key:
    place = Place(line["protocol"], int(line["version"]), line["recipe"], line["dataset"])
    return line["encoder"], place, line["metric"], line["deviations"]
