"""Saying that one is alive, so that a rank that is not can be named."""

from __future__ import annotations

import os
import time
from pathlib import Path

from moco_eval import distributed

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
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def beat(self, doing: str) -> None:
        """Say what this rank begins to do; written once a second at most."""
        now = time.monotonic()
        if now - self.last_s >= BEAT_EVERY_S:
            self.path.write_text(f"{os.getpid()} {doing}")
            self.last_s = now


def silent_ranks(output: Path) -> str:
    """Name the rank that was heard of least recently, and what it was doing then."""
    beats = sorted((output / FOLDER).glob("rank-*"), key=lambda path: path.stat().st_mtime)
    if not beats:
        return "No rank was heard of."
    age_s = time.time() - beats[0].stat().st_mtime
    pid, _, doing = beats[0].read_text().partition(" ")
    return (
        f"Longest silent: {beats[0].name.replace('-', ' ')} (process {pid}), "
        f"for {age_s:.0f} s, since: {doing}."
    )
