"""Being asked to stop, and ending with the process that started this one."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Whether this process was asked to stop; the training loop looks after each step.

    Attributes:
        reason: The signal's name; empty while nobody asked.
    """

    def __init__(self) -> None:
        self.reason = ""

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take the stop signals for the length of the block; a second Ctrl-C interrupts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.reason == "SIGINT":
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name


def die_with_parent() -> None:
    """Let the kernel kill this process when the one that started it ends, however it ends."""
    set_parent_death_signal = 1
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(set_parent_death_signal, signal.SIGKILL)
