"""A list of cells run without a suite's file, as ``moco-eval demo`` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moco_eval.cell import Cell
from moco_eval.errors import PreemptedError
from moco_eval.suite.board import Board
from moco_eval.suite.ledger import Ledger
from moco_eval.suite.pool import Worker, slots
from moco_eval.suite.runner import Runner, Settings
from moco_eval.suite.tasks import Refused, identified
from moco_eval.training.signals import StopRequest


def run_all(
    cells: Sequence[Cell], *, results: Path, work_dir: Path, num_processes: int = 1
) -> list[dict[str, Any]]:
    """Run the cells that the store does not hold; a failed one is recorded and the rest goes on.

    Args:
        cells: What to run.
        results: The store.
        work_dir: Each cell gets a folder below it, with a log of what it printed.
        num_processes: How many cells run at once, each on one thread of its own process.

    Returns:
        The records of the cells that are done, new or old, without their details.

    Raises:
        UsageError: If a cell cannot be run as asked.
        PreemptedError: If this was asked to stop; the same call goes on.
    """
    tasks = identified(cells)
    for task in tasks:
        if isinstance(task, Refused):
            raise task.error
    ledger, board = Ledger(results), Board("runs", num_at_once=num_processes)
    workers = [Worker(slot) for slot in slots(jobs=num_processes, gpus=())]
    runner = Runner(
        Settings(results=results, work=work_dir, rerun="failed"), workers, ledger, board
    )
    with StopRequest().listening() as stop:
        tally = runner.run(tasks, stop)
    board.close()
    if tally.stopped:
        raise PreemptedError(
            f"Stopped by {stop.reason}. Run the same command again and it goes on."
        )
    for refused in tally.refused:
        raise refused.error
    return [ledger.record(task.key) for task in (*tally.before, *tally.done)]


def folder_of(cell: Cell) -> Path:
    """Where a cell of ``run_all`` leaves what is no result, below its work folder."""
    (task,) = identified([cell])
    if isinstance(task, Refused):
        raise task.error
    return task.folder
