"""Encoders that were measured here, as rows of a paper's table: beside its numbers, not in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import NamedTuple

from moco_eval.published_addresses import ADDRESSES
from moco_eval.tables import notes
from moco_eval.tables.grid import Entry
from moco_eval.tables.papers.paper import PaperColumn, PaperTable
from moco_eval.tables.papers.published_rows import signed, tone
from moco_eval.tables.printed import number_of
from moco_eval.tables.trials import Cell, Place, Record, average, place_of, require_comparable

OTHER_ENGINE = "¶"


@dataclass(frozen=True)
class Source:
    """What measures a column: a protocol with a recipe on a data set, by a metric."""

    protocol: str
    recipe: str
    dataset: str
    metric: str
    note: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.protocol}, recipe {self.recipe}, on {self.dataset}"


class Trials(NamedTuple):
    """The records of one encoder that make one cell."""

    place: Place
    source: Source
    records: tuple[Record, ...]


@dataclass(frozen=True)
class MeasuredRow:
    """One row of one encoder: by the number of a column, its trials."""

    encoder: str
    label: str
    trials: Mapping[int, Trials]
    cells: Mapping[int, Cell]


def sources(table: PaperTable, column: PaperColumn) -> list[Source]:
    """What measures the same as a column; nothing where we measure nothing of it."""
    where = {**table.where, **column.where}
    # The recipe is the procedure's, whichever methods the column shows.
    where.pop("method", None)
    return [
        Source(
            protocol,
            recipe,
            address.datasets[where["dataset"]],
            address.metrics[where["metric"]],
            address.note,
        )
        for address in ADDRESSES
        if column.is_measured and address.holds(where)
        for protocol in address.protocols
        for recipe in address.recipes
    ]


def measured_rows(table: PaperTable, records: Sequence[Record]) -> list[MeasuredRow]:
    """The rows of the encoders that have any column of the table, in order of their first record.

    An encoder has one row; several where a column takes several of its protocols or recipes.

    Raises:
        UsageError: If records that would share a cell or a column differ by more than they may.
    """
    found: dict[str, dict[int, list[Trials]]] = {}
    ordered = sorted(records, key=lambda record: str(record["name"]))
    by_source: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in ordered:
        place = place_of(record)
        by_source[place.protocol, place.recipe, place.dataset].append(record)
    for number, column in enumerate(table.columns):
        for trials in _trials_of(column, sources(table, column), by_source):
            encoder = trials.records[0]["encoder"]["id"]
            found.setdefault(encoder, {}).setdefault(number, []).append(trials)
    _require_comparable(t for columns in found.values() for own in columns.values() for t in own)
    encoders = dict.fromkeys(record["encoder"]["id"] for record in ordered)
    return [row for name in encoders if name in found for row in _split(name, found[name])]


def entries(
    table: PaperTable, row: MeasuredRow, baselines: Sequence[MeasuredRow] = ()
) -> tuple[Entry, ...]:
    """The cells of a row; with differences where a measured baseline has a number, too."""
    made = [Entry(text="") for _ in table.facts]
    for number, column in enumerate(table.columns):
        if number in row.cells:
            engine = OTHER_ENGINE * row.trials[number].place.protocol.endswith("-tv")
            base = None if row in baselines else _base(row.trials[number].place, number, baselines)
            made.append(_entry(row.cells[number], base, column, engine))
        else:
            made.append(Entry(text=notes.NOT_RUN if sources(table, column) else ""))
    return tuple(made)


def notes_on(
    table: PaperTable, rows: Sequence[MeasuredRow], baselines: Sequence[MeasuredRow]
) -> list[str]:
    """Footnotes to the marks, then how to read measured rows and what they are made of."""
    if not rows:
        return []
    names = ", ".join(dict.fromkeys(row.encoder for row in baselines))
    versus = f"; in brackets the difference to {names}" if names else ""
    used: dict[str, set[int]] = defaultdict(set)
    differs: dict[str, None] = {}
    records: dict[str, Record] = {}
    for row in rows:
        for number, trials in row.trials.items():
            used[_told(trials)].add(number)
            differs |= {trials.source.note: None} if trials.source.note else {}
            records |= {record["name"]: record for record in trials.records}
    absent = {cell.text for row in rows for cell in entries(table, row)} & {*notes.ABSENT}
    reasons = "; ".join(f"{sign}: {why}" for sign, why in notes.ABSENT.items() if sign in absent)
    return [
        *_footnotes(table, rows),
        f"Measured rows, in percent: mean ± sample s.d. over seeds (their number){versus}."
        f"{f' {reasons}.' if reasons else ''} Nothing published is averaged into them.",
        *(f"{told}: {_columns(table, columns)}." for told, columns in used.items()),
        *(f"The paper's numbers beside them are {note}." for note in differs),
        notes.provenance(list(records.values())),
    ]


def _columns(table: PaperTable, numbers: Iterable[int]) -> str:
    """Columns by their headings, each group named once."""
    groups: dict[str, list[str]] = defaultdict(list)
    for number in sorted(numbers):
        groups[table.columns[number].group].append(table.columns[number].heading)
    return "; ".join(
        f"{group}, {' '.join(headings)}" if group else ", ".join(headings)
        for group, headings in groups.items()
    )


def _trials_of(
    column: PaperColumn,
    known: Sequence[Source],
    records: Mapping[tuple[str, str, str], Sequence[Record]],
) -> Iterable[Trials]:
    """All cells that could stand in a column; a version of a protocol is a cell of its own."""
    for source in known:
        found: dict[tuple[str, int], list[Record]] = defaultdict(list)
        for record in records.get((source.protocol, source.recipe, source.dataset), ()):
            has_metric = record["status"] != "ok" or source.metric in record["metrics"]
            is_of_column = fnmatchcase(record["encoder"].get("arch") or "", column.arch or "*")
            if has_metric and is_of_column:
                version = record["protocol"]["version"]
                found[record["encoder"]["id"], -version].append(record)
        for _, own in sorted(found.items(), key=lambda item: item[0]):
            yield Trials(place_of(own[0]), source, tuple(own))


def _require_comparable(cells: Iterable[Trials]) -> None:
    by_place: dict[Place, dict[str, Record]] = defaultdict(dict)
    for trials in cells:
        done = {r["name"]: r for r in trials.records if r["status"] == "ok"}
        by_place[trials.place] |= done
    for records in by_place.values():
        if records:
            require_comparable(list(records.values()))


def _split(encoder: str, columns: Mapping[int, Sequence[Trials]]) -> list[MeasuredRow]:
    """Rows of which each has one cell a column; engines are never in one row."""
    rows: list[dict[int, Trials]] = []
    for is_other in (False, True):
        ranked = {
            number: [t for t in own if t.place.protocol.endswith("-tv") is is_other]
            for number, own in columns.items()
        }
        for rank in range(max(map(len, ranked.values()))):
            rows.append({n: own[rank] for n, own in ranked.items() if rank < len(own)})
    labels = [encoder] if len(rows) == 1 else [f"{encoder} ({text})" for text in _told_apart(rows)]
    return [
        MeasuredRow(
            encoder,
            label,
            row,
            {n: average(trials.records, trials.source.metric) for n, trials in row.items()},
        )
        for label, row in zip(labels, rows, strict=True)
    ]


def _told_apart(rows: Sequence[Mapping[int, Trials]]) -> list[str]:
    """In what rows of one encoder differ: the protocol, the recipe, or the protocol's version."""

    def names(row: Mapping[int, Trials], *parts: str) -> str:
        told = (" ".join(str(getattr(t.place, part)) for part in parts) for t in row.values())
        return ", ".join(dict.fromkeys(told))

    choices = (("protocol",), ("recipe",), ("protocol", "version"), ("recipe", "version"))
    texts = [[names(row, *parts) for row in rows] for parts in choices]
    texts.append([names(row, "protocol", "recipe", "version") for row in rows])
    return next((each for each in texts if len(set(each)) == len(rows)), texts[-1])


