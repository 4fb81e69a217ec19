"""One process that runs a suite's cells one after the other, and says how each ended.

python -m moco_eval.suite.worker FD

It is started by ``moco_eval.suite.pool``, which sets what it sees of the machine before torch is
imported here, and sends it one ``Job`` after the other.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from moco_eval.cell import Prepared, prepare
from moco_eval.errors import DivergedError, PreemptedError, UsageError
from moco_eval.suite.job import LOG, Ended, Job
from moco_eval.suite.running import run_cell
from moco_eval.suite.tasks import Task


def main() -> None:
    """Run what comes until nobody sends any more."""
    link: Connection[Ended, Job] = Connection(int(sys.argv[1]))
    while True:
        try:
            job = link.recv()
        except EOFError:
            return
        link.send(carry_out(job))


def carry_out(job: Job) -> Ended:
    """Run the cell with what it prints in a log of its own."""
    job.folder.mkdir(parents=True, exist_ok=True)
    with _printing_into(job.folder / LOG):
        try:
            record = run_cell(
                job.task.cell,
                results=job.results,
                work_dir=job.folder,
                pictures=job.pictures,
                prepared=opened(job.task),
                standing=job.standing,
            )
        except PreemptedError as error:
            return Ended("preempted", error)
        except DivergedError as error:
            traceback.print_exc()
            return Ended("failed", error)
        except (UsageError, OSError) as error:
            traceback.print_exc()
            return Ended("refused", error)
    return Ended("ok", record={k: part for k, part in record.items() if k != "details"})


def opened(task: Task) -> Prepared:
    """What the task's cell names.

    Raises:
        UsageError: If it is not what it was when the suite looked at it.
    """
    prepared = prepare(task.cell)
    if prepared.run.key() != task.key:
        raise UsageError(
            "Its encoder or its data changed since the suite looked at it. Start the suite again: "
            "it then looks for what is recorded of them as they are now."
        )
    return prepared


@contextmanager
def _printing_into(path: Path) -> Iterator[None]:
    """Let all that the process writes, its libraries too, be added to ``path``."""
    with path.open("a") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    yield
    sys.stdout.flush()
    sys.stderr.flush()


if __name__ == "__main__":
    main()
