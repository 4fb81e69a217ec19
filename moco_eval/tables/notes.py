"""What stands under a table: footnotes to its marks, then how to read it and what it is made of."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from moco_eval import __version__
from moco_eval.tables.columns import Column
from moco_eval.tables.costs import CostColumn
from moco_eval.tables.ranking import across_seeds, between
from moco_eval.tables.significance import ALPHA, has_spread
from moco_eval.tables.trials import Cell, Record

NOT_RUN, FAILED, PREEMPTED, WITHOUT = "–", "fail", "stop", "n/a"
ABSENT = {
    NOT_RUN: "not run",
    FAILED: "no seed succeeded",
    PREEMPTED: "preempted, to be run again",
    WITHOUT: "run, but this was not measured",
}
MARKS = {"deviating": "†", "failed": "‡", "preempted": "§"}

Cells = Sequence[Sequence[Cell]]


def settings(deviations: Mapping[str, Any]) -> str:
    """Deviations from a recipe, in words."""
    return ", ".join(f"{name}={deviations[name]}" for name in sorted(deviations))


def marks(cell: Cell) -> str:
    """The footnote marks of a cell."""
    shown = {
        "deviating": cell.deviations,
        "failed": cell.failed_seeds,
        "preempted": cell.preempted_seeds,
    }
    return "".join(MARKS[name] for name, reason in shown.items() if reason)


def names_of(columns: Sequence[Column]) -> list[str]:
    """What notes call the columns: by their titles where those tell them apart."""
    titles = [column.title for column in columns]
    if len(set(titles)) == len(titles):
        return titles
    return [f"{column.group} {column.title}".strip() for column in columns]


def footnotes(labels: Sequence[str], columns: Sequence[Column], cells: Cells) -> list[str]:
    """What each mark stands for; rows that share a note share a line."""
    sharing: dict[tuple[str, str], list[str]] = defaultdict(list)
    names = names_of(columns)
    for label, row in zip(labels, cells, strict=True):
        for name, column, cell in zip(names, columns, row, strict=True):
            for mark, note in _notes_of(cell, column):
                sharing[f"{MARKS[mark]} {name}", note].append(label)
    return [
        f"{place}, {', '.join(rows)}: {note}." for (place, note), rows in sorted(sharing.items())
    ]


def _notes_of(cell: Cell, column: Column) -> Iterable[tuple[str, str]]:
    if cell.deviations:
        said = settings(cell.deviations)
        yield "deviating", f"departs from recipe {column.place.recipe}: {said}"
    for mark, seeds in (("failed", cell.failed_seeds), ("preempted", cell.preempted_seeds)):
        if seeds:
            yield mark, f"{mark} and not in the mean: seed {', '.join(map(str, seeds))}"


def legend(columns: Sequence[Column], cells: Cells, baseline: str) -> str:
    """How to read a cell, and in which direction a column."""
    versus = f"; in brackets the difference to {baseline}" if baseline else ""
    reasons = {empty(cell) for row in cells for cell in row if cell.mean is None}
    marks_of_absence = "; ".join(
        f"{text}: {meaning}" for text, meaning in ABSENT.items() if text in reasons
    )
    named = zip(names_of(columns), columns, strict=True)
    lower = [name for name, column in named if not column.higher_better]
    direction = f"Lower is better in {', '.join(lower)}" if lower else "Higher is better"
    rest = ", higher in the others" if lower and len(lower) < len(columns) else ""
    sentences = [
        f"Cells, in percent: mean ± sample s.d. over seeds (their number){versus}",
        *([marks_of_absence] if reasons else []),
        f"{direction}{rest}",
    ]
    return " ".join(f"{sentence}." for sentence in sentences)


def empty(cell: Cell) -> str:
    """What stands in a cell that has no number."""
    texts = {"failed": FAILED, "preempted": PREEMPTED, "without": WITHOUT}
    return texts.get(cell.status, NOT_RUN)


def on_costs(costs: Sequence[CostColumn]) -> list[str]:
    """How to read the columns of costs."""
    if not costs:
        return []
    lacking = any(value is None for cost in costs for value in cost.values)
    return ["Costs: the mean of a run." + f" {NOT_RUN}: not recorded." * lacking]


def on_bold(cells: Cells) -> list[str]:
    """What bold means, and where nothing could be told."""
    columns = [[cell for cell in column if cell.by_seed] for column in zip(*cells, strict=True)]
    shared = [cell for column in columns if len(column) > 1 for cell in column]
    if not shared:
        return []
    if all(len(cell.by_seed) < 2 for cell in shared):
        return ["Nothing is bold: with one seed a cell, no difference can be told from chance."]
    text = (
        "Bold: the best mean of a column, and all that Welch's t-test does not find worse"
        f" (two-sided, alpha {ALPHA})."
    )
    if any(len(cell.by_seed) < 2 for cell in shared):
        text += " A cell of one seed has no spread: it is not bold, nor is any where it is best."
    if any(
        sum(len(c.by_seed) > 1 and not has_spread(c.values) for c in column) > 1
        for column in columns
    ):
        text += " Between two cells without any spread every difference counts."
    return [text]


def on_order(columns: Sequence[Column], cells: Cells) -> list[str]:
    """How stable the order of the encoders is: between columns, and from seed to seed."""
    oriented = [
        [{s: v if column.higher_better else -v for s, v in c.by_seed.items()} for c in row]
        for column, row in zip(columns, zip(*cells, strict=True), strict=True)
    ]
    means = [[fmean(cell.values()) if cell else None for cell in column] for column in oriented]
    names, lines = names_of(columns), []
    if found := between(means):
        low = min(found, key=lambda each: each.tau)
        lowest = f"{_tau(low.tau)} ({names[low.one]}; {names[low.two]})"
        mean = _tau(fmean(each.tau for each in found))
        several = f"mean {mean} of {len(found)} pairs, lowest {lowest}"
        lines.append(
            "Order of the rows, Kendall's tau-b between columns:"
            f" {several if len(found) > 1 else lowest}."
        )
    stable = [
        f"{name} {_tau(tau)}"
        for name, values in zip(names, oriented, strict=True)
        if (tau := across_seeds(values)) is not None
    ]
    if stable:
        lines.append(f"The same between single seeds of a column, mean: {'; '.join(stable)}.")
    return lines


def _tau(value: float) -> str:
    # Rounded to nine digits first, so that no library's last digit decides about the second; and
    # added to zero, so that -0.004 is not printed as -0.00.
    return f"{round(round(value, 9), 2) + 0.0:.2f}".replace("-", "−")


def protocols(columns: Sequence[Column]) -> str:
    """Ids, versions and recipes, each once."""
    lines = [
        c.place.protocol
        + (f"@{c.place.version}" if c.place.version else "")
        + (f", recipe {c.place.recipe}" if c.place.recipe else "")
        + "".join(f", engine {engine}" for engine in c.engines)
        + ("" if c.place.version else ", not run")
        for c in columns
    ]
    return f"Protocols: {'; '.join(dict.fromkeys(lines))}."


def provenance(records: Sequence[Record]) -> str:
    """Which records these are: their names hold the hashes of their bytes."""
    names = "\n".join(sorted(record["name"] for record in records))
    digest = hashlib.sha256(names.encode()).hexdigest()[:12]
    return f"{len(records)} records, sha256 of their names {digest}; moco-eval {__version__}."
