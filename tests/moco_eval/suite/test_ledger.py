import dataclasses

import pytest

from moco_eval import records, store
from moco_eval.cell import Cell
from moco_eval.suite.dry_run import describe, lines_of
from moco_eval.suite.estimates import Estimates, Kind
from moco_eval.suite.ledger import Ledger
from moco_eval.suite.tasks import Refused, Task

CELL = Cell(protocol="knn", encoder="x.pth", name="x", data="digits", recipe="knn-20")
RUN = records.Run(
    encoder_id="x",
    encoder={"tensor_sha256": "ab"},
    protocol="knn",
    version=1,
    recipe="knn-20",
    config={"k": 20},
    deviations={},
    dataset={"id": "digits", "num_train": 2, "num_test": 2, "num_classes": 2, "fingerprint": "f"},
    seed=0,
)


def task(seed):
    run = dataclasses.replace(RUN, seed=seed)
    return Task(dataclasses.replace(CELL, seed=seed), run, run.key())


def record(results, of, status, *, wall_s=1.0, supersedes=None):
    outcome = records.Outcome(metrics={"top1": 50.0}, num_test=2, details={})
    path = records.write(
        of.run,
        results,
        status=status,
        outcome=outcome if status == "ok" else None,
        error=None if status == "ok" else "it broke",
        environment={},
        time={"wall_s": wall_s},
        supersedes=supersedes,
    )
    return records.read(path)


@pytest.fixture
def tasks(tmp_path):
    """By how their cell ended before; ``twice`` failed, then succeeded."""
    found = {name: task(i) for i, name in enumerate(("none", "preempted", "failed", "ok", "twice"))}
    for name in ("preempted", "failed", "ok"):
        record(tmp_path, found[name], name)
    record(tmp_path, found["twice"], "ok")
    record(tmp_path, found["twice"], "failed")
    return found


@pytest.mark.parametrize(
    ("rerun", "wanted"),
    [
        ("never", {"none"}),
        ("missing", {"none", "preempted"}),
        ("failed", {"none", "preempted", "failed"}),
        ("always", {"none", "preempted", "failed", "ok", "twice"}),
    ],
)
def test_each_way_to_rerun_wants_its_cells(tmp_path, tasks, rerun, wanted):
    ledger = Ledger(tmp_path)
    assert {name for name, each in tasks.items() if ledger.wants(each.key, rerun)} == wanted


def test_what_another_job_recorded_since_is_not_wanted_even_always(tmp_path, tasks):
    ledger = Ledger(tmp_path)
    for name in ("none", "failed", "ok"):
        record(tmp_path, tasks[name], "ok")
        ledger.look_again(tasks[name])
        assert not ledger.wants(tasks[name].key, "always")
        assert ledger.state(tasks[name].key) == "ok"
    record(tmp_path, tasks["preempted"], "failed")
    ledger.look_again(tasks["preempted"])
    assert not ledger.wants(tasks["preempted"].key, "failed")
    assert ledger.record(tasks["preempted"].key)["error"] == "it broke"
    # Nothing is new of the last one.
    ledger.look_again(tasks["twice"])
    assert ledger.wants(tasks["twice"].key, "always")


def test_records_from_a_time_on_are_as_good_as_new(tmp_path, tasks):
    first = min(head["created"] for head in store.read_all(tmp_path)[0])
    assert not Ledger(tmp_path, since=first).wants(tasks["ok"].key, "always")
    assert Ledger(tmp_path, since="9999").wants(tasks["ok"].key, "always")
    assert Ledger(tmp_path, since=first).wants(tasks["preempted"].key, "missing")


def test_a_withdrawn_record_is_none(tmp_path, tasks):
    found = Ledger(tmp_path).record(tasks["ok"].key)
    store.retract(tmp_path, found["run_id"], reason="wrong images")
    assert Ledger(tmp_path).wants(tasks["ok"].key, "missing")


def test_a_stopped_run_goes_on_and_a_whole_one_begins_anew(tmp_path, tasks):
    ledger = Ledger(tmp_path)
    assert ledger.is_stopped(tasks["preempted"].key)
    assert not ledger.is_stopped(tasks["ok"].key)
    # It was being repeated when it was stopped.
    record(tmp_path, tasks["ok"], "preempted")
    assert Ledger(tmp_path).is_stopped(tasks["ok"].key)


def test_a_time_is_the_mean_of_what_was_recorded_of_that_kind(tmp_path):
    record(tmp_path, task(0), "ok", wall_s=10.0)
    record(tmp_path, task(1), "ok", wall_s=20.0)
    record(tmp_path, task(2), "failed", wall_s=1e9)
    estimates = Estimates(Ledger(tmp_path).heads)
    assert estimates.of(Kind("knn", "knn-20", "digits")) == 15.0
    assert estimates.of(Kind("knn", "knn-200", "digits")) is None


def test_the_plan_says_what_is_done_what_would_run_and_how_long_that_takes(tmp_path, tasks):
    refused = Refused(dataclasses.replace(CELL, seed=8), ValueError("no such file"))
    unmade = dataclasses.replace(CELL, name="y", seed=9)
    ledger = Ledger(tmp_path, may_write=False)
    lines = lines_of([*tasks.values(), refused], [unmade], ledger, "missing")
    assert [(line.state, line.is_to_run) for line in lines] == [
        ("to run", True),
        ("to run, stopped before", True),
        ("failed", False),
        ("done", False),
        ("done", False),
        ("cannot be run", False),
        ("to run, pretrained first", True),
    ]
    text = describe(lines, num_at_once=2)
    # Three runs of a second each, two at once.
    assert "With 2 at once: about 1.5 s." in text
    assert "1 cannot be run: no such file" in text
    totals = next(row for row in text.splitlines() if row.startswith("all"))
    assert totals.split() == ["all", "7", "2", "1", "3", "3.0", "s"]
    # Nothing was written, the store's index neither.
    assert not (tmp_path / ".index.parquet").exists()
