"""Records become the table that a paper would print.

Nothing depends on the clock, on the folder or on the order of equal things, so a table is
byte-identical when it is made again from the same records.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import pandas as pd

from moco_eval import __version__
from moco_eval.errors import UsageError, unknown
from moco_eval.tables import typeset
from moco_eval.tables.grid import Entry, Grid, Row
from moco_eval.tables.trials import Cell, Record, average, primary, require_comparable

# The order of columns: classification from the quickest probe to fine-tuning, then detection, each
# engine beside the other. Others follow by name.
PROTOCOLS = (
    *("linear-lbfgs", "linear-ridge", "linear-sgd", "linear-grid"),
    *("lowshot", "lowshot-finetune", "svm", "svm-lowshot", "knn", "finetune"),
    *("detect", "detect-tv", "segment", "segment-tv"),
    *("segment-semantic", "segment-semantic-linear"),
)

Format = Literal["md", "latex", "csv", "html"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One protocol with one recipe on one data set, by its primary metric.

    Attributes:
        protocol: The id, which names the engine too.
        version: Of the protocol.
        recipe: Its numbers.
        dataset: The data set's id.
        metric: The primary metric; empty where no run got as far as one.
        higher_better: Its direction.
        engines: Who trained the detectors, for protocols that have an engine.
        title: What stands above the column.
    """

    protocol: str
    version: int
    recipe: str
    dataset: str
    metric: str
    higher_better: bool
    engines: tuple[str, ...]
    title: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells by encoder and column, with what a reader must know about them.

    Attributes:
        encoders: The rows, by display name.
        columns: The columns.
        cells: One row an encoder, one cell a column.
        notes: Footnotes to the marks, then the footer.
    """

    encoders: tuple[str, ...]
    columns: tuple[Column, ...]
    cells: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]

    def grid(self) -> Grid:
        """What is printed."""
        rows = [
            Row(label=encoder, entries=tuple(Entry(text=_text(c), value=c.mean) for c in cells))
            for encoder, cells in zip(self.encoders, self.cells, strict=True)
        ]
        return Grid(
            columns=tuple(column.title for column in self.columns),
            rows=tuple(rows),
            notes=self.notes,
            higher_better=tuple(column.higher_better for column in self.columns),
        )

    def frame(self) -> pd.DataFrame:
        """The cells as text, with the encoders as index."""
        frame: pd.DataFrame = pd.DataFrame(
            [[_text(cell) for cell in row] for row in self.cells],
            index=pd.Index(self.encoders, name="encoder"),
            columns=[column.title for column in self.columns],
        )
        return frame

    def tidy(self) -> pd.DataFrame:
        """One line a cell, with its numbers."""
        frame: pd.DataFrame = pd.DataFrame(
            [
                {
                    "encoder": encoder,
                    "protocol": column.protocol,
                    "version": column.version,
                    "recipe": column.recipe,
                    "dataset": column.dataset,
                    "metric": column.metric,
                    "mean": cell.mean,
                    "sd": cell.sd,
                    "n": len(cell.values),
                    "delta": cell.delta,
                    "status": cell.status,
                    "deviations": _settings(cell.deviations),
                }
                for encoder, row in zip(self.encoders, self.cells, strict=True)
                for column, cell in zip(self.columns, row, strict=True)
            ]
        )
        # So that no digit tells in which order numbers were added.
        rounded: pd.DataFrame = frame.round(6)
        return rounded


def table(
    records: Sequence[Record], *, baseline: str | None, encoders: Sequence[str] = ()
) -> Table:
    """Arrange records into a table.

    Args:
        records: As ``store.read_heads`` returns them, oldest first.
        baseline: The encoder whose row the others are compared with; None for no comparison.
        encoders: The rows, in their order; by default all, in order of first appearance.

    Raises:
        UsageError: If there are no records, an encoder is not in them, or records that would share
            a cell or a column differ by more than they may.
    """
    if not records:
        raise UsageError("There are no records to make a table of: evaluate an encoder first.")
    known = _unique(record["encoder"]["id"] for record in records)
    rows = tuple(encoders) or known
    for name in (*rows, *([] if baseline is None else [baseline])):
        if name not in known:
            raise unknown("encoder in these records called", name, known)
    used = [record for record in records if record["encoder"]["id"] in {*rows, baseline}]
    columns = _columns(used)
    trials: dict[tuple[str, Place], list[Record]] = defaultdict(list)
    for record in used:
        trials[record["encoder"]["id"], _place(record)].append(record)

    def row(encoder: str) -> tuple[Cell, ...]:
        return tuple(
            average(trials[encoder, (c.protocol, c.version, c.recipe, c.dataset)]) for c in columns
        )

    cells = tuple(row(encoder) for encoder in rows)
    if baseline is not None:
        reference = row(baseline)
        cells = tuple(
            own if encoder == baseline else _with_deltas(own, reference)
            for encoder, own in zip(rows, cells, strict=True)
        )
    notes = (*_footnotes(rows, columns, cells), *_footer(columns, used, baseline))
    return Table(encoders=rows, columns=columns, cells=cells, notes=notes)


def render(table: Table | Grid, format: Format) -> str:
    """Typeset a table; the text ends with a newline.

    Args:
        table: What ``table`` returned.
        format: ``md`` (GitHub's Markdown), ``latex`` (booktabs), ``csv`` (one line a cell, its
            numbers to six decimals) or ``html`` (a page of its own).

    Raises:
        UsageError: If there is no such format.
    """
    if format == "csv" and isinstance(table, Table):
        text: str = table.tidy().to_csv(index=False, lineterminator="\n")
        return text
    grid = table.grid() if isinstance(table, Table) else table
    renderers = {
        "md": typeset.markdown,
        "latex": typeset.latex,
        "csv": typeset.csv,
        "html": typeset.html,
    }
    if format in renderers:
        return renderers[format](grid)
    raise unknown("table format", format, get_args(Format))


def _unique(names: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(names))


Place = tuple[str, int, str, str]


def _place(record: Record) -> Place:
    protocol = record["protocol"]
    return protocol["id"], protocol["version"], protocol["recipe"], record["dataset"]["id"]


def _reading_order(place: Place) -> tuple[Any, ...]:
    """As papers print them: classification before detection, whenever each was measured."""
    known = place[0] in PROTOCOLS
    return (PROTOCOLS.index(place[0]) if known else len(PROTOCOLS), place)


def _columns(records: Sequence[Record]) -> tuple[Column, ...]:
    """The columns in their fixed order, once their rows are known to be comparable."""
    columns = []
    places = sorted({_place(record) for record in records}, key=_reading_order)
    for place in places:
        done = [r for r in records if _place(r) == place and r["status"] == "ok"]
        metric, higher_better = "", True
        if done:
            require_comparable(done)
            metric, facts = primary(done[0])
            higher_better = facts["higher_better"]
        protocol, version, recipe, dataset = place
        # Version and recipe stand in the footer, and in the title only where it needs them.
        is_unique = [(p[0], p[3]) for p in places].count((protocol, dataset)) == 1
        procedure = protocol if is_unique else f"{protocol}@{version} {recipe}"
        columns.append(
            Column(
                protocol=protocol,
                version=version,
                recipe=recipe,
                dataset=dataset,
                metric=metric,
                higher_better=higher_better,
                engines=_unique(r["protocol"]["engine"] for r in done if r["protocol"]["engine"]),
                title=f"{procedure} {dataset} {metric}".rstrip(),
            )
        )
    return tuple(columns)


def _with_deltas(row: Sequence[Cell], reference: Sequence[Cell]) -> tuple[Cell, ...]:
    return tuple(
        cell
        if cell.mean is None or base.mean is None
        else replace(cell, delta=cell.mean - base.mean)
        for cell, base in zip(row, reference, strict=True)
    )


def _text(cell: Cell) -> str:
    """``mean ± s.d. (n) (delta)`` with its marks, or why there is no number."""
    if cell.mean is None:
        return "fail" if cell.status == "failed" else "–"
    spread = "" if cell.sd is None else f" ± {cell.sd:.1f}"
    # Rounded first and added to zero, so that -0.04 is not printed as -0.0.
    delta = "" if cell.delta is None else f" ({round(cell.delta, 1) + 0.0:+.1f})".replace("-", "−")
    marks = "†" * bool(cell.deviations) + "‡" * bool(cell.failed_seeds)
    return f"{cell.mean:.1f}{spread} ({len(cell.values)}){delta}{marks}"


def _settings(deviations: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={deviations[name]}" for name in sorted(deviations))


def _footnotes(
    encoders: Sequence[str], columns: Sequence[Column], cells: Sequence[Sequence[Cell]]
) -> list[str]:
    """What each mark stands for; encoders that share a note share a line."""
    sharing: dict[tuple[str, str], list[str]] = defaultdict(list)
    for encoder, row in zip(encoders, cells, strict=True):
        for column, cell in zip(columns, row, strict=True):
            if cell.deviations:
                note = f"departs from recipe {column.recipe}: {_settings(cell.deviations)}"
                sharing[f"† {column.title}", note].append(encoder)
            if cell.failed_seeds:
                seeds = ", ".join(map(str, cell.failed_seeds))
                sharing[f"‡ {column.title}", f"failed and not in the mean: seed {seeds}"].append(
                    encoder
                )
    return [
        f"{place}, {', '.join(names)}: {note}." for (place, note), names in sorted(sharing.items())
    ]


def _footer(
    columns: Sequence[Column], records: Sequence[Record], baseline: str | None
) -> list[str]:
    versus = "" if baseline is None else f" (difference to {baseline})"
    protocols = "; ".join(
        f"{c.title}: {c.protocol}@{c.version}, recipe {c.recipe}"
        + "".join(f", engine {engine}" for engine in c.engines)
        + (", higher is better" if c.higher_better else ", lower is better")
        for c in columns
    )
    names = "\n".join(sorted(record["name"] for record in records))
    digest = hashlib.sha256(names.encode()).hexdigest()[:12]
    return [
        f"Cells, in percent: mean ± sample s.d. over seeds (seeds){versus}. –: not run;"
        " fail: no seed succeeded.",
        f"{protocols}.",
        f"{len(records)} records, sha256 of their names {digest}; moco-eval {__version__}.",
    ]
