import importlib.util
import os
import shutil
import signal
import sys
import time

import pytest

from moco_eval.errors import UsageError
from moco_eval.suite import slurm


def test_options_have_defaults_and_mistakes_are_refused():
    asked = slurm.parse("partition=gpu,array=8,gpus=2,time=1-02:30:00")
    assert asked == {**slurm.DEFAULTS, "partition": "gpu"} | {
        "array": "8",
        "gpus": "2",
        "time": "1-02:30:00",
    }
    for text, error in (
        ("partion=gpu", "Did you mean 'partition'"),
        ("gpu", "takes KEY=VALUE"),
        ("gpus=two", "gpus is a whole number"),
        ("array=0", "array is at least 1"),
        ("time=1h", "time is minutes, HH:MM:SS or D-HH:MM:SS"),
    ):
        with pytest.raises(UsageError, match=error):
            slurm.parse(text)


def test_times_are_read_as_slurm_writes_them():
    # 26.5 hours are 1590 minutes.
    for text, minutes in (("90", 90), ("02:30:00", 150), ("1-02:30:00", 1590), ("00:01:30", 1)):
        assert slurm.minutes(text) == minutes


def test_a_job_has_the_command_without_what_submitted_it():
    words = ["s.toml", "--slurm", "array=2,gpus=0", "--work", "w", "--slurm=x=y"]
    command = slurm.command_of(words, jobs=3)
    assert command[:4] == [sys.executable, "-m", "moco_eval.cli", "run"]
    assert command[4:9] == ["s.toml", "--work", "w", "--jobs", "3"]
    assert command[9] == "--since"
    # What is said is not said again; on GPUs there is one cell on each.
    said = slurm.command_of(["s.toml", "--jobs=5", "--since", "2026"], jobs=3)
    assert said[4:] == ["s.toml", "--jobs=5", "--since", "2026"]
    assert "--jobs" not in slurm.command_of(["s.toml"], jobs=0)


def test_what_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match="there is no sbatch here"):
        slurm.submit("", ["s.toml"], name="s", folder=tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'moco-eval\[slurm\]'"):
        slurm.submit("", ["s.toml"], name="s", folder=tmp_path)


# submitit leaves the processes that it started to themselves.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

STUB = """
import os, signal, sys, time
open(sys.argv[1], "a").write(f"{sys.argv[2:]}\\n")
signal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[1], "a").write("saved\\n"), os._exit(75)))
open(os.path.join(os.path.dirname(sys.argv[1]), "parent"), "w").write(str(os.getppid()))
time.sleep(float(os.environ.get("STUB_S", "0")))
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """In the place of ``moco-eval run``: notes how it was called, and that it was asked to stop."""
    script, notes = tmp_path / "stub.py", tmp_path / "notes.txt"
    script.write_text(STUB)
    command_of = slurm.command_of
    monkeypatch.setattr(
        slurm,
        "command_of",
        lambda *a, **k: [sys.executable, str(script), str(notes), *command_of(*a, **k)[4:]],
    )
    return notes


def wait_for(condition, timeout_s=60):
    ends_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_s
        time.sleep(0.1)


def test_an_array_is_as_many_runners_of_one_command(tmp_path, stub):
    submitit = pytest.importorskip("submitit")
    text = "cluster=local,array=2,gpus=0,cpus=1,time=5"
    told = slurm.submit(text, ["s.toml"], name="s", folder=tmp_path / "jobs")
    assert "Submitted 2 jobs" in told
    wait_for(lambda: len(list((tmp_path / "jobs").glob("*_result.pkl"))) == 2)
    first, second = stub.read_text().splitlines()
    assert first == second
    assert "'s.toml', '--jobs', '1', '--since'" in first
    assert submitit


def test_a_job_whose_time_is_up_saves_and_is_queued_again(tmp_path, stub, monkeypatch):
    submitit = pytest.importorskip("submitit")
    monkeypatch.setenv("STUB_S", "600")
    executor = submitit.AutoExecutor(tmp_path / "jobs", cluster="local")
    executor.update_parameters(timeout_min=60, cpus_per_task=1)
    job = executor.submit(slurm.Runner(slurm.command_of(["s.toml"], jobs=1)), 0)
    try:
        wait_for((tmp_path / "parent").exists)
        # What SLURM does before the time is up: it signals the job's own process.
        os.kill(int((tmp_path / "parent").read_text()), signal.SIGUSR2)
        wait_for(lambda: stub.read_text().count("s.toml") == 2)
        # Between the two it was let save.
        assert [line == "saved" for line in stub.read_text().splitlines()] == [False, True, False]
    finally:
        job.cancel()
        wait_for(lambda: job._process.poll() is not None)
