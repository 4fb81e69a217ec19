"""Which records count: a correction takes the place of a record, a withdrawal takes it away."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

CURRENT = "current"


def states(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What has become of each entry of a store, and why.

    A withdrawal that is itself withdrawn withdraws nothing, and a withdrawn correction corrects
    nothing: what they were about counts again. A correction that was corrected still stands in
    the place of the first.

    Args:
        entries: Records and withdrawals, oldest first.

    Returns:
        For each ``current``, ``superseded by RUN`` or ``retracted by RUN``, and the reason given.
    """
    about: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in entries:
        if entry.get("retracts"):
            about[entry["retracts"]].append(entry)

    def withdrawn_by(run_id: str, seen: frozenset[str] = frozenset()) -> Mapping[str, Any] | None:
        standing = [
            entry
            for entry in about.get(run_id, ())
            if entry["run_id"] not in seen
            and withdrawn_by(entry["run_id"], seen | {run_id}) is None
        ]
        return standing[-1] if standing else None

    newer = {
        entry["supersedes"]: entry
        for entry in entries
        if entry.get("supersedes") and withdrawn_by(entry["run_id"]) is None
    }

    def state(entry: Mapping[str, Any]) -> tuple[str, str]:
        if withdrawal := withdrawn_by(entry["run_id"]):
            return f"retracted by {withdrawal['run_id']}", withdrawal["reason"]
        if correction := newer.get(entry["run_id"]):
            return f"superseded by {correction['run_id']}", correction["reason"]
        return CURRENT, ""

    return [state(entry) for entry in entries]
