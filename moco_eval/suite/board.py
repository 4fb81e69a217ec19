"""What a suite shows while it runs: a line for each cell that ends, and a bar."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from tqdm import tqdm

from moco_eval.progress import LINE_EVERY_S


class Board:
    """Progress over the whole suite.

    Args:
        name: The suite's.
        num_at_once: How many cells run at once.
        clock: Seconds since any fixed moment.
    """

    def __init__(
        self, name: str, *, num_at_once: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name, self.num_at_once, self.clock = name, num_at_once, clock
        self.total = self.done = 0
        self.expected_s = 0.0
        # disable=None: no bar where there is no terminal.
        self.bar = tqdm(total=0, desc=name, unit="run", disable=None)
        self.begun_s = self.last_line_s = clock()

    def add(self, expected_s: float) -> None:
        """One more cell is to be run, in about so many seconds."""
        self.total += 1
        self.expected_s += expected_s
        self.bar.total = self.total
        self.bar.refresh()

    def finish(self, text: str, expected_s: float) -> None:
        """One has ended."""
        self.done += 1
        self.expected_s -= expected_s
        self.bar.update()
        tqdm.write(f"[{self.done}/{self.total}] {text}")

    def say(self, text: str) -> None:
        """A line that does not tear the bar."""
        tqdm.write(text)

    def tick(self, num_running: int) -> None:
        """Say where it stands, every 30 seconds, where nobody could see a bar move."""
        now_s = self.clock()
        if now_s - self.last_line_s < LINE_EVERY_S:
            return
        self.last_line_s = now_s
        left = f", about {timedelta(seconds=round(self.left_s()))} left" if self.left_s() else ""
        line = f"{self.name}: {self.done}/{self.total} runs, {num_running} at work{left}"
        if self.bar.disable:
            print(line, flush=True)
        else:
            self.bar.set_postfix_str(line.partition("runs, ")[2])

    def left_s(self) -> float:
        """Expected seconds until the end: from earlier records, else from this suite's own pace."""
        if self.expected_s > 0:
            return self.expected_s / self.num_at_once
        took_s = self.clock() - self.begun_s
        return took_s / self.done * (self.total - self.done) if self.done else 0.0

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.bar.close()
