"""Starting ranks and watching them; a shell script stands for the ranks."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moco_eval.training.heartbeat import Heartbeat, silent_ranks
from moco_eval.training.launch import launch

ROOT = Path(__file__).parents[3]
PYTHON = sys.executable


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Let a shell script take the place of Python in what ``launch`` starts."""

    def put(script):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/bash\ncd {shlex.quote(str(tmp_path))}\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))
        return path

    return put


def wait_for(answer):
    ends_s = time.monotonic() + 10
    while not (found := answer()) and time.monotonic() < ends_s:
        time.sleep(0.02)
    return found


def is_alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_ranks_that_end_well_end_the_run_well(stand_in, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    stand_in('echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $OMP_NUM_THREADS $*" > rank-$RANK')
    assert launch("a.module", ["--seed", "7"], 3, program="ours") == 0
    # Twelve cores for three ranks are four threads for each.
    assert [(tmp_path / f"rank-{rank}").read_text().split() for rank in range(3)] == [
        [f"{rank}", f"{rank}", "3", "127.0.0.1", "4", "-m", "a.module", "--seed", "7"]
        for rank in range(3)
    ]


def test_a_number_of_threads_that_is_asked_for_is_kept(stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    stand_in("echo $OMP_NUM_THREADS > threads-$RANK")
    assert launch("a.module", [], 1, program="ours") == 0
    assert (tmp_path / "threads-0").read_text() == "5\n"


@pytest.mark.parametrize(
    ("script", "code", "told"),
    [
        ("[ $RANK = 0 ] && exit 65; sleep 0.2; exit 2", 65, "rank 0 ended with exit code 65"),
        # Who only misses another rank, and says so first, is not the cause.
        ("[ $RANK = 0 ] && exit 70; sleep 0.2; exit 74", 74, "rank 1 ended with exit code 74"),
        ("[ $RANK = 1 ] && kill -9 $$; exit 70", 70, "rank 1 ended with signal SIGKILL"),
        ("[ $RANK = 1 ] && kill -SEGV $$; sleep 0.2; exit 70", 70, "signal SIGSEGV"),
        ("exit 70", 70, "rank 0 ended with exit code 70"),
    ],
)
def test_the_rank_that_is_the_cause_gives_the_exit_code(stand_in, capfd, script, code, told):
    stand_in(script)
    assert launch("a.module", [], 2, program="ours") == code
    said = capfd.readouterr().err
    assert said.startswith("ours: rank ")
    assert told in said


def test_asked_to_stop_is_no_failure(stand_in, capfd):
    stand_in("exit 75")
    assert launch("a.module", [], 2, program="ours") == 75
    assert capfd.readouterr().err == ""


def test_ranks_that_outlive_a_failed_one_are_killed(stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr("moco_eval.training.launch.GRACE_S", 0.3)
    stand_in("[ $RANK = 0 ] && exit 70; echo $$ > pid; trap '' TERM; exec sleep 60")
    begun_s = time.monotonic()
    assert launch("a.module", [], 2, program="ours") == 70
    assert 0.3 <= time.monotonic() - begun_s < 5
    assert not is_alive(int((tmp_path / "pid").read_text()))


def launcher(executable):
    code = f"""if True:
        import sys
        from moco_eval.training.launch import launch
        sys.executable = {str(executable)!r}
        sys.exit(launch("a.module", [], 2, program="ours"))"""
    return subprocess.Popen(
        [PYTHON, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_stop_signal_to_the_process_group_reaches_each_rank_once(stand_in, tmp_path, number):
    # As Ctrl-C, which a rank that heard it twice would take for impatience.
    (tmp_path / "rank.py").write_text(f"""if True:
        import os, signal, time
        heard, rank = [], os.environ["RANK"]
        signal.signal({number:d}, lambda *_: heard.append("heard"))
        open(f"pid-{{rank}}", "w").close()
        while not heard:
            time.sleep(0.01)
        time.sleep(0.3)
        open(f"heard-{{rank}}", "w").write(" ".join(heard))
        raise SystemExit(75)""")
    script = stand_in(f"exec {shlex.quote(PYTHON)} rank.py")
    process = launcher(script)
    assert wait_for(lambda: all((tmp_path / f"pid-{rank}").exists() for rank in (0, 1)))
    os.killpg(process.pid, number)
    assert process.wait(10) == 75
    for rank in (0, 1):
        assert (tmp_path / f"heard-{rank}").read_text() == "heard"


def test_a_rank_that_did_not_listen_yet_was_stopped_all_the_same(stand_in, tmp_path):
    process = launcher(stand_in("echo $$ > pid-$RANK; exec sleep 60"))
    assert wait_for(lambda: all((tmp_path / f"pid-{rank}").exists() for rank in (0, 1)))
    process.terminate()
    assert process.wait(60) == 75


def test_ranks_die_with_their_launcher(stand_in, tmp_path):
    process = launcher(stand_in("echo $$ > pid-$RANK; exec sleep 60"))
    paths = [tmp_path / f"pid-{rank}" for rank in (0, 1)]
    assert wait_for(lambda: all(path.exists() and path.read_text() for path in paths))
    pids = [int(path.read_text()) for path in paths]
    process.kill()
    process.wait()
    assert wait_for(lambda: not any(is_alive(pid) for pid in pids))


def test_the_silent_rank_is_another_one_of_this_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    assert silent_ranks(tmp_path) == "No other rank was heard of."
    folder, now_s = tmp_path / ".ranks", time.time()
    folder.mkdir()
    # Rank 0 asks, so that it lives; rank 3 is left over from a larger run.
    for rank, age_s in enumerate((500, 7, 90, 1000)):
        path = folder / f"rank-{rank}"
        path.write_text(f"10{rank} step {rank}")
        os.utime(path, (now_s - age_s, now_s - age_s))
    assert silent_ranks(tmp_path).startswith("Longest silent: rank 2 (process 102), for 90 s")
    assert silent_ranks(tmp_path).endswith("since: step 2.")


def test_a_beat_tells_each_new_kind_of_work_at_once_and_of_steps_one_a_second(tmp_path):
    heart = Heartbeat(tmp_path)
    told = []
    for doing in ("step 1", "step 2", "saving after step 2", "step 3"):
        heart.beat(doing)
        told.append((tmp_path / ".ranks" / "rank-0").read_text().partition(" ")[2])
    assert told == ["step 1", "step 1", "saving after step 2", "step 3"]
    heart.last_s -= 1
    heart.beat("step 4")
    assert (tmp_path / ".ranks" / "rank-0").read_text() == f"{os.getpid()} step 4"
