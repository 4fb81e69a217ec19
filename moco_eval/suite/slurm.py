"""A suite as an array of SLURM jobs: as many runners of one command, which divide the cells.

Nothing but the command line is handed to them: claims on the shared file system say who does what.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moco_eval.errors import UsageError, unknown
from moco_eval.training.signals import die_with_parent

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

OPTION = "--slurm"
DEFAULTS = {"array": "4", "gpus": "1", "cpus": "8", "time": "24:00:00", "cluster": "slurm"}
KEYS = (*DEFAULTS, "partition", "account", "qos", "constraint", "mem")
# Runs are asked to save so long before the time is up, and their job is queued again.
SIGNAL_BEFORE_S = 300
# How often: as good as always.
MAX_REQUEUES = 1000
POLL_S = 0.5


class Runner:
    """One job: a process of ``moco-eval run``, which is stopped and queued again in time.

    Args:
        command: Of the process.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)

    def __call__(self, number: int) -> None:
        """Run it to its end.

        Raises:
            RuntimeError: If it ended in another way than well, so that SLURM sees it.
        """
        # In a session of its own: SLURM signals this process, which passes on what is meant.
        self._process = subprocess.Popen(
            self.command,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - there are no threads that hold locks
            start_new_session=True,
        )
        while (code := self._process.poll()) is None:
            time.sleep(POLL_S)
        if code:
            raise RuntimeError(f"moco-eval run ended with exit code {code}; its log says why")

    def checkpoint(self, number: int) -> DelayedSubmission:
        """Let it save what runs; what is queued again is the same command."""
        from submitit.helpers import DelayedSubmission

        self._process.send_signal(signal.SIGTERM)
        # Left to be collected by __call__, which this interrupts.
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Runner(self.command), number)


def submit(text: str, arguments: Sequence[str], *, name: str, folder: Path) -> str:
    """Submit the array.

    Args:
        text: What follows ``--slurm``.
        arguments: Of ``moco-eval run``, with that option.
        name: Of the suite.
        folder: Of the jobs' logs.

    Returns:
        What was submitted, for people.

    Raises:
        UsageError: If an option is wrong, or submitit or SLURM is not there.
    """
    asked = parse(text)
    if importlib.util.find_spec("submitit") is None:
        raise UsageError("submitit is not installed: python -m pip install 'moco-eval[slurm]'")
    if asked["cluster"] == "slurm" and shutil.which("sbatch") is None:
        raise UsageError(f"{OPTION}: there is no sbatch here. Submit where SLURM's commands are.")
    import submitit

    executor = submitit.AutoExecutor(
        folder, cluster=asked["cluster"], slurm_max_num_timeout=MAX_REQUEUES
    )
    cpus, gpus, size = int(asked["cpus"]), int(asked["gpus"]), int(asked["array"])
    executor.update_parameters(
        name=f"moco-eval-{name}",
        timeout_min=minutes(asked["time"]),
        cpus_per_task=cpus,
        gpus_per_node=gpus,
        slurm_signal_delay_s=SIGNAL_BEFORE_S,
        **{f"slurm_{key}": value for key, value in asked.items() if key not in DEFAULTS},
    )
    command = command_of(arguments, jobs=0 if gpus else cpus)
    jobs = executor.map_array(Runner(command), range(size))
    ids = ", ".join(job.job_id for job in jobs)
    return f"Submitted {size} jobs ({ids}), each: {' '.join(command[1:])}\nLogs: {folder}"


def parse(text: str) -> dict[str, str]:
    """The options in ``partition=gpu,array=8``, with the defaults of what is left out."""
    asked = dict(DEFAULTS)
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not value:
            raise UsageError(f"{OPTION} takes KEY=VALUE,KEY=VALUE..., found '{part}'.")
        if key not in KEYS:
            raise unknown(f"option of {OPTION} called", key, KEYS)
        if key in ("array", "gpus", "cpus") and not value.isdecimal():
            raise UsageError(f"{OPTION}: {key} is a whole number, found '{value}'.")
        if key in ("array", "cpus") and int(value) < 1:
            raise UsageError(f"{OPTION}: {key} is at least 1.")
        asked[key] = value
    minutes(asked["time"])
    return asked


def minutes(text: str) -> int:
    """Of ``90``, ``24:00:00`` or ``2-12:00:00``, as SLURM writes it."""
    days, _, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in (*parts, days or "0")) or len(parts) not in (1, 3):
        raise UsageError(f"{OPTION}: time is minutes, HH:MM:SS or D-HH:MM:SS, found '{text}'.")
    if len(parts) == 1:
        return int(parts[0]) + 24 * 60 * int(days or 0)
    return 24 * 60 * int(days or 0) + 60 * int(parts[0]) + int(parts[1])


def command_of(arguments: Sequence[str], *, jobs: int) -> list[str]:
    """The command line of each job, without what submitted it.

    Args:
        arguments: Of ``moco-eval run``.
        jobs: How many cells each runs at once on CPUs; 0 for one on each GPU that it is given.
    """
    kept, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        if word == OPTION:
            rest = rest[1:]
        elif not word.startswith(f"{OPTION}="):
            kept.append(word)
    if jobs and not any(word.split("=")[0] == "--jobs" for word in kept):
        kept += ["--jobs", str(jobs)]
    if not any(word.split("=")[0] == "--since" for word in kept):
        # What one of them has repeated, the others that start later leave.
        kept += ["--since", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())]
    return [sys.executable, "-m", "moco_eval.cli", "run", *kept]
