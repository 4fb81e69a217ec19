import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moco_eval import records, store
from moco_eval.errors import OutputError, UsageError
from moco_eval.store import index
from moco_eval.store.states import states

ROOT = Path(__file__).parents[2]


def plant(folder, record):
    """A record of which only the bytes matter, without the seconds of writing it safely."""
    content = json.dumps(record).encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['run_id']}.{hashlib.sha256(content).hexdigest()[:12]}.json"
    path.write_bytes(content)
    return path


def run_id_of(path):
    return path.name.partition(".")[0]


def heads_without_keys(results):
    heads, problems = store.read_heads(results)
    return [{n: part for n, part in head.items() if n != "key"} for head in heads], problems


def everything_but_details(results):
    found, problems = store.read_all(results)
    return [{n: part for n, part in r.items() if n != "details"} for r in found], problems


def test_heads_are_the_records_without_details_with_and_without_an_index(tmp_path, write_record):
    first = write_record(tmp_path)
    write_record(tmp_path, encoder_id="MoCo v1", seed=1)
    write_record(tmp_path, status="failed", seed=2)
    write_record(tmp_path, protocol="linear-lbfgs")
    expected = everything_but_details(tmp_path)
    assert len(expected[0]) == 4
    assert expected[0][0]["path"] == f"knn/digits/MoCo-v2/{first.name}"
    assert heads_without_keys(tmp_path) == expected
    assert index.path_of(tmp_path).exists()
    assert heads_without_keys(tmp_path) == expected
    assert "details" in store.read_all(tmp_path)[0][0]


def test_each_head_has_the_key_of_its_run(tmp_path, write_record):
    write_record(tmp_path)
    (record,), _ = store.read_all(tmp_path)
    (head,), _ = store.read_heads(tmp_path)
    assert head["key"] == records.key_of(record)


def test_what_the_index_holds_is_not_opened_again_and_what_changed_is(tmp_path, write_record):
    path = write_record(tmp_path, top1=97.5)
    store.read_heads(tmp_path)
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"97.5", b"12.5"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    (head,), problems = store.read_heads(tmp_path)
    assert head["metrics"]["top1"]["value"] == 97.5
    assert problems == []
    # With another time it is looked at, and is damaged; verify looks at it in any case.
    assert len(store.verify(tmp_path).problems) == 1
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    found, problems = store.read_heads(tmp_path)
    assert found == []
    assert "is damaged" in problems[0]


def test_files_that_came_and_went_are_seen_despite_the_index(tmp_path, write_record):
    gone, stays = write_record(tmp_path, seed=1), write_record(tmp_path, seed=2)
    store.read_heads(tmp_path)
    gone.unlink()
    new = write_record(tmp_path, seed=3)
    assert [head["name"] for head in store.read_heads(tmp_path)[0]] == [stays.name, new.name]


def spoil_empty(path):
    path.write_bytes(b"")


def spoil_torn(path):
    path.write_bytes(path.read_bytes()[:-40])


def spoil_text(path):
    path.write_text("no parquet at all")


def spoil_flipped(path):
    content = bytearray(path.read_bytes())
    content[40:60] = bytes(20)
    path.write_bytes(content)


def spoil_foreign(path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"path": ["a"], "size": [1]}), path)


