"""Saying that one is alive, so that a rank that is not can be named."""

from __future__ import annotations

import os
import time
from pathlib import Path

from moco_eval import distributed
from moco_eval.errors import output_error

BEAT_EVERY_S = 1.0
FOLDER = ".ranks"


class Heartbeat:
    """A small file that says what this rank is doing; its age says whether it still does it.

    Args:
        output: The run's folder, which all ranks see.
    """

    def __init__(self, output: Path) -> None:
        self.path = output / FOLDER / f"rank-{distributed.rank()}"
        self.last_s = -BEAT_EVERY_S
        self.last_kind = ""

    def beat(self, doing: str) -> None:
        """Say what this rank begins to do; of one kind, such as steps, once a second at most.

        Raises:
            OutputError: If it cannot be written.
        """
        now, kind = time.monotonic(), doing.partition(" ")[0]
        if kind == self.last_kind and now - self.last_s < BEAT_EVERY_S:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Whoever reads it at this moment finds the last word or this one, never a part.
            unread = self.path.with_name(f".{self.path.name}")
            unread.write_text(f"{os.getpid()} {doing}")
            unread.replace(self.path)
        except OSError as error:
            raise output_error(self.path, error) from error
        self.last_s, self.last_kind = now, kind


def silent_ranks(output: Path) -> str:
    """Name the other rank that was heard of least recently, and what it was doing then."""
    # From the environment: the process group may be gone by now. Files may be of a larger run.
    own, num_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    others = [output / FOLDER / f"rank-{rank}" for rank in range(num_ranks) if rank != own]
    beats = sorted(filter(Path.exists, others), key=lambda path: path.stat().st_mtime)
    if not beats:
        return "No other rank was heard of."
    age_s = time.time() - beats[0].stat().st_mtime
    pid, _, doing = beats[0].read_text().partition(" ")
    return (
        f"Longest silent: {beats[0].name.replace('-', ' ')} (process {pid}), "
        f"for {age_s:.0f} s, since: {doing}."
    )
