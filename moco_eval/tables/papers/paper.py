"""A paper's table as data: which published number stands in which cell, and what measures it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from moco_eval.published import PublishedNumber, matching

Where = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class PaperColumn:
    """One column of numbers.

    Attributes:
        heading: As the paper prints it, or nearly.
        group: What stands above it and its neighbours; may be empty.
        where: What ``published.csv`` says of its numbers: at least protocol, data set and metric.
        arch: A pattern of the architectures that belong into it; empty for all.
        is_measured: Whether one of our runs can fill it: not where columns are settings of
            pretraining, or methods.
        higher_better: Its direction.
    """

    heading: str
    group: str = ""
    where: Where
    arch: str = ""
    is_measured: bool = True
    higher_better: bool = True

    @property
    def key(self) -> str:
        """The name by which rows speak of it."""
        return f"{self.group} {self.heading}".strip()


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """One row of numbers.

    Attributes:
        label: As the paper calls it, and unlike all others of the table.
        where: What ``published.csv`` says of its numbers, over what the columns say.
        facts: What the table says of the encoder itself: one text a heading of ``facts``.
        cells: By the key of a column: what else holds there, or None if the paper prints nothing.
        has_deltas: Whether the paper prints differences to the baseline beside its numbers.
        has_rule: Whether a line is drawn above it.
    """

    label: str
    where: Where = field(default_factory=dict)
    facts: tuple[str, ...] = ()
    cells: Mapping[str, Where | None] = field(default_factory=dict)
    has_deltas: bool = False
    has_rule: bool = False


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table of a paper.

    Attributes:
        id: Such as ``moco-v1/table2``.
        title: What it shows.
        source: The paper, and where in it the table is.
        columns: Of numbers, from the left.
        rows: From the top.
        where: What ``published.csv`` says of all its numbers.
        corner: What the rows are.
        facts: Headings of columns of text before the numbers.
        baseline: The label of the row that differences are taken from; empty for none.
        notes: What a reader must know besides.
    """

    id: str
    title: str
    source: str
    columns: tuple[PaperColumn, ...]
    rows: tuple[PaperRow, ...]
    where: Where = field(default_factory=dict)
    corner: str = "pretraining"
    facts: tuple[str, ...] = ()
    baseline: str = ""
    notes: tuple[str, ...] = ()

    def number(self, row: PaperRow, column: PaperColumn) -> PublishedNumber | None:
        """The number in a cell; None where the paper prints nothing."""
        own = row.cells.get(column.key, {})
        if own is None:
            return None
        where = {**self.where, **column.where, **row.where, **own}
        found = matching(where)
        place = f"{self.id}, row '{row.label}', column '{column.key}'"
        assert len(found) == 1, f"{place}: {len(found)} published numbers, not one, have {where}"
        return found[0]


def nothing(*columns: str) -> dict[str, None]:
    """Cells in which the paper prints nothing."""
    return dict.fromkeys(columns)


def triple(
    group: str, protocol: str, dataset: str, metrics: tuple[str, ...], **where: str
) -> tuple[PaperColumn, ...]:
    """Neighbouring columns of one procedure; a metric may say after a colon how it is printed."""
    columns = []
    for metric in metrics:
        name, _, heading = metric.partition(":")
        place = {"protocol": protocol, "dataset": dataset, "metric": name}
        columns.append(PaperColumn(heading=heading or name, group=group, where={**place, **where}))
    return tuple(columns)
