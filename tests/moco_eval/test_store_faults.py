"""Writers that are killed, disks that refuse: no record that was acknowledged is ever lost."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from moco_eval import store
from moco_eval.errors import OutputError

ROOT = Path(__file__).parents[2]
NUM_WRITERS = 8
# Here enough to kill about a hundred writers; tools/bench_store.py --faults sets it to 20,000.
NUM_RECORDS = int(os.environ.get("STORE_FAULTS_RECORDS", "2000"))
# A writer acknowledges some dozens of records before it is killed.
LIVES_S = 0.4

WRITER = """
import json, sys
from pathlib import Path
from moco_eval import record_file
record, results, writer = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), sys.argv[3]
folder = results / "knn" / "digits" / f"encoder-{int(writer) % 2}"
with open(results / f"acknowledged-{writer}.txt", "ab", buffering=0) as told:
    while True:
        path = record_file.save({**record, **record_file.stamp(2)}, folder)
        told.write(f"{path.name}\\n".encode())
"""


def keep_killing(template, results, number, is_enough):
    """One writer after the other, each killed at a random moment of its life."""
    moments = random.Random(number)
    command = [sys.executable, "-c", WRITER, str(template), str(results), str(number)]
    told = results / f"acknowledged-{number}.txt"
    while not is_enough.is_set():
        before = told.stat().st_size if told.exists() else 0
        with subprocess.Popen(command, cwd=ROOT) as writer:
            while not told.exists() or told.stat().st_size == before:
                assert writer.poll() is None, "a writer ended before it was killed"
                time.sleep(0.005)
            time.sleep(moments.uniform(0, LIVES_S))
            writer.kill()
        assert writer.returncode == -signal.SIGKILL
        with (results / f"kills-{number}.txt").open("a") as kills:
            kills.write("killed\n")


def acknowledged(results):
    return [
        name
        for path in results.glob("acknowledged-*.txt")
        for name in path.read_text().splitlines(keepends=True)
    ]


@pytest.mark.faults
def test_eight_writers_killed_at_any_moment_lose_and_tear_nothing(tmp_path, write_record):
    results = tmp_path / "results"
    results.mkdir()
    (template := tmp_path / "template.json").write_bytes(
        write_record(tmp_path / "other").read_bytes()
    )
    is_enough = threading.Event()
    killers = [
        threading.Thread(target=keep_killing, args=(template, results, number, is_enough))
        for number in range(NUM_WRITERS)
    ]
    for killer in killers:
        killer.start()
    while len(acknowledged(results)) < NUM_RECORDS and all(k.is_alive() for k in killers):
        time.sleep(0.1)
    is_enough.set()
    for killer in killers:
        killer.join()

    # Every one that was acknowledged is there, and none is torn.
    names = acknowledged(results)
    assert len(names) >= NUM_RECORDS
    assert all(name.endswith("\n") for name in names)
    whole, problems = store.read_all(results)
    assert problems == []
    found = {record["name"] for record in whole}
    assert {name.strip() for name in names} <= found
    # A writer may be killed when its record is whole and before it could say so: one each.
    num_kills = sum(len(p.read_text().splitlines()) for p in results.glob("kills-*.txt"))
    assert len(found) - len(names) <= num_kills
    print(f"{len(names)} records acknowledged, {len(found)} there, {num_kills} writers killed")

    # What the killed left is no record, is named, and goes.
    left = list(results.glob("*/*/*/.*.tmp"))
    assert store.verify(results).leftovers == ()
    for path in left:
        os.utime(path, (0, 0))
    verdict = store.verify(results)
    assert sorted(verdict.leftovers) == sorted(p.relative_to(results).as_posix() for p in left)
    store.clear(results, verdict.leftovers)
    assert list(results.glob("*/*/*/.*.tmp")) == []
    assert store.verify(results).num_whole == len(found)


def evaluate(folder, *, before="", **environment):
    """``moco-eval knn`` on the digits in a process of its own, after ``before``."""
    code = f"{before}\nfrom moco_eval.cli import main\nmain()"
    words = ["knn", "random:resnet10_small", "--data", "digits", "--cache", "off"]
    return subprocess.run(
        [sys.executable, "-c", code, *words, "--pictures", "false", "--device", "cpu"],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder / "home"),
            # Fonts are looked for once.
            "XDG_CACHE_HOME": str(Path.home() / ".cache"),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def printed_record(text):
    return json.loads(text[text.index("{\n") :])


@pytest.mark.faults
def test_a_store_that_refuses_a_record_loses_it_not_and_the_command_ends_with_74(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "knn").write_text("a file where a folder should be")
    ended = evaluate(tmp_path)
    assert ended.returncode == 74, ended.stderr
    (kept,) = (tmp_path / "home" / ".moco-eval" / "unsaved").iterdir()
    record = printed_record(ended.stdout)
    assert record == json.loads(kept.read_text())
    assert (record["status"], record["protocol"]["id"]) == ("ok", "knn")
    assert f"The record was kept as {kept} and was printed on standard output." in ended.stderr
    assert "Traceback" not in ended.stderr
    # Put where it belongs, as the message says, it is a record, and its run is done.
    (tmp_path / "results" / "knn").unlink()
    home = tmp_path / "results" / "knn" / "digits" / "random-resnet10_small"
    home.mkdir(parents=True)
    kept.rename(home / kept.name)
    (done,) = store.done(tmp_path / "results").values()
    assert done["name"] == kept.name


SMALL_FILES = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
"""


@pytest.mark.faults
def test_a_record_that_no_disk_has_room_for_is_printed_whole_and_ends_with_74(tmp_path):
    # Files may grow to 1000 bytes, which no record fits in; a pipe has no limit.
    ended = evaluate(tmp_path, before=SMALL_FILES, PYTHONDONTWRITEBYTECODE="1")
    assert ended.returncode == 74, ended.stderr
    assert printed_record(ended.stdout)["status"] == "ok"
    assert "could not be kept as" in ended.stderr
    assert [path for path in (tmp_path / "results").rglob("*") if path.is_file()] == []
    assert list(tmp_path.rglob("*.tmp")) == []


def test_a_folder_that_may_not_be_written_sends_the_record_home(
    write_record, nobody, monkeypatch, capsys
):
    write_record(Path("results"))
    Path("home").mkdir()
    Path("home").chmod(0o777)
    monkeypatch.setenv("HOME", "home")
    with nobody("results"), pytest.raises(OutputError, match="Permission denied") as caught:
        write_record(Path("results"), seed=1)
    assert caught.value.exit_code == 74
    (kept,) = Path("home/.moco-eval/unsaved").iterdir()
    assert kept.read_text() == capsys.readouterr().out
    assert len(store.read_all(Path("results"))[0]) == 1


def test_a_full_disk_is_named_with_the_space_that_is_left(tmp_path, write_record, monkeypatch):
    (disk := tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs a right to mount a small file system")
    try:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        whole = [write_record(disk / "results")]
        with pytest.raises(OutputError, match="0 MiB are free on that disk"):  # noqa: PT012
            for seed in range(1, 100):
                whole.append(write_record(disk / "results", seed=seed))
        found, problems = store.read_all(disk / "results")
        assert (len(found), problems) == (len(whole), [])
        # The one that did not fit is at home, and no part of it here.
        assert len(list((tmp_path / "home" / ".moco-eval" / "unsaved").iterdir())) == 1
        assert list(disk.rglob("*.tmp")) == []
        # Without room for an index the records are read all the same.
        assert len(store.read_heads(disk / "results")[0]) == len(whole)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
