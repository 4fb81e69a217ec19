"""Runners that are killed at any moment, and two that run the same suite."""

import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter

import pytest

from moco_eval import cli, store

pytestmark = pytest.mark.faults

NUM_KILLS = 10
SEED = 10
SUITE = """
[[encoders]]
name = "a"
encoder = "random:resnet10_small"
[[encoders]]
name = "b"
encoder = "random:resnet10_small@1"
[[runs]]
protocol = "linear"
recipe = "ridge"
data = "digits"
trials = 30
"""
# Beside it what fails: that is recorded once as well.
DIVERGING = """
[[runs]]
protocol = "linear"
recipe = "sgd-digits"
data = "digits"
set = ["lr=1e20", "epochs=1"]
once = true
"""
NUM_CELLS = 60


def command(folder, arguments):
    """``moco-eval run`` in a group of its own, without the seconds that imports take."""
    os.setsid()
    os.chdir(folder)
    with (folder / f"said-{os.getpid()}.txt").open("w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    sys.argv = ["moco-eval", "run", *arguments]
    cli.main()


def start(folder, *arguments):
    context = multiprocessing.get_context("fork")
    process = context.Process(target=command, args=(folder, arguments))
    process.start()
    return process


def said(folder):
    return "\n".join(path.read_text() for path in folder.glob("said-*.txt"))


def ok_by_key(folder):
    found, problems = store.read_heads(folder / "results")
    assert problems == []
    return Counter(head["key"] for head in found if head["status"] == "ok")


def test_a_runner_that_is_killed_ten_times_leaves_every_cell_once(tmp_path):
    (tmp_path / "s.toml").write_text(SUITE)
    draw = random.Random(SEED)
    num_recorded = []
    for _ in range(NUM_KILLS):
        process = start(tmp_path, "s.toml", "--jobs", "2")
        claims = tmp_path / "results" / ".claims"
        own = f'"pid": {process.pid},'
        while process.is_alive() and not any(own in path.read_text() for path in files(claims)):
            time.sleep(0.05)
        # While its workers start, or after a few of their cells: each takes a moment.
        before = sum(ok_by_key(tmp_path).values())
        ends_s = time.monotonic() + 60
        if draw.random() < 0.5:
            while sum(ok_by_key(tmp_path).values()) == before and time.monotonic() < ends_s:
                time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.1))
        assert process.is_alive(), said(tmp_path)
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        num_recorded.append(sum(ok_by_key(tmp_path).values()))
    # Some were killed between cells, and none had done all.
    assert 0 < num_recorded[-1] < NUM_CELLS
    process = start(tmp_path, "s.toml", "--jobs", "2")
    process.join(120)
    assert process.exitcode == 0, said(tmp_path)
    assert list(ok_by_key(tmp_path).values()) == [1] * NUM_CELLS
    assert not (tmp_path / "results" / ".claims").exists()


def test_two_runners_at_once_do_no_cell_twice(tmp_path):
    (tmp_path / "s.toml").write_text(SUITE + DIVERGING)
    both = [start(tmp_path, "s.toml", "--jobs", "1", "--work", f"work{i}") for i in range(2)]
    for process in both:
        process.join(180)
    # Each knows of the failures, whoever had them.
    assert [process.exitcode for process in both] == [70, 70], said(tmp_path)
    assert list(ok_by_key(tmp_path).values()) == [1] * NUM_CELLS
    found, _ = store.read_heads(tmp_path / "results")
    assert sorted(head["status"] for head in found) == ["failed"] * 2 + ["ok"] * NUM_CELLS
    # They did divide it.
    shares = [len(list(tmp_path.glob(f"work{i}/**/run_id"))) for i in range(2)]
    assert sum(shares) == NUM_CELLS + 2
    assert min(shares) > 0
    assert not (tmp_path / "results" / ".claims").exists()


def files(claims):
    """Their paths, of which some may be gone the next moment."""
    return [path for path in claims.glob("*.[0-9]*") if not path.name.startswith(".")]
