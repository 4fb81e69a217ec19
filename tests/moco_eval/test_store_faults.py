"""Writers that are killed, disks that refuse: no record that was acknowledged is ever lost."""

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
