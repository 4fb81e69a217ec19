"""Several processes on one machine, watched: the first that fails ends all, and is named.

On several machines torchrun starts the processes, or SLURM does.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType

from moco_eval.errors import PreemptedError, RankError
from moco_eval.training.signals import STOP_SIGNALS, die_with_parent

# How long the others may take to notice that a rank is gone, and to say what they know of it.
GRACE_S = 10.0
POLL_S = 0.05


def launch(module: str, arguments: Sequence[str], num_processes: int, *, program: str) -> int:
    """Run ``python -m module`` with ``arguments`` as ``num_processes`` ranks of this machine.

    Stop signals are passed on. No rank outlives this process.

    Args:
        module: What each rank runs, such as ``pretrain.cli``.
        arguments: Of its command line.
        num_processes: How many.
        program: What people call it.

    Returns:
        0 if all ended well, 75 if they were asked to stop, otherwise the code of the first that
        failed; 70 for one that a signal killed.
    """
    environment = {
        # As many threads as there are cores, shared out: more would only wait for each other.
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // num_processes)),
        **os.environ,
        "WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    command = [sys.executable, "-m", module, *arguments]
    processes: list[subprocess.Popen[bytes]] = []
    passed_on = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        passed_on.append(-number)
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in STOP_SIGNALS}
    try:
        for rank in range(num_processes):
            own = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(_start(command, own))
        failed = _watch(processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)
    if failed is None:
        return 0
    rank, code = failed
    # A rank that had not begun to listen was stopped by the signal itself.
    if code == PreemptedError.exit_code or code in passed_on:
        return PreemptedError.exit_code
    how = f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
    print(f"{program}: rank {rank} ended with {how}; all ranks were stopped.", file=sys.stderr)
    return code if code > 0 else RankError.exit_code


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a rank; it dies with this process, and hears of Ctrl-C from it alone, and so once."""
    return subprocess.Popen(
        command,
        env=environment,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - there are no threads here
        start_new_session=True,
    )


def _watch(processes: Sequence[subprocess.Popen[bytes]]) -> tuple[int, int] | None:
    """Wait for all, or for the first that fails and then no longer than ``GRACE_S``.

    Returns:
        Rank and return code of the one that is the cause, if any failed.
    """
    failed: tuple[int, int] | None = None
    ends_s = float("inf")
    while time.monotonic() < ends_s:
        codes = [process.poll() for process in processes]
        bad = [(rank, code) for rank, code in enumerate(codes) if code]
        if bad and failed is None:
            ends_s = time.monotonic() + GRACE_S
        # The first is the cause; but who only misses another rank does not know it.
        if bad and (failed is None or failed[1] == RankError.exit_code):
            failed = min(bad, key=lambda pair: (pair[1] == RankError.exit_code, pair[1]))
        if None not in codes:
            break
        time.sleep(POLL_S)
    return failed


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
