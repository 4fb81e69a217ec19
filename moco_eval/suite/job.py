"""What a suite and the processes that run its cells tell each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from moco_eval.errors import UsageError
from moco_eval.suite.running import Standing
from moco_eval.suite.tasks import Task

LOG = "log.txt"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A cell to run, and where what it leaves goes.

    Attributes:
        task: The cell.
        results: The store.
        folder: Of what is no result; it gets ``log.txt``.
        pictures: Whether to draw what there is to see.
        standing: Of its record.
    """

    task: Task
    results: Path
    folder: Path
    pictures: bool
    standing: Standing


@dataclass(frozen=True)
class Ended:
    """How a cell ended.

    Attributes:
        state: ``failed`` and ``preempted`` are recorded as well, ``refused`` is not.
        error: What was wrong, where something was.
        record: Without its details, where it is ``ok``.
    """

    state: Literal["ok", "failed", "preempted", "refused"]
    error: UsageError | OSError | None = None
    record: dict[str, Any] | None = None
