"""Cells in worker processes that fail, are killed and are stopped."""

import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from moco_eval import store, suite
from moco_eval.errors import UsageError
from moco_eval.suite import claims
from moco_eval.suite.board import Board
from moco_eval.suite.ledger import Ledger
from moco_eval.suite.pool import Worker, slots
from moco_eval.suite.runner import FOLDER, Runner, Settings
from moco_eval.suite.tasks import identified
from moco_eval.training.signals import StopRequest

QUICK = suite.Cell(
    protocol="knn", encoder="pixels", data="digits", name="raw", overrides=("other_k=[]",)
)
DIVERGES = suite.Cell(
    protocol="linear",
    recipe="sgd-digits",
    encoder="pixels",
    data="digits",
    overrides=("lr=1e20", "epochs=1"),
)
REFUSED = replace(QUICK, overrides=("k=5000",))
# Hours, if nobody ends it.
LONG = suite.Cell(
    protocol="lowshot",
    recipe="5-shot-finetune",
    encoder="random:resnet10_small",
    data="digits",
    overrides=("num_draws=1", "num_steps=100000"),
)


class NoCells:
    """What feeds of these tests share: no cell comes from them, so the end of none matters."""

    is_over = True

    def ended(self, task):
        """Nothing follows."""


class WhenBegun(NoCells):
    """It acts once when a cell trains, and so listens for SIGTERM."""

    def __init__(self, action):
        self.action, self.runner, self.is_done = action, None, False

    def poll(self):
        if not self.is_done and any(map(listens, self.runner.running)):
            self.is_done = True
            self.action(self.runner)
        return ()


def listens(worker):
    """Whether its process catches SIGTERM."""
    status = Path(f"/proc/{worker._process.pid}/status").read_text()
    caught = int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def run(folder, cells, *, jobs=1, act=None, stop=None, **options):
    settings = Settings(results=folder / "results", work=folder / "work", **options)
    workers = [Worker(slot) for slot in slots(jobs=jobs, gpus=())]
    ledger = Ledger(settings.results)
    runner = Runner(settings, workers, ledger, Board("test", num_at_once=jobs))
    feed = WhenBegun(act) if act else None
    if feed:
        feed.runner = runner
    return runner.run(identified(cells), stop or StopRequest(), feed)


def statuses(tmp_path):
    found, problems = store.read_all(tmp_path / "results")
    assert problems == []
    return sorted((record["protocol"]["id"], record["status"]) for record in found)


def record_of(tmp_path, task):
    return store.find(tmp_path / "results", task.key)


def test_what_fails_or_is_refused_or_killed_does_not_keep_the_rest(tmp_path, capsys):
    def kill(runner):
        (worker,) = runner.running
        os.kill(worker._process.pid, signal.SIGKILL)

    tally = run(tmp_path, [LONG, REFUSED, DIVERGES, QUICK], act=kill)
    assert [task.cell for task in tally.done] == [QUICK]
    assert [refused.cell for refused in tally.refused] == [REFUSED]
    (killed, how), (diverged, why) = tally.failed
    assert (killed.cell, diverged.cell) == (LONG, DIVERGES)
    assert "was killed by SIGKILL, perhaps for want of memory" in how
    assert "has diverged" in why
    assert statuses(tmp_path) == [
        ("knn", "ok"),
        ("linear-sgd", "failed"),
        ("lowshot-finetune", "failed"),
    ]
    # The log of the killed one is where its record says.
    log = tmp_path / "work" / killed.folder / "log.txt"
    assert str(log) in how
    assert log.read_text()
    assert not (tmp_path / "results" / FOLDER).exists()
    said = capsys.readouterr().out
    assert "[4/4] knn other_k=[] on digits, raw, seed 0: top1" in said
    # What failed is not repeated unasked, and is told of.
    again = run(tmp_path, [LONG, DIVERGES, QUICK])
    assert (again.done, [task.cell for task in again.before]) == ([], [QUICK])
    assert all("--rerun failed repeats it" in text for _, text in again.failed)
    assert len(again.failed) == 2


