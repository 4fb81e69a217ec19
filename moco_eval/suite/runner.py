"""The queue: free workers take the next cell that nobody else has, until all are recorded."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import Protocol

from moco_eval import environment, records
from moco_eval.errors import DivergedError, PreemptedError
from moco_eval.suite import claims
from moco_eval.suite.board import Board
from moco_eval.suite.estimates import Estimates, Kind, as_text
from moco_eval.suite.job import LOG, Ended, Job
from moco_eval.suite.ledger import Ledger, Rerun
from moco_eval.suite.pool import Worker, ready
from moco_eval.suite.running import Standing, summary
from moco_eval.suite.tasks import Refused, Task, label
from moco_eval.training.signals import StopRequest

FOLDER = ".claims"
POLL_S = 0.5
# Between two looks at a cell that somebody else has.
LOOK_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a suite is run.

    Attributes:
        results: The store.
        work: Each cell gets a folder below it, with a log of what it printed.
        rerun: Which cells: see ``ledger.RERUN``.
        pictures: Whether to draw what there is to see.
        claim_timeout_s: How long the claim of another machine may be silent.
        waits: Whether to wait for the cells that others have.
    """

    results: Path
    work: Path
    rerun: Rerun = "missing"
    pictures: bool = False
    claim_timeout_s: float = claims.TIMEOUT_S
    waits: bool = True


@dataclass
class Tally:
    """How the cells ended.

    Attributes:
        before: Recorded when the suite began, or by another job since.
        done: Recorded by this one.
        failed: With what was wrong; those of before too, which were not repeated.
        refused: That cannot be run as asked.
        stopped: That were at work when this was asked to stop, or not begun.
        elsewhere: That others have, and were not waited for.
    """

    before: list[Task] = field(default_factory=list)
    done: list[Task] = field(default_factory=list)
    failed: list[tuple[Task, str]] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    stopped: list[Task] = field(default_factory=list)
    elsewhere: list[Task] = field(default_factory=list)


class Feed(Protocol):
    """Where more cells come from while the suite runs."""

    @property
    def is_over(self) -> bool:
        """Whether there will be no more."""

    def poll(self) -> Sequence[Task | Refused]:
        """What is new."""

    def ended(self, task: Task) -> None:
        """The task has its record, or will have none."""


@dataclass
class _Running:
    task: Task
    claim: claims.Claim
    begun_s: float


