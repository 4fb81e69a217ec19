"""Runs of two processes, as people start them, that are killed, stopped, hung and starved.

After each run none of its processes lives.
"""

import contextlib
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from moco_eval.training.metrics import read_metrics

ROOT = Path(__file__).parents[2]
# 1,437 digits in batches of 128: 11 steps an epoch, 33 in all. The queue wraps every 4 steps.
NUM_STEPS = 33
SETTINGS = ("epochs=3", "batch_total=128", "queue_size=512", "image_size=16", "dim=8")
RUN = ("--recipe", "mocov2-digits", *(word for pair in SETTINGS for word in ("--set", pair)))
DIGITS = ("--data", "digits", "--save-every", "3")
SEED = 10
START_S = 60

pytestmark = pytest.mark.faults


class Job:
    """A run of ``moco-pretrain`` in processes of its own; its words go to ``said``."""

    started: ClassVar[list["Job"]] = []

    def __init__(self, output, *options, nproc=2, environment=None, preexec_fn=None):
        self.output = output
        self.log = output.with_suffix(f".{time.monotonic_ns()}.log")
        command = [sys.executable, "-m", "pretrain.cli", *RUN, "--output", str(output)]
        command += ["--nproc", str(nproc), "--tensorboard", "false", *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": str(ROOT)} | (environment or {}),
                start_new_session=True,
                preexec_fn=preexec_fn,  # noqa: PLW1509 - there are no threads here
            )
        self.started.append(self)

    @property
    def said(self):
        return self.log.read_text()

    @property
    def status(self):
        return json.loads((self.output / "status.json").read_text())

    def rank(self, number):
        """The process of a rank and what it is doing; 0 where it is of an earlier run."""
        path = self.output / ".ranks" / f"rank-{number}"
        pid, _, doing = path.read_text().partition(" ") if path.exists() else ("", "", "")
        return (int(pid), doing) if pid and parent_of(int(pid)) == self.process.pid else (0, "")

    def until(self, is_so):
        ends_s = time.monotonic() + START_S
        while not is_so():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < ends_s, self.said
            time.sleep(0.005)

    def until_after(self, step):
        """Wait until this very run has done ``step``, or is in its first step; return the pids."""
        self.until(lambda: all("step" in self.rank(number)[1] for number in (0, 1)))
        rows = self.output / "metrics.jsonl"
        self.until(
            lambda: step == 0 or max((r["step"] for r in read_metrics(rows)), default=-1) >= step
        )
        pids = [self.rank(number)[0] for number in (0, 1)]
        assert all(pids), self.said
        return pids

    def end(self, within_s=120.0):
        """Wait for its exit code; nothing of it may live on."""
        code = self.process.wait(within_s)
        ends_s = time.monotonic() + 2
        while alive(self.output) and time.monotonic() < ends_s:
            time.sleep(0.02)
        assert not alive(self.output)
        return code

    def newest(self):
        return max(path.name for path in (self.output / "checkpoints").glob("step-????????"))


@pytest.fixture(autouse=True)
def nothing_goes_on():
    """End what a failed test left running: ranks die with their launcher."""
    yield
    for job in Job.started:
        job.process.kill()
        job.process.wait()
    Job.started.clear()


