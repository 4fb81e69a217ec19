"""Measure the store of records: a table of ten thousand, and writers that are killed.

python tools/bench_store.py [--records 10000]    ``moco-eval table`` as a process, without and with
                                                 the index: seconds, and peak memory in MiB (on
                                                 a busy machine the processor's seconds count)
python tools/bench_store.py --faults [20000]     tests/moco_eval/test_store_faults.py with so many
                                                 records acknowledged, where the suite has 2,000

Needed of a table of 10,000 records: 3 s from the index, 10 s without it, 500 MiB.
"""

from __future__ import annotations

import argparse
import copy
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from moco_eval import record_file, records, store
from moco_eval.store import index

ROOT = Path(__file__).resolve().parent.parent
NUM_SEEDS = 5


def main() -> None:
    """Carry out what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--faults", type=int, nargs="?", const=20_000)
    arguments = parser.parse_args()
    if arguments.faults:
        sys.exit(kill_writers(arguments.faults))
    with tempfile.TemporaryDirectory() as folder:
        time_tables(Path(folder), arguments.records)


def kill_writers(num_records: int) -> int:
    """Run the suite's test with more records, and return its exit code."""
    begun_s = time.monotonic()
    command = ["-m", "pytest", "-q", "-s", "tests/moco_eval/test_store_faults.py", "-k", "eight"]
    own = {**os.environ, "STORE_FAULTS_RECORDS": str(num_records)}
    code = subprocess.run([sys.executable, *command], cwd=ROOT, env=own, check=False).returncode
    print(f"{time.monotonic() - begun_s:.0f} s")
    return code


def time_tables(results: Path, num_records: int) -> None:
    """Write records of every shape that this project has, and time a table of them."""
    begun_s = time.monotonic()
    num = sum(1 for _ in write_like_committed(results, num_records))
    size_mib = sum(file.size for file in store.folder.files(results)) / 2**20
    print(f"{num} records, {size_mib:.0f} MiB, written in {time.monotonic() - begun_s:.0f} s")
    for name, is_indexed in (("without an index", False), ("from the index", True)):
        if not is_indexed:
            index.path_of(results).unlink(missing_ok=True)
        # The first leaves the index for those after it.
        took = [_run_table(results) for _ in range(3 if is_indexed else 1)]
        wall_s, processor_s, peak_mib = min(took)
        print(f"moco-eval table {name}: {wall_s:.2f} s ({processor_s:.2f} s of it on a processor)")
        print(f"  peak memory {peak_mib} MiB; load of this machine {os.getloadavg()[0]:.1f}")
    index_mib = index.path_of(results).stat().st_size / 2**20
    print(f"the index has {index_mib:.1f} MiB")


def write_like_committed(results: Path, num_records: int) -> Iterator[Path]:
    """Records in the shapes of the committed ones, of as many encoders as it takes."""
    committed, _ = store.read_all(ROOT / "results")
    templates = [r for r in committed if r["status"] == "ok" and r["protocol"]["id"] != "segment"]
    by_cell = {
        (r["protocol"]["id"], r["protocol"]["recipe"], r["dataset"]["id"]): r for r in templates
    }
    shapes = list(by_cell.values())
    for number in range(num_records):
        trial, seed = divmod(number, NUM_SEEDS)
        encoder, shape = divmod(trial, len(shapes))
        record = copy.deepcopy(shapes[shape])
        del record["name"], record["path"]
        record |= {**record_file.stamp(records.SCHEMA), "seed": seed}
        record["encoder"] |= {"id": f"encoder {encoder}", "tensor_sha256": f"{encoder:064x}"}
        for metric in record["metrics"].values():
            metric["value"] = (metric["value"] + number * 0.37) % 100
        yield record_file.save(record, records.folder_of(record, results))


def _run_table(results: Path) -> tuple[float, float, int]:
    """Seconds from start to end, those on a processor, and the peak of memory in MiB."""
    command = [sys.executable, "-m", "moco_eval.cli", "table", "--results", str(results)]
    begun_s = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None, "it was asked for"
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not text:
        sys.exit(f"moco-eval table ended with {process.returncode}")
    wall_s = time.monotonic() - begun_s
    return wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss >> 10


if __name__ == "__main__":
    main()
