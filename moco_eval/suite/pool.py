"""The processes that run a suite's cells: as many as are wanted on CPUs, or one for each GPU."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

from moco_eval.suite.job import Ended, Job
from moco_eval.training.signals import die_with_parent

_FIXED = "CUDA_VISIBLE_DEVICES"


def slots(*, jobs: int, gpus: Sequence[str]) -> list[dict[str, str]]:
    """What each worker sees of the machine, as environment variables.

    Args:
        jobs: How many on CPUs, one thread each: small networks gain more from that than from more
            threads.
        gpus: One worker for each instead; their numbers, or their names.
    """
    if not gpus:
        return [{"OMP_NUM_THREADS": "1"} for _ in range(jobs)]
    threads = str(max(1, (os.cpu_count() or 1) // len(gpus)))
    return [{_FIXED: gpu, "OMP_NUM_THREADS": threads} for gpu in gpus]


class Worker:
    """One process, started anew where the last one is gone; and the job that it has.

    Args:
        environment: What it sees besides this process's own.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self.job: Job | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Connection[Job, Ended] | None = None

    def give(self, job: Job) -> None:
        """Send it a job, which it must be free for."""
        assert self.job is None, "a worker has one job at a time"
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._link is not None
        self.job = job
        # One that ended this moment is told of by ``ready``, as if it had begun.
        with contextlib.suppress(BrokenPipeError):
            self._link.send(job)

    def ended(self) -> Ended | int:
        """How its job ended, or how the process did: an exit code, negative for a signal.

        Call it once ``ready`` names the worker; it is free afterwards.
        """
        assert self._link is not None
        assert self._process is not None
        self.job = None
        try:
            return self._link.recv()
        except (EOFError, ConnectionResetError):
            self._link.close()
            return self._process.wait()

    def ask_to_stop(self) -> None:
        """Let it save what it has, if its protocol can, and end."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """End it now."""
        if self._process:
            self._process.kill()
            self._process.wait()
        if self._link:
            self._link.close()

    def _start(self) -> None:
        self._link, theirs = Pipe()
        # In a session of its own, so that a terminal's Ctrl-C reaches it through this process.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moco_eval.suite.worker", str(theirs.fileno())],
            env=os.environ | self.environment,
            pass_fds=[theirs.fileno()],
            preexec_fn=die_with_parent,  # noqa: PLW1509 - there are no threads that hold locks
            start_new_session=True,
        )
        theirs.close()


def ready(workers: Sequence[Worker], timeout_s: float) -> list[Worker]:
    """Those whose job has ended, or whose process has; none after the timeout."""
    links = {worker._link: worker for worker in workers if worker.job and worker._link}
    return [links[link] for link in wait(list(links), timeout_s)]  # type: ignore[index]