def _base(place: Place, number: int, baselines: Sequence[MeasuredRow]) -> Cell | None:
    """The baseline's cell of the same procedure on the same data; the recipe may be another."""
    for row in baselines:
        own = row.trials.get(number)
        if own and own.place._replace(recipe="") == place._replace(recipe=""):
            return row.cells[number]
    return None


def _entry(cell: Cell, base: Cell | None, column: PaperColumn, engine: str) -> Entry:
    text, marks = number_of(cell, 1), notes.marks(cell) + engine
    if cell.mean is None or base is None or base.mean is None:
        return Entry(text=text, marks=marks, value=cell.mean)
    # Rounded once, and added to zero, so that -0.04 is nil.
    difference = Decimal(f"{round(cell.mean - base.mean, 1) + 0.0:.1f}")
    return Entry(
        text=text,
        delta=signed(difference),
        tone=tone(difference, higher_better=column.higher_better),
        marks=marks,
        value=cell.mean,
    )


def _told(trials: Trials) -> str:
    place = trials.place
    engines = {record["protocol"]["engine"] for record in trials.records} - {None}
    text = f"{place.protocol}@{place.version}, recipe {place.recipe}, on {place.dataset}"
    return text + "".join(f", engine {engine}" for engine in sorted(engines))


def _footnotes(table: PaperTable, rows: Sequence[MeasuredRow]) -> list[str]:
    """What each mark stands for, and in which rows and columns it is."""
    sharing: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for row in rows:
        for number, cell in row.cells.items():
            for text in _marked(cell, row.trials[number].place):
                sharing[text][row.label].add(number)
    return [
        f"{text}: {'; '.join(f'{label}, {_columns(table, own[label])}' for label in own)}."
        for text, own in sorted(sharing.items())
    ]


def _marked(cell: Cell, place: Place) -> Iterable[str]:
    if cell.deviations:
        said = notes.settings(cell.deviations)
        yield f"{notes.MARKS['deviating']} departs from recipe {place.recipe} ({said})"
    for mark, seeds in (("failed", cell.failed_seeds), ("preempted", cell.preempted_seeds)):
        if seeds:
            told = ", ".join(map(str, seeds))
            yield f"{notes.MARKS[mark]} {mark} and not in the mean (seed {told})"
    if place.protocol.endswith("-tv"):
        yield f"{OTHER_ENGINE} on another engine than the paper's ({place.protocol})"