class Runner:
    """One suite on this machine's workers.

    Args:
        settings: How.
        workers: Who.
        ledger: What is recorded.
        board: Where it is shown.
    """

    def __init__(
        self, settings: Settings, workers: Sequence[Worker], ledger: Ledger, board: Board
    ) -> None:
        self.settings, self.workers, self.ledger, self.board = settings, workers, ledger, board
        self.estimates = Estimates(ledger.heads)
        self.tally = Tally()
        self.waiting: list[Task] = []
        self.running: dict[Worker, _Running] = {}
        # Cells that others have, with the moment of the next look at each.
        self.elsewhere: dict[Task, float] = {}
        self.last_beat_s = time.monotonic()

    def run(
        self, asked: Sequence[Task | Refused], stop: StopRequest, feed: Feed | None = None
    ) -> Tally:
        """Run what is to be run, and say how each cell ended.

        When asked to stop, the workers are, and what they save is waited for.
        """
        self._queue(asked, feed)
        is_told = False
        try:
            while self.running or not (stop.reason or self._is_over(feed)):
                if stop.reason and not is_told:
                    self.board.say(f"{stop.reason}: what runs is saved. Again Ctrl-C ends at once.")
                    for worker in self.running:
                        worker.ask_to_stop()
                    is_told = True
                if not stop.reason:
                    self._queue(feed.poll() if feed else (), feed)
                    self._fill(feed)
                for worker in ready(self.workers, POLL_S):
                    self._settle(worker, stop, feed)
                self._beat()
                self.board.tick(len(self.running))
        finally:
            for worker in self.workers:
                worker.end()
            for each in self.running.values():
                each.claim.release()
            claims.tidy(self.settings.results / FOLDER, timeout_s=self.settings.claim_timeout_s)
        self.tally.stopped.extend(self.waiting)
        self.tally.elsewhere.extend(self.elsewhere)
        return self.tally

    def _is_over(self, feed: Feed | None) -> bool:
        is_waiting = self.waiting or (self.elsewhere and self.settings.waits)
        return not is_waiting and (feed is None or feed.is_over)

    def _queue(self, asked: Sequence[Task | Refused], feed: Feed | None) -> None:
        """Sort out what has its record, and queue the rest."""
        for each in asked:
            if isinstance(each, Refused):
                self.tally.refused.append(each)
                self.board.say(f"{label(each.cell)}: cannot be run. {each.error}")
            elif self.ledger.wants(each.key, self.settings.rerun):
                self.waiting.append(each)
                self.board.add(self._expected_s(each))
            else:
                self._account(each)
                if feed:
                    feed.ended(each)

    def _account(self, task: Task) -> None:
        """Note how a cell ended that is not run here."""
        if self.ledger.state(task.key) == "ok":
            self.tally.before.append(task)
        else:
            error = self.ledger.record(task.key).get("error") or "see its record"
            self.tally.failed.append(
                (task, f"{error} (recorded before; --rerun failed repeats it)")
            )

    def _fill(self, feed: Feed | None) -> None:
        """Give each free worker a cell that nobody has."""
        for worker in self.workers:
            if worker in self.running:
                continue
            found = self._next(feed)
            if found is None:
                return
            task, claim = found
            old = self.ledger.record(task.key)
            supersedes = old["run_id"] if old.get("status") == "ok" else None
            folder = self.settings.work / task.folder
            if supersedes and not self.ledger.is_stopped(task.key):
                # Or it would find what it did, and do nothing again.
                shutil.rmtree(folder, ignore_errors=True)
            job = Job(
                task=task,
                results=self.settings.results,
                folder=folder,
                pictures=self.settings.pictures,
                standing=Standing(supersedes=supersedes, claim=claim),
            )
            self.running[worker] = _Running(task, claim, time.monotonic())
            worker.give(job)

    def _next(self, feed: Feed | None) -> tuple[Task, claims.Claim] | None:
        now_s = time.monotonic()
        due = [task for task, at_s in self.elsewhere.items() if at_s <= now_s]
        while self.waiting or due:
            task = self.waiting.pop(0) if self.waiting else due.pop(0)
            claim = claims.acquire(
                self.settings.results / FOLDER,
                task.key,
                timeout_s=self.settings.claim_timeout_s,
            )
            if claim is None:
                if task not in self.elsewhere:
                    holder = claims.holder_of(self.settings.results / FOLDER, task.key)
                    self.board.say(f"{label(task.cell)}: {holder or 'another process'} has it.")
                self.elsewhere[task] = now_s + LOOK_EVERY_S
                continue
            self.elsewhere.pop(task, None)
            # It may have been recorded between our first look and this claim.
            self.ledger.look_again(task)
            if self.ledger.wants(task.key, self.settings.rerun):
                return task, claim
            claim.release()
            self._account(task)
            self._finish(task, f"{self.ledger.state(task.key)}, recorded by another process", feed)
        return None

    def _settle(self, worker: Worker, stop: StopRequest, feed: Feed | None) -> None:
        """Note how a worker's cell ended, and let go of it."""
        mine = self.running[worker]
        task, ended = mine.task, worker.ended()
        if isinstance(ended, int) and not stop.reason:
            ended = self._record_death(mine, ended)
        told = "stopped" if isinstance(ended, int) else str(ended.error)
        if isinstance(ended, int) or ended.state == "preempted":
            del self.running[worker]
            mine.claim.release()
            if stop.reason:
                self.tally.stopped.append(task)
                self.board.say(f"{label(task.cell)}: stopped.")
            else:
                self.elsewhere[task] = time.monotonic()
                self.board.say(f"{label(task.cell)}: {told}")
            return
        self.ledger.look_again(task)
        if ended.record:
            self.tally.done.append(task)
            text = f"{summary(ended.record)} ({as_text(ended.record['time']['wall_s'])})"
        elif ended.state == "failed":
            self.tally.failed.append((task, told))
            text = f"failed. {told}"
        else:
            assert ended.error is not None, "what is refused says why"
            self.tally.refused.append(Refused(task.cell, ended.error))
            text = f"cannot be run. {told}"
        del self.running[worker]
        mine.claim.release()
        self._finish(task, text, feed)

    def _record_death(self, mine: _Running, code: int) -> Ended:
        """Record that the process of a cell ended without a word."""
        how = f"was killed by {Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        why = ", perhaps for want of memory" if code == -9 else ""
        log = self.settings.work / mine.task.folder / LOG
        text = f"The process that ran it {how}{why}; see {log}."
        if not mine.claim.holds():
            return Ended("preempted", PreemptedError(f"{text} Another process has it."))
        records.write(
            mine.task.run,
            self.settings.results,
            status="failed",
            outcome=None,
            error=text,
            environment=environment.describe(),
            time={"wall_s": round(time.monotonic() - mine.begun_s, 3)},
        )
        return Ended("failed", DivergedError(text))

    def _finish(self, task: Task, text: str, feed: Feed | None) -> None:
        self.board.finish(f"{label(task.cell)}: {text}", self._expected_s(task))
        if feed:
            feed.ended(task)

    def _expected_s(self, task: Task) -> float:
        kind = Kind(task.run.protocol, task.run.recipe, task.run.dataset["id"])
        return self.estimates.of(kind) or 0.0

    def _beat(self) -> None:
        now_s = time.monotonic()
        if now_s - self.last_beat_s >= claims.BEAT_EVERY_S:
            self.last_beat_s = now_s
            for each in self.running.values():
                each.claim.beat()
