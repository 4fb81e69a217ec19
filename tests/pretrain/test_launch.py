"""Starting ranks, watching them, and what SLURM is given; a shell script stands for the ranks."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pretrain import slurm
from pretrain.heartbeat import Heartbeat, silent_ranks
from pretrain.launch import launch

ROOT = Path(__file__).parents[2]
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
    assert launch(["--seed", "7"], 3) == 0
    # Twelve cores for three ranks are four threads for each.
    assert [(tmp_path / f"rank-{rank}").read_text().split() for rank in range(3)] == [
        [f"{rank}", f"{rank}", "3", "127.0.0.1", "4", "-m", "pretrain.cli", "--seed", "7"]
        for rank in range(3)
    ]


def test_a_number_of_threads_that_is_asked_for_is_kept(stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    stand_in("echo $OMP_NUM_THREADS > threads-$RANK")
    assert launch([], 1) == 0
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
    assert launch([], 2) == code
    assert told in capfd.readouterr().err


def test_asked_to_stop_is_no_failure(stand_in, capfd):
    stand_in("exit 75")
    assert launch([], 2) == 75
    assert capfd.readouterr().err == ""


def test_ranks_that_outlive_a_failed_one_are_killed(stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr("pretrain.launch.GRACE_S", 0.3)
    stand_in("[ $RANK = 0 ] && exit 70; echo $$ > pid; trap '' TERM; exec sleep 60")
    begun_s = time.monotonic()
    assert launch([], 2) == 70
    assert 0.3 <= time.monotonic() - begun_s < 5
    assert not is_alive(int((tmp_path / "pid").read_text()))


def launcher(executable):
    code = f"import sys; sys.executable = {str(executable)!r}\nfrom pretrain.launch import launch\n"
    return subprocess.Popen(
        [PYTHON, "-c", f"{code}sys.exit(launch([], 2))"],
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
    assert process.wait(10) == 75


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


def batch_file(*own, run=("--recipe", "mocov3-vit-small", "--output", "runs/it's mine")):
    asked = slurm.parser().parse_args([*own])
    return slurm.batch_file(asked, run, name="pretrain-mocov3-vit-small")


def test_a_batch_file_asks_for_what_the_options_say():
    text = batch_file("--nodes", "2", "--gpus", "4", "--partition", "long", "--time", "8:00:00")
    for line in (
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=4",
        "#SBATCH --gpus-per-node=4",
        "#SBATCH --partition=long",
        "#SBATCH --time=8:00:00",
        "#SBATCH --signal=USR1@300",
        "#SBATCH --requeue",
    ):
        assert f"\n{line}\n" in text
    assert "partition" not in batch_file()


def test_a_batch_file_runs_quotes_and_queues_again_after_75_alone(tmp_path):
    # Stand-ins for SLURM's commands: srun runs its task once, as rank 1 of 8.
    for name, script in {
        "scontrol": 'echo "$@" >> told; [ $1 = show ] && echo node-a',
        "srun": 'SLURM_PROCID=1 SLURM_LOCALID=1 SLURM_NTASKS=8 "$@"',
        "moco-pretrain": 'printf "%s\\n" $RANK/$WORLD_SIZE $MASTER_ADDR "$@" > ran; exit $CODE',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "job").write_text(batch_file())
    checked = subprocess.run(["bash", "-n", "job"], cwd=tmp_path, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, b"")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "42"}
    environment["SLURM_JOB_NODELIST"] = "node-[a-b]"
    for code, requeued in ((0, []), (70, []), (75, ["requeue 42"])):
        (tmp_path / "told").unlink(missing_ok=True)
        done = subprocess.run(
            ["bash", "job"], cwd=tmp_path, env=environment | {"CODE": str(code)}, check=False
        )
        assert done.returncode == code
        told = (tmp_path / "told").read_text().splitlines()
        assert [line for line in told if line.startswith("requeue")] == requeued
    expected = ["1/8", "node-a", "--recipe", "mocov3-vit-small", "--output", "runs/it's mine"]
    assert (tmp_path / "ran").read_text().splitlines() == expected


def test_a_batch_file_for_an_unknown_recipe_is_refused():
    command = [sys.executable, "-m", "pretrain.cli", "slurm", "--recipe", "nosuch"]
    command += ["--data", "digits", "--output", "out"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert done.returncode == 2
    assert "There is no recipe 'nosuch'" in done.stderr
    assert done.stdout == ""
