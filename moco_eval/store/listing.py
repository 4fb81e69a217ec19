"""Records as lines that people and programs read, and what two of them differ in."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moco_eval import records

# A run id begins with the time, to a millisecond.
SHORT_ID = 13

# What any two records differ in.
OWN = ("run_id", "created", "name", "path", "state_reason")

COLUMNS = (
    *("run_id", "created", "state", "status", "protocol", "version", "recipe", "dataset"),
    *("encoder", "seed", "metric", "value", "wall_s", "retracts", "reason", "path"),
)

Row = dict[str, Any]


def rows_of(entries: Sequence[Mapping[str, Any]]) -> list[Row]:
    """What a list says of records and withdrawals, as ``store.read_entries`` returns them.

    Each has as ``short`` as much of its run id as tells it from all others.
    """
    length = _telling_length([entry["run_id"] for entry in entries])
    return [{**_row_of(entry), "short": entry["run_id"][:length]} for entry in entries]


def _row_of(entry: Mapping[str, Any]) -> Row:
    row: Row = dict.fromkeys(COLUMNS) | {"metrics": {}, "retracts": entry.get("retracts")}
    row |= {name: entry[name] for name in ("run_id", "created", "state", "reason", "path")}
    if entry.get("retracts"):
        return row | {"status": "withdrawal", "protocol": "", "dataset": "", "encoder": ""}
    metrics = {name: facts["value"] for name, facts in entry["metrics"].items()}
    primary = next((name for name, facts in entry["metrics"].items() if facts["primary"]), None)
    protocol = entry["protocol"]
    return row | {
        "status": entry["status"],
        "protocol": protocol["id"],
        "version": protocol["version"],
        "recipe": protocol["recipe"],
        "dataset": entry["dataset"]["id"],
        "encoder": entry["encoder"]["id"],
        "seed": entry["seed"],
        "metric": primary,
        "value": metrics.get(primary),
        "wall_s": entry["time"]["wall_s"],
        "metrics": metrics,
    }


def as_text(rows: Sequence[Row]) -> str:
    """One aligned line a row."""
    lines = [(row["short"], row["created"], *_told(row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(map(str.ljust, line, widths)).rstrip() + "\n"  # the last is of any length
        for line in lines
    )


def as_csv(rows: Sequence[Row]) -> str:
    """One line a row, under the names of ``COLUMNS``."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(rows: Sequence[Row]) -> str:
    """An array of one object a row, with all its metrics."""
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


FORMATS = {"text": as_text, "csv": as_csv, "json": as_json}


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What two records in full differ in, a line a value, under a line for each of the two."""
    flat, others = dict(_flat(one)), dict(_flat(other))
    names = [*flat, *(name for name in others if name not in flat)]
    differing = [
        f"{name}: {_shown(flat, name)} -> {_shown(others, name)}"
        for name in names
        if name not in OWN and _shown(flat, name) != _shown(others, name)
    ]
    lines = [f"{mark} {_title(record)}" for mark, record in (("-", one), ("+", other))]
    if not (one.get("retracts") or other.get("retracts")):
        lines.append(_relation(one, other))
    return [*lines, *differing]


def _told(row: Row) -> tuple[str, ...]:
    """The columns of a line, after who and when."""
    state = row["status"] if row["state"] == "current" else row["state"].split()[0]
    if row["retracts"]:
        return (state, "", "", "", "", f"of {row['retracts']}: {row['reason']}")
    value = "" if row["value"] is None else f"{row['metric']} {row['value']:.2f}"
    protocol = f"{row['protocol']}@{row['version']} {row['recipe']}"
    return (state, protocol, row["dataset"], f"seed {row['seed']}", value, row["encoder"])


def _telling_length(run_ids: Sequence[str]) -> int:
    different, length = len(set(run_ids)), SHORT_ID
    while len({run_id[:length] for run_id in run_ids}) < different:
        length += 1
    return length


def _title(record: Mapping[str, Any]) -> str:
    return f"{record['run_id']} {record['created']} " + " ".join(
        filter(None, _told(_row_of(record)))
    )


def _relation(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    mine, theirs = (
        {"encoder.id": each["encoder"]["id"]} | records.identity(each) for each in (one, other)
    )
    if names := [name for name in mine if mine[name] != theirs[name]]:
        return f"They are never averaged, they differ in: {', '.join(names)}."
    if one["seed"] == other["seed"]:
        return "They are the same trial, run twice."
    return "They are trials of one cell, and averaged."


def _flat(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in sorted(value.items()):
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{above}{name}.")
        else:
            yield f"{above}{name}", inner


def _shown(flat: Mapping[str, Any], name: str) -> str:
    return json.dumps(flat[name], ensure_ascii=False) if name in flat else "nothing"