def test_a_suite_that_is_stopped_saves_what_runs_and_goes_on(tmp_path):
    short = replace(LONG, overrides=("num_draws=1", "num_steps=100"))
    stop = StopRequest()

    def ask(runner):
        stop.reason = "SIGTERM"

    tally = run(tmp_path, [short, QUICK], act=ask, stop=stop)
    assert [task.cell for task in tally.stopped] == [short, QUICK]
    assert statuses(tmp_path) == [("lowshot-finetune", "preempted")]
    assert not (tmp_path / "results" / FOLDER).exists()
    again = run(tmp_path, [short, QUICK], rerun="missing")
    assert len(again.done) == 2
    assert statuses(tmp_path) == [
        ("knn", "ok"),
        ("lowshot-finetune", "ok"),
        ("lowshot-finetune", "preempted"),
    ]
    found = {task.cell.protocol: record_of(tmp_path, task) for task in again.done}
    assert found["lowshot"]["time"]["num_resumes"] == 1
    assert found["knn"]["time"]["num_resumes"] == 0


def test_what_others_have_is_waited_for_or_left(tmp_path, monkeypatch):
    monkeypatch.setattr("moco_eval.suite.runner.LOOK_EVERY_S", 0.2)
    (task,) = identified([QUICK])
    claim = claims.acquire(tmp_path / "results" / FOLDER, task.key)
    tally = run(tmp_path, [QUICK], waits=False)
    assert [each.cell for each in tally.elsewhere] == [QUICK]
    assert statuses(tmp_path) == []

    class Other(NoCells):
        """It ends while we wait: after its record is there, its claim goes."""

        num_looks = 0

        def poll(self):
            self.num_looks += 1
            if self.num_looks == 3:
                suite.run_cell(QUICK, results=tmp_path / "results", work_dir=tmp_path / "other")
                claim.release()
            return ()

    settings = Settings(results=tmp_path / "results", work=tmp_path / "work")
    runner = Runner(settings, [Worker({})], Ledger(settings.results), Board("t", num_at_once=1))
    tally = runner.run(identified([QUICK]), StopRequest(), Other())
    assert [each.cell for each in tally.before] == [QUICK]
    assert (tally.done, tally.elsewhere) == ([], [])
    assert statuses(tmp_path) == [("knn", "ok")]


def test_two_processes_leave_what_one_would_and_always_repeats_it(tmp_path):
    cells = [QUICK, replace(QUICK, overrides=("k=3", "other_k=[]")), replace(QUICK, seed=1)]
    folders = {"results": tmp_path / "results", "work_dir": tmp_path / "work"}
    done = suite.run_all(cells, **folders, num_processes=2)
    assert len(done) == 3
    alone = suite.run_cell(QUICK, results=tmp_path / "alone", work_dir=tmp_path / "alone-work")
    both = next(r for r in done if r["config"] == alone["config"] and r["seed"] == 0)
    assert both["metrics"] == alone["metrics"]
    # The folder of each says which record it is of.
    path = tmp_path / "work" / suite.folder_of(QUICK) / "run_id"
    assert path.read_text().strip() == both["run_id"]
    # What is recorded is not run again, unless that is asked for.
    assert len(suite.run_all(cells, **folders, num_processes=2)) == 3
    assert len(store.read_all(tmp_path / "results")[0]) == 3
    path.with_name("model.pth").write_text("what was trained is not taken for trained again")
    assert len(run(tmp_path, [QUICK], rerun="always").done) == 1
    assert not path.with_name("model.pth").exists()
    found = {record["run_id"]: record for record in store.read_all(tmp_path / "results")[0]}
    assert len(found) == 3
    assert both["run_id"] not in found
    (new,) = [record for record in found.values() if record["supersedes"]]
    assert (new["supersedes"], new["metrics"]) == (both["run_id"], both["metrics"])


def test_a_cell_that_cannot_be_run_is_refused_before_the_others_run(tmp_path):
    cells = [QUICK, replace(QUICK, encoder="no.pth")]
    with pytest.raises(UsageError, match=r"no file no\.pth"):
        suite.run_all(cells, results=tmp_path / "results", work_dir=tmp_path / "work")
    assert statuses(tmp_path) == []
