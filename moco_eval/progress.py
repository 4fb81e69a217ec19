"""What a long run shows while it runs: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import TypeVar

from tqdm import tqdm

LINE_EVERY_S = 30.0
PACE_OVER_STEPS = 50

Batch = TypeVar("Batch")


class Progress:
    """One bar, or a line every 30 seconds where nobody could see a bar move.

    Args:
        name: What is running.
        total: How many units the whole run has.
        done: How many of them an earlier process did.
        unit: What is counted.
        quiet: Show nothing: for every rank but the first.
        clock: Seconds since any fixed moment.
    """

    def __init__(
        self,
        name: str,
        *,
        total: int,
        done: int = 0,
        unit: str = "step",
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.total, self.done, self.unit = name, total, done, unit
        # disable=None: no bar where there is no terminal. leave=None: a bar below another vanishes.
        off = True if quiet else None
        self.bar = tqdm(
            total=total, initial=done, desc=name, unit=f" {unit}", disable=off, leave=None
        )
        self.prints_lines = bool(self.bar.disable) and not quiet
        self.clock = clock
        self.begun_s = self.last_line_s = clock()
        self.first = done

    def show(self, row: Mapping[str, float], *, at_once: bool = False) -> None:
        """Count one more unit as done and show its numbers.

        Args:
            row: Numbers by name; ``step`` and ``epoch`` are left out, for they are counted anyway.
            at_once: Print the line without waiting for its turn: the row holds rare news.
        """
        self.done += 1
        self.bar.set_postfix_str(_text(row), refresh=False)
        self.bar.update()
        now_s = self.clock()
        overdue = now_s - self.last_line_s >= LINE_EVERY_S
        if self.prints_lines and (overdue or at_once or self.done >= self.total):
            print(self._line(row, now_s), flush=True)
            self.last_line_s = now_s

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.bar.close()

    def _line(self, row: Mapping[str, float], now_s: float) -> str:
        line = f"{self.name}: {self.unit} {self.done}/{self.total} {_text(row)}"
        left = self.total - self.done
        if left <= 0:
            return line
        left_s = (now_s - self.begun_s) / (self.done - self.first) * left
        return f"{line}, {timedelta(seconds=round(left_s))} left"


class Pace:
    """How fast images pass, and how much of the time is spent waiting for them.

    Both are means over the last 50 steps. A share of some percent is healthy; far more means that
    the loader, not the network, sets the pace: give it more workers.

    Args:
        images_per_step: Over all ranks.
        clock: Seconds since any fixed moment.
    """

    def __init__(
        self, images_per_step: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.images_per_step = images_per_step
        self.clock = clock
        # Of each step: seconds from its request for data to the next, and until the data came.
        self.steps: deque[tuple[float, float]] = deque(maxlen=PACE_OVER_STEPS)
        self.is_usual = False

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Pass ``batches`` on, one a step, and time them.

        The first step is not counted: it waits for the loader's workers to start.
        """
        asked_s = self.clock()
        for number, batch in enumerate(batches):
            came_s = self.clock()
            self.is_usual = number > 0
            yield batch
            ended_s = self.clock()
            if self.is_usual:
                self.steps.append((ended_s - asked_s, came_s - asked_s))
            asked_s = ended_s

    def leave_out(self) -> None:
        """Do not count the present step: it did more than train, such as a kNN evaluation."""
        self.is_usual = False

    def figures(self) -> dict[str, float]:
        """``images_per_s`` and ``wait_percent``; nothing before the second step is whole."""
        whole_s = sum(step_s for step_s, _ in self.steps)
        if whole_s <= 0:
            return {}
        return {
            "images_per_s": self.images_per_step * len(self.steps) / whole_s,
            "wait_percent": 100 * sum(wait_s for _, wait_s in self.steps) / whole_s,
        }


def _text(row: Mapping[str, float]) -> str:
    shown = (item for item in row.items() if item[0] not in ("step", "epoch"))
    return ", ".join(_labelled(name, value) for name, value in shown)


def _labelled(name: str, value: float) -> str:
    """A number with its name as people write it: ``images_per_s`` becomes images/s."""
    number = f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"
    if name.endswith("_percent"):
        name, number = name.removesuffix("_percent"), f"{number} %"
    return f"{name.replace('_per_', '/').replace('_', ' ')} {number}"