def spoil_older(path):
    """What a program that reads records otherwise would have left, with heads of its own."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    own = [text.replace("97.5", "12.5") for text in table.column("own").to_pylist()]
    place = table.schema.get_field_index("own")
    table = table.set_column(place, "own", [own])
    pq.write_table(table.replace_schema_metadata({"moco_eval.reading": "older"}), path)


def spoil_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "spoil",
    [
        *(spoil_empty, spoil_torn, spoil_text, spoil_flipped),
        *(spoil_foreign, spoil_older, spoil_folder),
    ],
)
def test_an_index_that_cannot_be_used_costs_nothing_but_time(tmp_path, write_record, spoil):
    write_record(tmp_path, top1=97.5)
    store.read_heads(tmp_path)
    spoil(index.path_of(tmp_path))
    assert heads_without_keys(tmp_path) == everything_but_details(tmp_path)
    if spoil is not spoil_folder:
        assert len(index.load(tmp_path)) == 1, "it is made again"


def test_a_changed_reading_of_old_records_makes_the_index_anew(tmp_path, write_record, monkeypatch):
    write_record(tmp_path)
    (before,), _ = store.read_heads(tmp_path)
    monkeypatch.setitem(records.UNSAID, "field", "as ever")
    (after,), _ = store.read_heads(tmp_path)
    assert before["key"] != after["key"]


def test_a_folder_that_cannot_be_written_is_read_without_an_index(tmp_path, write_record, nobody):
    write_record(Path("results"))
    with nobody("results"):
        assert heads_without_keys(Path("results"))[0] != []
        assert not index.path_of(Path("results")).exists()


def test_an_empty_an_absent_and_a_mistaken_folder(tmp_path):
    assert store.read_heads(tmp_path / "absent") == ([], [])
    assert store.read_all(tmp_path / "absent") == ([], [])
    assert store.done(tmp_path / "absent") == {}
    assert not (tmp_path / "absent").exists()
    assert store.read_heads(tmp_path) == ([], [])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file; the folder of the records is asked for"):
        store.read_all(tmp_path / "file")


def test_only_json_three_folders_deep_is_looked_at_and_foreign_names_are_told_of(
    tmp_path, write_record
):
    path = write_record(tmp_path)
    for other in ("notes.json", "tables/digits.json", "knn/notes.json", "knn/digits/a/b/deep.json"):
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / other).write_text("{}")
    (path.parent / "README.md").write_text("")
    (path.parent / ".hidden.json").write_text("")
    (path.parent / f".{path.name}.0a1b.tmp").write_bytes(path.read_bytes())
    (tmp_path / ".git" / "a" / "b").mkdir(parents=True)
    (tmp_path / ".git" / "a" / "b" / path.name).write_bytes(path.read_bytes())
    (path.parent / "foreign.json").write_text("{}")
    found, problems = store.read_all(tmp_path)
    assert [record["name"] for record in found] == [path.name]
    foreign = path.parent / "foreign.json"
    assert problems == [f"{foreign} is left out: its name is not that of a record."]


def test_links_are_followed_and_no_record_is_there_twice(tmp_path, write_record):
    results, elsewhere = tmp_path / "results", tmp_path / "elsewhere"
    path = write_record(results)
    other = write_record(elsewhere, protocol="svm")
    (results / "svm").symlink_to(elsewhere / "svm")
    (results / "zz-again").symlink_to(results / "knn")
    (results / "knn" / "loop").symlink_to(results)
    dangling = path.with_name(f"00000000{path.name[8:]}")
    dangling.symlink_to(tmp_path / "nowhere")
    for read in (store.read_all, store.read_heads, store.read_heads):
        found, problems = read(results)
        assert [record["name"] for record in found] == [path.name, other.name]
        assert len(problems) == 1
        assert str(dangling) in problems[0]


def test_thousands_of_records_in_one_folder(tmp_path, write_record):
    content = json.loads(write_record(tmp_path / "one").read_text())
    for number in range(3000):
        own = {"run_id": f"{number:08x}-0000-7000-8000-000000000000", "seed": number}
        plant(tmp_path / "store" / "knn" / "digits" / "a", content | own)
    for _ in range(2):
        heads, problems = store.read_heads(tmp_path / "store")
        assert problems == []
        assert [head["seed"] for head in heads] == list(range(3000))


READER = """
import sys
from pathlib import Path
from moco_eval import store
print("ready", flush=True)
for _ in range(40):
    heads, problems = store.read_heads(Path(sys.argv[1]))
    assert not problems, problems
    assert len(heads) >= 5, len(heads)
