import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from moco_eval import store, suite
from moco_eval.encoders.hints import Hints
from moco_eval.suite.board import Board
from moco_eval.suite.ledger import Ledger
from moco_eval.suite.pool import Worker
from moco_eval.suite.runner import Runner, Settings
from moco_eval.suite.tasks import Refused
from moco_eval.suite.watch import Watch
from moco_eval.training.signals import StopRequest
from pretrain import cli as pretraining

KNN = suite.Cell(protocol="knn", encoder="", data="digits", overrides=("other_k=[]",))


def watch(folder, *, place=None, timeout_s=1e9):
    return Watch(
        str(place or folder / "run"),
        keep=folder / "watched",
        timeout_s=timeout_s,
        cells_of=lambda encoder: [
            replace(KNN, encoder=encoder.spec, name=encoder.name, hints=HINTS)
        ],
    )


HINTS = Hints(arch="resnet10_small", input="half,size=8")


@pytest.fixture
def at_once(monkeypatch):
    """Files are taken to be whole when they did not change from one look to the next."""
    monkeypatch.setattr("moco_eval.suite.watch.SETTLED_S", 0.0)


def names(tasks):
    return [task.cell.name for task in tasks]


def test_each_checkpoint_is_an_encoder_once_by_its_bytes(tmp_path, write_checkpoint, at_once):
    run = tmp_path / "run"
    run.mkdir()
    feed = watch(tmp_path)
    assert feed.poll() == []
    write_checkpoint(run / "checkpoint_0000.pth.tar")
    (first,) = feed.poll()
    assert names([first]) == ["checkpoint_0000"]
    assert feed.poll() == []
    # A copy of it is not new, other weights under its name are.
    (run / "best.pth.tar").write_bytes((run / "checkpoint_0000.pth.tar").read_bytes())
    (run / "notes.txt").write_text("no checkpoint")
    assert feed.poll() == []
    write_checkpoint(run / "new.pth", seed=1)
    (run / "new.pth").replace(run / "checkpoint_0000.pth.tar")
    (second,) = feed.poll()
    assert second.cell.name.startswith("checkpoint_0000, ")
    assert second.run.encoder["tensor_sha256"] != first.run.encoder["tensor_sha256"]


def test_a_file_that_grows_is_left_until_it_does_not(tmp_path, write_checkpoint, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("moco_eval.suite.watch.time.monotonic", lambda: clock[0])
    (tmp_path / "run").mkdir()
    whole = tmp_path / "whole.pth"
    write_checkpoint(whole)
    content, growing = whole.read_bytes(), tmp_path / "run" / "a.pth"
    feed = watch(tmp_path)
    for part in (100, 1000, len(content)):
        growing.write_bytes(content[:part])
        assert feed.poll() == []
        clock[0] += 1.9
        assert feed.poll() == []
    clock[0] += 0.2
    assert names(feed.poll()) == ["a"]


def test_a_checkpoint_stays_until_its_cells_have_ended(tmp_path, write_checkpoint, at_once):
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "a.pth"
    write_checkpoint(path)
    (task,) = watch(tmp_path).poll()
    path.unlink()  # by a pretraining that keeps the last two
    # A watch that is started anew goes on with what the first one kept.
    feed = watch(tmp_path)
    (again,) = feed.poll()
    assert (again.cell.name, again.key) == ("a", task.key)
    assert Path(again.cell.encoder).exists()
    feed.ended(again)
    assert list((tmp_path / "watched").iterdir()) == []


def test_what_is_no_encoder_is_refused_and_the_watch_goes_on(tmp_path, at_once):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "optimizer.pth").write_bytes(b"nothing")
    (refused,) = watch(tmp_path).poll()
    assert isinstance(refused, Refused)


def test_a_watch_ends_when_the_pretraining_says_so_or_is_silent(tmp_path, at_once, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("moco_eval.suite.watch.time.monotonic", lambda: clock[0])
    run = tmp_path / "run"
    run.mkdir()
    for state, is_over in (("preempted", False), ("done", True), ("diverged", True)):
        (run / "status.json").write_text(json.dumps({"state": state}))
        feed = watch(tmp_path)
        feed.poll()
        assert feed.is_over == is_over
    (run / "status.json").unlink()
    feed = watch(tmp_path, timeout_s=60)
    for clock_s, is_over in ((59, False), (61, True)):
        clock[0] = clock_s
        feed.poll()
        assert feed.is_over == is_over


def test_a_pattern_of_files_is_watched_too(tmp_path, write_checkpoint, at_once):
    for name in ("a/checkpoint.pth.tar", "b/checkpoint.pth.tar", "b/other.pth"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_checkpoint(tmp_path / name, seed=len(name) + ord(name[0]))
    feed = watch(tmp_path, place=tmp_path / "*" / "checkpoint.pth.tar")
    assert sorted(names(feed.poll())) == ["a", "b"]


def test_all_checkpoints_of_a_pretraining_beside_it_are_evaluated(tmp_path):
    settings = ("epochs=4", "batch_total=128", "queue_size=512", "image_size=8", "dim=8")
    options = [word for pair in settings for word in ("--set", pair)]
    arguments = ["--recipe", "mocov2-digits", "--data", "digits", *options]
    arguments += ["--output", str(tmp_path / "run"), "--tensorboard", "false"]
    parsed = pretraining.parser().parse_args(arguments)
    trained = threading.Thread(target=pretraining.pretrain, args=(parsed, StopRequest()))
    feed = Watch(
        str(tmp_path / "run"),
        keep=tmp_path / "watched",
        timeout_s=60,
        cells_of=lambda encoder: [replace(KNN, encoder=encoder.spec, name=encoder.name)],
    )
    board = Board("watch", num_at_once=1)
    settings = Settings(results=tmp_path / "results", work=tmp_path / "work")
    runner = Runner(settings, [Worker({"OMP_NUM_THREADS": "1"})], Ledger(settings.results), board)
    trained.start()
    tally = runner.run([], StopRequest(), feed)
    trained.join()
    assert (tally.failed, tally.refused) == ([], [])
    # The pretraining keeps two of them, and publishes the last under another name.
    found = {record["encoder"]["id"] for record in store.read_all(tmp_path / "results")[0]}
    assert found == {f"run, epoch {epoch}, step {11 * epoch}" for epoch in (1, 2, 3, 4)}
    assert len(tally.done) == 4
    assert list((tmp_path / "watched").iterdir()) == []
