"""Encoders that a suite names and nobody has trained yet: ``moco-pretrain`` makes them."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from moco_eval.errors import PreemptedError
from moco_eval.records import slug
from moco_eval.suite import claims
from moco_eval.suite.plan import Pretraining, Suite, SuiteEncoder
from moco_eval.suite.runner import FOLDER, POLL_S, Settings
from moco_eval.training.signals import StopRequest, die_with_parent


def is_missing(encoder: SuiteEncoder) -> bool:
    """Whether it is to be pretrained before anything can be said of it."""
    return encoder.pretraining is not None and not Path(encoder.spec).exists()


def make_missing(
    suite: Suite, slots: Sequence[Mapping[str, str]], settings: Settings, stop: StopRequest
) -> list[str]:
    """Pretrain the suite's encoders that are missing, as many at once as there are slots.

    What another process is at work on is waited for. The same call again continues what was
    stopped.

    Returns:
        A sentence for each that failed.

    Raises:
        PreemptedError: If it was asked to stop; what was trained so far is saved.
    """
    queue = _Queue([each for each in suite.encoders if is_missing(each)], list(slots), settings)
    try:
        while queue.is_at_work() and not stop.reason:
            queue.begin()
            time.sleep(POLL_S)
            queue.settle()
        queue.stop()
    finally:
        queue.close()
    if stop.reason:
        raise PreemptedError(
            f"Stopped by {stop.reason} while encoders were pretrained; what they reached is saved. "
            "Run the same command again and it goes on."
        )
    return queue.failed


class _Queue:
    """Encoders to be made, and those being made."""

    def __init__(
        self, waiting: list[SuiteEncoder], free: list[Mapping[str, str]], settings: Settings
    ) -> None:
        self.waiting, self.free, self.settings = waiting, free, settings
        self.running: list[_Training] = []
        self.failed: list[str] = []

    def is_at_work(self) -> bool:
        """Whether there is something to do, or to wait for."""
        return bool(self.running or self.waiting)

    def begin(self) -> None:
        """Start what nobody else has, as far as there is room."""
        self.waiting = [each for each in self.waiting if is_missing(each)]
        for encoder in list(self.waiting):
            if not self.free:
                return
            claim = claims.acquire(
                self.settings.results / FOLDER,
                _key(encoder.pretraining),
                timeout_s=self.settings.claim_timeout_s,
            )
            if claim and is_missing(encoder):
                self.running.append(_Training(encoder, claim, self.free.pop(), self.settings.work))
            elif claim:
                claim.release()  # made since
            elif self.settings.waits:
                continue
            self.waiting.remove(encoder)

    def settle(self) -> None:
        """Let go of what has ended."""
        for training in [each for each in self.running if each.is_over()]:
            self.running.remove(training)
            self.free.append(training.slot)
            self.failed += training.close()

    def stop(self) -> None:
        """Let what runs save its state and end."""
        for training in self.running:
            training.process.send_signal(signal.SIGTERM)
        for training in self.running:
            training.process.wait()

    def close(self) -> None:
        """End what still runs, at once."""
        for training in self.running:
            training.close()


class _Training:
    """One process of ``moco-pretrain``."""

    def __init__(
        self, encoder: SuiteEncoder, claim: claims.Claim, slot: Mapping[str, str], work: Path
    ) -> None:
        asked = encoder.pretraining
        assert asked is not None, "an encoder that is missing says how it is made"
        self.name, self.claim, self.slot = encoder.name, claim, slot
        self.log = work / "pretraining" / f"{slug(encoder.name)}.txt"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.beaten_s = time.monotonic()
        command = [sys.executable, "-m", "pretrain.cli", *arguments_of(asked)]
        # Sums are rounded by their order: on as many threads the encoder has the same bytes.
        environment = os.environ | self.slot | {"OMP_NUM_THREADS": str(asked.num_threads)}
        print(f"$ moco-pretrain {' '.join(arguments_of(asked))}   # into {self.log}", flush=True)
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - there are no threads that hold locks
                start_new_session=True,
            )

    def is_over(self) -> bool:
        """Whether it has ended; while it has not, its claim is kept alive."""
        now_s = time.monotonic()
        if now_s - self.beaten_s > claims.BEAT_EVERY_S:
            self.claim.beat()
            self.beaten_s = now_s
        return self.process.poll() is not None

    def close(self) -> list[str]:
        """End it if it runs, let go of it, and say what was wrong."""
        if self.process.poll() is None:
            self.process.kill()
        code = self.process.wait()
        self.claim.release()
        if code == 0:
            return []
        return [f"{self.name} could not be pretrained (exit code {code}); see {self.log}"]


def arguments_of(asked: Pretraining) -> list[str]:
    """What ``moco-pretrain`` is told."""
    return [
        *("--recipe", asked.recipe, "--data", asked.data, "--output", str(asked.output)),
        *(("--seed", str(asked.seed)) if asked.seed else ()),
        *(part for override in asked.overrides for part in ("--set", override)),
    ]


def _key(asked: Pretraining | None) -> str:
    return f"pretraining-{hashlib.sha256(repr(asked).encode()).hexdigest()[:16]}"