"""


def test_readers_that_write_the_index_at_once_see_whole_ones(tmp_path, write_record):
    for seed in range(5):
        write_record(tmp_path, seed=seed)
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    for reader in readers:
        assert reader.stdout is not None
        reader.stdout.readline()
    seed = 5
    while any(reader.poll() is None for reader in readers):
        write_record(tmp_path, seed=seed)
        seed += 1
        time.sleep(0.01)
    for reader in readers:
        reader.communicate()
    assert [reader.returncode for reader in readers] == [0, 0, 0]
    assert heads_without_keys(tmp_path) == everything_but_details(tmp_path)
    assert list(tmp_path.glob(".*.tmp")) == []


def test_a_record_of_an_older_schema_is_read_with_what_it_lacks(tmp_path, write_record):
    record = json.loads(write_record(tmp_path / "one").read_text())
    for name in ("supersedes", "reason", "selection"):
        del record[name]
    del record["dataset"]["num_damaged"], record["dataset"]["damaged_policy"]
    record["time"] = {"wall_s": 5.074, "peak_memory_mib": 871}
    record["details"] = {
        "selection": {"what": "C", "chosen": 1.0, "on": "a slice", "by": "top1", "by_c": {"1": 5.0}}
    }
    plant(tmp_path / "store" / "a" / "b" / "c", record | {"schema": 1})
    for read in (store.read_all, store.read_heads):
        (found,), problems = read(tmp_path / "store")
        assert problems == []
        assert (found["supersedes"], found["reason"]) == (None, "")
        assert found["dataset"]["num_damaged"] == 0
        assert found["dataset"]["damaged_policy"] == "fail"
        assert found["time"] == {
            "wall_s": 5.074,
            "device_s": None,
            "peak_memory_mib": 871,
            "peak_device_memory_mib": None,
            "num_processes": None,
            "num_resumes": None,
        }
        assert found["selection"] == {
            "rule": "C, by top1, on a slice",
            "what": "C",
            "chosen": 1.0,
            "on": "a slice",
            "by": "top1",
        }


def test_find_and_done_take_the_newest_success_that_counts(tmp_path, write_record):
    first, second = write_record(tmp_path, top1=1.0), write_record(tmp_path, top1=2.0)
    write_record(tmp_path, status="failed")
    other = write_record(tmp_path, seed=7)
    key = records.key_of(records.read(first))
    found = store.find(tmp_path, key)
    assert found is not None
    assert found["name"] == second.name
    assert found["details"] == {"curve": [1.0, 2.0]}
    assert {head["name"] for head in store.done(tmp_path).values()} == {second.name, other.name}
    # A withdrawn one does not count, so the one before it does.
    store.retract(tmp_path, second.name, "a mistake")
    found = store.find(tmp_path, key)
    assert found is not None
    assert found["name"] == first.name


def test_a_repeated_run_takes_the_place_of_the_one_before_and_a_failed_one_does_not(
    tmp_path, write_record
):
    first = write_record(tmp_path)
    failed = write_record(tmp_path, status="failed", supersedes=run_id_of(first))
    assert {r["name"] for r in store.read_all(tmp_path)[0]} == {first.name, failed.name}
    second = write_record(tmp_path, supersedes=run_id_of(first))
    assert {r["name"] for r in store.read_all(tmp_path)[0]} == {failed.name, second.name}
    history, problems = store.read_history(tmp_path)
    assert problems == []
    assert [(r["name"], r["state"], r["state_reason"]) for r in history] == [
        (first.name, f"superseded by {run_id_of(second)}", "run again"),
        (failed.name, "current", ""),
        (second.name, "current", ""),
    ]


def record(run_id, *, supersedes=None):
    return {"run_id": run_id, "supersedes": supersedes, "reason": f"why {run_id}"}


def withdrawal(run_id, retracts):
    return {"run_id": run_id, "retracts": retracts, "reason": f"why {run_id}"}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        # A correction of a correction: only the last counts.
        (
            [record("a"), record("b", supersedes="a"), record("c", supersedes="b")],
            ["superseded by b", "superseded by c", "current"],
        ),
        # Two corrections of one record: the newer one is named, and both count.
        (
            [record("a"), record("b", supersedes="a"), record("c", supersedes="a")],
            ["superseded by c", "current", "current"],
        ),
        ([record("a"), withdrawal("w", "a")], ["retracted by w", "current"]),
        # A withdrawn withdrawal withdraws nothing, and once more.
        (
            [record("a"), withdrawal("w", "a"), withdrawal("x", "w")],
            ["current", "retracted by x", "current"],
        ),
        (
            [record("a"), withdrawal("w", "a"), withdrawal("x", "w"), withdrawal("y", "x")],
            ["retracted by w", "current", "retracted by y", "current"],
        ),
        # A withdrawn correction: what it corrected counts again.
        (
            [record("a"), record("b", supersedes="a"), withdrawal("w", "b")],
            ["current", "retracted by w", "current"],
        ),
        # Withdrawn and corrected: the withdrawal is the last word.
        (
            [record("a"), record("b", supersedes="a"), withdrawal("w", "a")],
            ["retracted by w", "current", "current"],
        ),
        # Another machine's clock was behind.
        ([withdrawal("a", "b"), record("b")], ["current", "retracted by a"]),
        # Of a record that is not here.
        ([withdrawal("w", "z"), record("a", supersedes="z")], ["current", "current"]),
    ],
)
def test_which_records_count(entries, expected):
    assert [state for state, _ in states(entries)] == expected


def test_withdrawals_in_a_circle_end():
    circle = [withdrawal("v", "w"), withdrawal("w", "v"), withdrawal("x", "x"), record("a")]
    assert states(circle)[3] == ("current", "")


def test_why_a_record_no_longer_counts_is_told():
    entries = [record("a"), record("b"), record("c", supersedes="b"), withdrawal("w", "a")]
    assert [why for _, why in states(entries)] == ["why w", "why c", "", ""]


def test_a_store_below_a_file_is_refused_before_anything_is_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/below/it cannot be written, nor read"):
        store.read_heads(tmp_path / "file" / "below" / "it")
