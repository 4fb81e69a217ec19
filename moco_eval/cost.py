"""What a run costs: seconds, memory, and how often it had to start.

A run that is stopped or killed starts again in the same work folder. How often it did, and what
its orderly ended starts took, is kept there until it ends.
"""

from __future__ import annotations

import contextlib
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch

from moco_eval import distributed
from moco_eval.errors import DataError, OutputError, UsageError
from moco_eval.files import write_text

FILE_NAME = "unfinished.json"

_NOT_RUN = (UsageError.exit_code, DataError.exit_code)

# Written to it, 5 sets a process's peak back to what it holds now (proc(5)).
_CLEAR_PEAK = Path("/proc/self/clear_refs")


class Meter:
    """Measures one start of a run, for the length of a block.

    Args:
        key: Of the run: what another run left in the folder is not counted.
        work_dir: Where starts are counted, by the first rank.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, key: str, work_dir: Path, *, device: str) -> None:
        self.key = key
        self.path = work_dir / FILE_NAME
        self.device = device

    def __enter__(self) -> Meter:
        self._before = self._read() or {"num_starts": 0, "wall_s": 0.0, "device_s": 0.0}
        self._keep(self._before)
        with contextlib.suppress(OSError):
            _CLEAR_PEAK.write_text("5")
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self._wall_s, self._cpu_s = time.monotonic(), _processor_s()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # What cannot be run as asked is no start of it.
        if isinstance(error, UsageError) and error.exit_code in _NOT_RUN:
            self._forget()

    def end(self, *, is_finished: bool) -> dict[str, Any]:
        """Stop measuring.

        Args:
            is_finished: Whether the run has ended, rather than been stopped to go on later.

        Returns:
            A record's ``time``. Seconds are of all starts that ended in an orderly way. On GPUs
            ``device_s`` is wall time by their number, on CPUs processor time; that of other ranks
            is taken to be as this one's. Peaks are this process's, that of the device as torch
            allocated it and None on a CPU.
        """
        wall_s = time.monotonic() - self._wall_s
        own_s = wall_s if self.device == "cuda" else _processor_s() - self._cpu_s
        num_processes = distributed.world_size()
        spent = {
            "wall_s": round(self._before["wall_s"] + wall_s, 3),
            "device_s": round(self._before["device_s"] + own_s * num_processes, 3),
        }
        if is_finished:
            self._forget()
        else:
            self._keep({**self._before, **spent})
        on_gpu = torch.cuda.max_memory_allocated() >> 20 if self.device == "cuda" else None
        return {
            **spent,
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
            "peak_device_memory_mib": on_gpu,
            "num_processes": num_processes,
            "num_resumes": self._before["num_starts"],
        }

    def _read(self) -> dict[str, Any] | None:
        """What earlier starts left; None if that is nothing, another run's or damaged."""
        try:
            kept = json.loads(self.path.read_text())
            numbers = {name: kept[name] + 0 for name in ("num_starts", "wall_s", "device_s")}
            return numbers if kept["key"] == self.key else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def _keep(self, before: dict[str, Any]) -> None:
        """Count this start among those of the run, with the seconds that are known of them."""
        counted = {**before, "key": self.key, "num_starts": self._before["num_starts"] + 1}
        # A run is not lost for want of a place to count its starts in.
        if distributed.rank() == 0:
            with contextlib.suppress(OutputError):
                write_text(self.path, json.dumps(counted))

    def _forget(self) -> None:
        if distributed.rank() == 0:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)


def _processor_s() -> float:
    """Processor seconds of this process, and of its children that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))