def parent_of(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(output):
    """Processes that name ``output``; a zombie has no command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if str(output).encode() in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
    return found


def final_bytes(output):
    return (output / "checkpoint.pth.tar").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nothing happens to; its folder for temporary files must stay empty."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "tmp").mkdir()
    job = Job(folder / "run", *DIGITS, environment={"TMPDIR": str(folder / "tmp")})
    assert job.end() == 0, job.said
    assert job.status["state"] == "done"
    assert not list((folder / "tmp").iterdir())
    return job.output


@pytest.fixture(scope="module")
def starved(tmp_path_factory):
    """A run of which a loader worker of rank 1 was killed after step 5."""
    job = Job(tmp_path_factory.mktemp("starved") / "run", *DIGITS, "--workers", "1")
    pids = job.until_after(5)
    begun_s = time.monotonic()
    os.kill(children_of(pids[1])[0], signal.SIGKILL)
    job.code, job.took_s = job.end(), time.monotonic() - begun_s
    return job


def test_a_run_killed_ten_times_ends_as_one_that_was_not(whole, tmp_path):
    draw = random.Random(SEED)
    # In the first step; where the queue wraps; before, at and after the end of an epoch, which is
    # saved; right after a save; and wherever chance wants it.
    steps = [0, 4, 9, 10, 11, 14, *sorted(draw.sample(range(16, NUM_STEPS - 7), 4))]
    for number, step in enumerate(steps):
        job = Job(tmp_path / "run", *DIGITS)
        victim = number % 2
        pids = job.until_after(step)
        time.sleep(draw.uniform(0, 0.05))
        os.kill(pids[victim], signal.SIGKILL)
        assert job.end(within_s=15) == 70
        last_lines = "\n".join(job.said.splitlines()[-20:])
        assert f"rank {victim} ended with signal SIGKILL" in last_lines
        assert job.status["state"] == "failed"
        assert f"rank {victim} (process {pids[victim]})" in job.status["reason"]
    job = Job(tmp_path / "run", *DIGITS)
    assert job.end() == 0, job.said
    assert final_bytes(job.output) == final_bytes(whole)
    one, two = (read_metrics(output / "metrics.jsonl") for output in (job.output, whole))
    assert [row["loss"] for row in one] == [row["loss"] for row in two]
    assert [row["step"] for row in one] == list(range(NUM_STEPS))


def test_a_run_stopped_five_times_in_any_way_ends_as_one_that_was_not(whole, tmp_path):
    def everyone(job, pids):
        """As SLURM and Ctrl-C do: launcher, ranks and their loader workers at once."""
        workers = [worker for pid in pids for worker in children_of(pid)]
        assert len(workers) == 2
        return [job.process.pid, *pids, *workers]

    stops = [
        (signal.SIGTERM, lambda job, pids: [job.process.pid]),
        (signal.SIGTERM, lambda job, pids: [pids[1]]),
        (signal.SIGTERM, everyone),
        (signal.SIGUSR1, everyone),
        (signal.SIGINT, lambda job, pids: [job.process.pid]),
    ]
    for number, (stop, receivers) in enumerate(stops):
        job = Job(tmp_path / "run", *DIGITS, "--workers", "1")
        pids = job.until_after(5 * number + 1)
        for pid in receivers(job, pids):
            os.kill(pid, stop)
        assert job.end(within_s=15) == 75, job.said
        assert job.status["state"] == "preempted"
        assert job.status["requeue"] is True
        # Both ranks say so, and name the step of the newest checkpoint.
        step = int(job.newest().removeprefix("step-"))
        assert job.said.count(f"after step {step} of {NUM_STEPS}; the state is saved") == 2
        assert step < NUM_STEPS
        assert "Traceback" not in job.said
    job = Job(tmp_path / "run", *DIGITS)
    assert job.end() == 0, job.said
    assert final_bytes(job.output) == final_bytes(whole)


def test_a_rank_that_hangs_is_named_with_what_it_was_doing(tmp_path):
    job = Job(tmp_path / "run", *DIGITS, "--rank-timeout", "4")
    pids = job.until_after(2)
    begun_s = time.monotonic()
    os.kill(pids[1], signal.SIGSTOP)
    assert job.end() == 70
    # Four seconds of silence, and ten in which the others may say what they know.
    assert 4 <= time.monotonic() - begun_s <= 4 + 10 + 3
    assert f"Longest silent: rank 1 (process {pids[1]}), for " in job.said
    assert job.said.partition(" s, since: ")[2].startswith(("step ", "saving after step "))
    assert "Longest silent: rank 1" in job.status["reason"]


def test_a_dead_loader_worker_ends_the_run_as_such(starved):
    assert starved.code == 65, starved.said
    assert starved.took_s < 15
    told = "Loading images failed: DataLoader worker (pid "
    assert told in starved.said
    assert "The system kills one when memory runs out: try fewer --workers." in starved.said
    assert "[rank 1]: Loading images" in starved.said
    assert "Traceback" not in starved.said
    assert starved.status["state"] == "failed"
    assert starved.status["reason"].startswith(told)


def test_another_number_of_processes_is_refused_unless_asked_for(starved, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(starved.output, output)
    refused = Job(output, *DIGITS, nproc=1)
    assert refused.end() == 2
    assert "was written by 2 processes, now there are 1" in refused.said
    assert "--allow-world-size-change" in refused.said
    goes_on = Job(output, *DIGITS, "--allow-world-size-change", nproc=1)
    assert goes_on.end() == 0, goes_on.said
    rows = read_metrics(output / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(NUM_STEPS))
    assert all(math.isfinite(row["loss"]) for row in rows)


def test_a_full_disk_is_the_cause_that_two_ranks_end_with(tmp_path):
    # 1 MiB a file lets pictures through and stops the checkpoint of 4 MB.
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))

    job = Job(tmp_path / "run", *DIGITS, preexec_fn=limit)
    assert job.end() == 74, job.said
    assert "step-00000003 cannot be written: File too large" in job.said
    assert "step-00000003 cannot be written" in job.status["reason"]
    assert not list((job.output / "checkpoints").iterdir())


@pytest.fixture
def folder_with_eight_bad(tmp_path):
    """64 images, of which eight are damaged, by kind; and four good ones to test on."""
    draw, root = np.random.RandomState(0), tmp_path / "images"
    for split, num in (("train", 56), ("val", 4)):
        for number in range(num):
            path = root / split / "ab"[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.randint(0, 256, (24, 24, 3), dtype=np.uint8)).save(path)
    bad, jpeg = root / "train" / "a", (root / "train" / "a" / "0.jpg").read_bytes()
    Image.new("L", (20_000, 20_000)).save(bad / "bomb.png")
    Image.fromarray(draw.randint(0, 256, (24, 24, 3), dtype=np.uint8)).save(bad / "chunk.png")
    png = bytearray((bad / "chunk.png").read_bytes())
    png[len(png) // 2] ^= 0xFF
    (bad / "chunk.png").write_bytes(png)
    (bad / "half.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (bad / "no_end.jpg").write_bytes(jpeg[:-2])
    (bad / "nothing.jpg").write_bytes(b"")
    (bad / "page.jpg").write_bytes(b"<html>404 Not Found</html>")
    (bad / "folder.jpg").mkdir()
    # Root may read everything, so that a file without permission is not among them.
    (bad / "nowhere.jpg").symlink_to(tmp_path / "gone.jpg")
    return root


def test_eight_bad_files_are_listed_borne_and_never_evaluated_on(folder_with_eight_bad, tmp_path):
    # Four steps of 16 images see all 64.
    options = ("--data", f"imagefolder:{folder_with_eight_bad}", "--workers", "1")
    options += ("--set", "batch_total=16", "--set", "epochs=1", "--set", "warmup_epochs=0")
    job = Job(tmp_path / "run", *options)
    assert job.end() == 0, job.said
    rows = [json.loads(row) for row in (job.output / "bad_images.jsonl").read_text().splitlines()]
    assert {Path(row["image"]).name: row["damage"] for row in rows} == {
        "bomb.png": "too large",
        "chunk.png": "corrupt",
        "half.jpg": "truncated",
        "no_end.jpg": "truncated",
        "nothing.jpg": "empty",
        "page.jpg": "not an image",
        "folder.jpg": "unreadable",
        "nowhere.jpg": "missing",
    }
    assert len(rows) == 8

    few = Job(tmp_path / "few", *options, "--max-bad", "3")
    assert few.end() == 65, few.said
    assert "images are damaged, more than --max-bad 3" in few.said
    assert few.status["state"] == "failed"

    command = [sys.executable, "-m", "moco_eval.cli", "knn", str(job.output / "checkpoint.pth.tar")]
    command += ["--data", f"imagefolder:{folder_with_eight_bad}", "--results", str(tmp_path / "r")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )
    assert done.returncode == 65, done.stderr
    assert "cannot be decoded" in done.stderr
