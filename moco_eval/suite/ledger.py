"""What the records say of a suite's cells, and which of them are therefore to be run."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, Literal

from moco_eval import records, store
from moco_eval.suite.tasks import Task

Rerun = Literal["never", "missing", "failed", "always"]
RERUN: dict[str, str] = {
    "never": "what has no record of any kind",
    "missing": "that, and goes on with what was stopped",
    "failed": "that, and repeats what failed",
    "always": "all of it again; new records take the place of the old",
}
# By how a cell ended before, the empty one for no record: who runs it again.
_WANTED = {
    "": ("never", "missing", "failed", "always"),
    "preempted": ("missing", "failed", "always"),
    "failed": ("failed", "always"),
    "ok": ("always",),
}


class Ledger:
    """The newest word on each cell: ``ok`` outdoes ``failed`` and ``preempted``, new ones old ones.

    Args:
        results: The store.
        since: Records made at this time or later, as they write it, are as good as made by this
            suite itself; those of the other jobs of an array.
        may_write: Whether the store's index may be brought up to date.
    """

    def __init__(self, results: Path, *, since: str = "", may_write: bool = True) -> None:
        self.results = results
        heads, self.problems = (store.read_heads if may_write else store.read_all)(results)
        self.heads = [_keyed(head) for head in heads]
        is_new = [bool(since) and head["created"] >= since for head in self.heads]
        self._old = _newest([h for h, new in zip(self.heads, is_new, strict=True) if not new])
        self._new = _newest([h for h, new in zip(self.heads, is_new, strict=True) if new])
        self._last = {head["key"]: head["status"] for head in self.heads}
        self._seen = {head["name"] for head in self.heads}

    def state(self, key: str) -> str:
        """``ok``, ``failed``, ``preempted``, or empty where nothing is recorded."""
        status: str = self._head(key).get("status", "")
        return status

    def record(self, key: str) -> dict[str, Any]:
        """The record that ``state`` is of, without its details; empty where there is none."""
        return self._head(key)

    def is_stopped(self, key: str) -> bool:
        """Whether its last run was stopped, and so goes on from what it left."""
        return self._last.get(key) == "preempted"

    def wants(self, key: str, rerun: Rerun) -> bool:
        """Whether the cell is to be run."""
        if key in self._new:
            return self._new[key]["status"] == "preempted" and rerun != "never"
        return rerun in _WANTED[self.state(key)]

    def look_again(self, task: Task) -> None:
        """Take in what was recorded of the task since, here or on another machine."""
        folder = records.folder_of(task.run.as_record(), self.results)
        if not folder.is_dir():
            return
        _see_anew(folder)
        for path in sorted(folder.glob("*.json"), key=lambda path: path.name):
            if path.name not in self._seen:
                self._take_in(path)

    def _take_in(self, path: Path) -> None:
        try:
            record = records.read(path)
        except (OSError, ValueError) as problem:
            self.problems.append(f"{path} is left out: {problem}")
            return
        self._seen.add(path.name)
        if not record.get("retracts"):
            record = _keyed(record)
            self.heads.append(record)
            self._last[record["key"]] = record["status"]
            self._new |= _newest([*filter(None, [self._new.get(record["key"])]), record])

    def _head(self, key: str) -> dict[str, Any]:
        return self._new.get(key) or self._old.get(key) or {}


def _newest(heads: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By key the newest head that is ok; where there is none, the newest."""
    found: dict[str, dict[str, Any]] = {}
    for head in heads:
        if head["status"] == "ok" or found.get(head["key"], {}).get("status") != "ok":
            found[head["key"]] = head
    return found


def _keyed(record: dict[str, Any]) -> dict[str, Any]:
    head = {name: part for name, part in record.items() if name != "details"}
    return head if "key" in head else {**head, "key": records.key_of(record)}


def _see_anew(folder: Path) -> None:
    """Change the folder, so that a network file system does not answer with what it was before."""
    probe = folder / f".look-{secrets.token_hex(4)}"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return  # it cannot be written: then no record can either, which is said when one should
