"""Reading a store: in full, or only the heads of its records by way of the index."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from moco_eval import records
from moco_eval.errors import OutputError
from moco_eval.store import index
from moco_eval.store.folder import Stored, files
from moco_eval.store.index import Head
from moco_eval.store.states import CURRENT, states

Record = dict[str, Any]


def read_all(results: Path) -> tuple[list[Record], list[str]]:
    """Read every record of a store that counts, in full.

    Returns:
        The records that are neither superseded nor retracted, oldest first, each with its file's
        ``name`` and its ``path`` below the results folder; and a sentence for each file that is
        left out because it is damaged, newer than this program or no record.
    """
    entries, problems = [], []
    for file in files(results):
        try:
            entries.append({**records.read(results / file.path), "path": file.path})
        except (OSError, ValueError) as error:
            problems.append(_problem(results, file, error))
    return _current(entries), problems


def read_heads(results: Path) -> tuple[list[Record], list[str]]:
    """Read what tables need of every record that counts: all but ``details``.

    Takes from the index what is unchanged since, and brings the index up to date where the folder
    can be written. Each head also has the run's ``key``. Parts that are equal, such as two runs'
    encoder, are one object: change none of them.

    Returns:
        As ``read_all``.
    """
    entries, problems = _heads(results)
    return _current(entries), problems


def read_history(results: Path) -> tuple[list[Record], list[str]]:
    """Read the heads of all records, of those too that no longer count.

    Returns:
        As ``read_heads``; each record has a ``state`` (``current``, ``superseded by RUN`` or
        ``retracted by RUN``) and a ``state_reason``.
    """
    entries, problems = read_entries(results)
    return [entry for entry in entries if not entry.get("retracts")], problems


def read_entries(results: Path) -> tuple[list[Record], list[str]]:
    """Read what ``read_history`` does, and withdrawals, which have ``retracts``."""
    entries, problems = _heads(results)
    told = zip(entries, states(entries), strict=True)
    with_states = [
        {**entry, "state": state, "state_reason": reason} for entry, (state, reason) in told
    ]
    return with_states, problems


def find(results: Path, key: str) -> Record | None:
    """The newest successful record of a run with this ``Run.key``, in full; None without one."""
    head = done(results).get(key)
    if head is None:
        return None
    return {**records.read(results / head["path"]), "path": head["path"]}


def done(results: Path) -> dict[str, Record]:
    """By ``Run.key``, the head of the newest successful record that counts."""
    heads, _ = read_heads(results)
    return {head["key"]: head for head in heads if head["status"] == "ok"}


def rebuild_index(results: Path) -> tuple[int, list[str]]:
    """Make the index anew from the files.

    Returns:
        How many records and withdrawals it holds, and a sentence for each file that is left out.

    Raises:
        OutputError: If it cannot be written.
    """
    heads, problems = _read_new(results, files(results))
    index.save(results, heads)
    return len(heads), problems


def _heads(results: Path) -> tuple[list[Record], list[str]]:
    there = files(results)
    indexed = index.load(results) if there else {}
    new, problems = _read_new(results, [file for file in there if file not in indexed])
    heads = {file: head for file in there if (head := indexed.get(file) or new.get(file))}
    if heads.keys() != indexed.keys():
        # Where the folder is read-only, others go without as well.
        with contextlib.suppress(OutputError):
            index.save(results, heads)
    return index.parse(heads.values()), problems


def _read_new(results: Path, there: list[Stored]) -> tuple[dict[Stored, Head], list[str]]:
    heads, problems, known = {}, [], dict[str, str]()
    for file in there:
        try:
            record = {**records.read(results / file.path), "path": file.path}
        except (OSError, ValueError) as error:
            problems.append(_problem(results, file, error))
            continue
        if not record.get("retracts"):
            record["key"] = records.key_of(record)
        heads[file] = tuple(known.setdefault(text, text) for text in index.head_of(record))
    return heads, problems


def _current(entries: list[Record]) -> list[Record]:
    told = zip(entries, states(entries), strict=True)
    return [entry for entry, (state, _) in told if state == CURRENT and not entry.get("retracts")]


def _problem(results: Path, file: Stored, error: OSError | ValueError) -> str:
    return f"{results / file.path} is left out: {error}"
