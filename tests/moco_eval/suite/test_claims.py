import json
import multiprocessing
import os
import time

import pytest

from moco_eval.errors import OutputError
from moco_eval.suite import claims

KEY = "0123abcd"


def elsewhere(folder, number, *, silent_s=0.0, token="theirs"):
    """A claim that another machine made, and has not touched for so long."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{KEY}.{number}"
    told = {"host": "node7", "machine": "node7 boot 1", "pid": 1, "pid_started": "9"}
    path.write_text(json.dumps(told | {"token": token}))
    then_s = time.time() - silent_s
    os.utime(path, (then_s, then_s))
    return path


def test_of_two_who_ask_one_gets_it_until_it_lets_go(tmp_path):
    mine = claims.acquire(tmp_path, KEY)
    assert mine.holds()
    assert claims.acquire(tmp_path, KEY) is None
    assert claims.holder_of(tmp_path, KEY) == mine.holder
    assert claims.acquire(tmp_path, "another") is not None
    mine.release()
    assert claims.holder_of(tmp_path, KEY) == ""
    assert claims.acquire(tmp_path, KEY).number == 1


def test_what_another_machine_touches_is_its_own_and_what_it_does_not_is_taken(tmp_path):
    elsewhere(tmp_path, 1, silent_s=50)
    assert claims.acquire(tmp_path, KEY, timeout_s=60) is None
    assert claims.holder_of(tmp_path, KEY) == "process 1 on node7"
    elsewhere(tmp_path, 1, silent_s=70)
    mine = claims.acquire(tmp_path, KEY, timeout_s=60)
    assert (mine.number, mine.holds()) == (2, True)
    # The one before goes too, or it would be valid again.
    mine.release()
    assert list(tmp_path.iterdir()) == []


def test_a_beat_keeps_a_claim(tmp_path):
    mine = claims.acquire(tmp_path, KEY)
    os.utime(mine.path, (0, 0))
    mine.beat()
    assert time.time() - mine.path.stat().st_mtime < 60
    mine.path.unlink()
    mine.beat()  # by a holder that was taken for dead
    assert not mine.path.exists()


def test_a_holder_that_was_taken_for_dead_sees_it_and_leaves_the_new_claim_alone(tmp_path):
    mine = claims.acquire(tmp_path, KEY)
    theirs = elsewhere(tmp_path, 2)
    assert not mine.holds()
    mine.release()
    assert theirs.exists()


def claim_and_wait(folder, has_claimed):
    claims.acquire(folder, KEY)
    has_claimed.set()
    time.sleep(600)


def test_the_claim_of_a_process_that_is_gone_is_free_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    has_claimed = context.Event()
    process = context.Process(target=claim_and_wait, args=(tmp_path, has_claimed))
    process.start()
    assert has_claimed.wait(60)
    os.utime(tmp_path / f"{KEY}.1", (0, 0))
    # However long it is silent: it is seen to live.
    assert claims.acquire(tmp_path, KEY, timeout_s=1) is None
    process.kill()
    process.join()
    assert claims.acquire(tmp_path, KEY, timeout_s=1e9).number == 2


def test_a_process_that_has_the_number_of_a_dead_one_does_not_keep_its_claim(tmp_path):
    mine = claims.acquire(tmp_path, KEY)
    mine.path.write_text(json.dumps(mine.told | {"pid_started": "1"}))
    assert claims.acquire(tmp_path, KEY).number == 2


def test_who_judged_a_claim_that_is_gone_since_takes_nothing_over(tmp_path, monkeypatch):
    path = elsewhere(tmp_path, 1, silent_s=1e6)
    create = claims._create

    def slowly(new, content):
        # Meanwhile another took over, ran the cell, let go; and a third claims it anew.
        path.write_text(json.dumps({"token": "third", "host": "node9"}))
        return create(new, content)

    monkeypatch.setattr(claims, "_create", slowly)
    assert claims.acquire(tmp_path, KEY) is None
    assert [each.name for each in tmp_path.iterdir()] == [f"{KEY}.1"]


def test_a_claim_that_is_damaged_counts_by_its_age(tmp_path):
    path = elsewhere(tmp_path, 1, silent_s=0)
    path.write_text("{")
    assert claims.acquire(tmp_path, KEY, timeout_s=60) is None
    os.utime(path, (0, 0))
    assert claims.acquire(tmp_path, KEY, timeout_s=60).number == 2


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file.* cannot be written"):
        claims.acquire(tmp_path / "file", KEY)


def test_what_the_dead_have_left_is_removed_and_nothing_else(tmp_path):
    mine = claims.acquire(tmp_path, KEY)
    dead = json.dumps(mine.told | {"pid_started": "1"})
    (tmp_path / "dead.1").write_text(dead)
    (tmp_path / ".dead.2.abcd").write_text(dead)  # killed before it was linked
    (tmp_path / ".clock-abcd").touch()
    os.utime(tmp_path / ".clock-abcd", (0, 0))
    (tmp_path / ".clock-ef01").touch()
    claims.tidy(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {mine.path.name, ".clock-ef01"}
    (tmp_path / ".clock-ef01").unlink()
    mine.release()
    claims.tidy(tmp_path)
    assert not tmp_path.exists()
    claims.tidy(tmp_path)


def race(folder, number, answers=None):
    """Try to get each of 200 keys, do what nobody has done, and return the keys of that."""
    got = []
    for key in range(200):
        claim = claims.acquire(folder / "claims", f"k{key:03d}", timeout_s=60)
        if claim is None:
            continue
        done = folder / f"done-{key}"
        if not done.exists():  # as a runner looks at the records once more
            assert claim.holds()
            done.write_text(str(number))
            got.append(key)
        claim.release()
    if answers:
        answers.put(got)
    return got


def test_of_four_processes_each_key_is_done_by_one(tmp_path):
    # Every third key was held by a machine that is dead.
    (tmp_path / "claims").mkdir()
    for key in range(0, 200, 3):
        path = tmp_path / "claims" / f"k{key:03d}.1"
        path.write_text(json.dumps({"machine": "dead", "token": "x", "pid": 1}))
        os.utime(path, (0, 0))
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [
        context.Process(target=race, args=(tmp_path, number, answers)) for number in range(4)
    ]
    for process in processes:
        process.start()
    done = sorted(key for _ in processes for key in answers.get(timeout=60))
    for process in processes:
        process.join()
    # None twice. Some may be left, where all were in each other's way: a runner asks again.
    assert len(done) == len(set(done))
    assert set(race(tmp_path, 9)) == set(range(200)) - set(done)
    assert list((tmp_path / "claims").iterdir()) == []
