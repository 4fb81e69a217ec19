import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moco_eval import records, store
from moco_eval.errors import DataError, OutputError, UsageError
from moco_eval.store import index


def run_id_of(path):
    return path.name.partition(".")[0]


def names(results):
    found, problems = store.read_all(results)
    assert problems == []
    return {record["name"] for record in found}


def damage(path):
    path.write_bytes(path.read_bytes().replace(b"97.5", b"98.5"))


def test_verify_names_what_is_damaged_and_counts_what_is_whole(tmp_path, write_record):
    whole, torn, changed = (write_record(tmp_path, seed=seed) for seed in range(3))
    store.retract(tmp_path, whole.name, "a mistake")
    store.read_heads(tmp_path)
    torn.write_bytes(torn.read_bytes()[:40])
    damage(changed)
    (torn.parent / "mine.json").write_text("{}")
    verdict = store.verify(tmp_path)
    assert verdict.num_whole == 2
    assert [p.partition(": ")[0] for p in sorted(verdict.problems)] == sorted(
        map(str, (torn, changed, torn.parent / "mine.json"))
    )


def test_verify_tells_of_records_that_name_one_which_is_not_here(tmp_path, write_record):
    gone = write_record(tmp_path, seed=1)
    correction = write_record(tmp_path, supersedes=run_id_of(gone))
    withdrawn = write_record(tmp_path, seed=2)
    withdrawal = store.retract(tmp_path, withdrawn.name, "a mistake")
    gone.unlink()
    withdrawn.unlink()
    assert store.verify(tmp_path).problems == ()
    below = "knn/digits/MoCo-v2"
    assert store.verify(tmp_path).notes == (
        f"{below}/{correction.name} supersedes {run_id_of(gone)}, which is not here.",
        f"{below}/{withdrawal.name} withdraws {run_id_of(withdrawn)}, which is not here.",
    )


def test_leftovers_of_killed_writers_are_told_and_cleared_once_they_are_old(tmp_path, write_record):
    path = write_record(tmp_path)
    young = path.with_name(f".{path.name}.00.tmp")
    old = path.with_name(f".{path.name}.11.tmp")
    of_index = tmp_path / f".{index.FILE_NAME}.abc.tmp"
    for left in (young, old, of_index):
        left.write_bytes(path.read_bytes())
    for left in (path, old, of_index):
        os.utime(left, (0, 0))
    left = store.verify(tmp_path).leftovers
    assert left == (of_index.name, f"knn/digits/MoCo-v2/{old.name}")
    store.clear(tmp_path, left)
    assert young.exists()
    assert not old.exists()
    assert names(tmp_path) == {path.name}


def test_merge_copies_what_is_not_there_and_once(tmp_path, write_record):
    source, results = tmp_path / "source", tmp_path / "results"
    shared = write_record(source)
    merged = store.merge(source, results)
    assert (merged.num_copied, merged.num_known, merged.problems) == (1, 0, ())
    copy = results / shared.relative_to(source)
    assert copy.read_bytes() == shared.read_bytes()
    # The same cell and the same numbers, measured twice, are two records.
    write_record(source)
    write_record(results)
    store.retract(source, shared.name, "a mistake")
    merged = store.merge(source, results)
    assert (merged.num_copied, merged.num_known, merged.problems) == (2, 1, ())
    # Three records, of which the withdrawal that came along takes one.
    assert len(store.read_history(results)[0]) == 3
    assert len(names(results)) == 2
    assert store.merge(source, results).num_copied == 0
    # Nor does it matter which way round.
    assert store.merge(results, source).num_copied == 1
    assert names(source) == names(results)


def test_merge_refuses_what_is_damaged_or_newer_and_goes_on(tmp_path, write_record):
    source, results = tmp_path / "source", tmp_path / "results"
    bad, newer, good = (write_record(source, seed=seed) for seed in range(3))
    damage(bad)
    content = json.loads(newer.read_text()) | {"schema": 3}
    newer.unlink()
    newer = records.record_file.save(content, newer.parent)
    merged = store.merge(source, results)
    assert merged.num_copied == 1
    assert names(results) == {good.name}
    assert [p.partition(": ")[0] for p in sorted(merged.problems)] == sorted(map(str, (bad, newer)))
    assert any("this moco-eval reads up to 2" in problem for problem in merged.problems)


def test_merge_leaves_a_damaged_record_alone_that_the_source_has_whole_and_says_so(
    tmp_path, write_record
):
    source, results = tmp_path / "source", tmp_path / "results"
    whole = write_record(source)
    store.merge(source, results)
    copy = results / whole.relative_to(source)
    damage(copy)
    merged = store.merge(source, results)
    assert merged.num_copied == 0
    assert merged.problems[0].startswith(f"{copy} is there already, but it is damaged")
    # As the name of the one that is whole is known, moving the damaged one away mends it.
    copy.unlink()
    assert store.merge(source, results).num_copied == 1


def test_a_merge_that_was_killed_hinders_no_other(tmp_path, write_record):
    source, results = tmp_path / "source", tmp_path / "results"
    path = write_record(source)
    folder = (results / path.relative_to(source)).parent
    folder.mkdir(parents=True)
    (folder / f".{path.name}.00000000.tmp").write_bytes(path.read_bytes()[:10])
    assert store.merge(source, results).num_copied == 1
    assert names(results) == {path.name}


MERGER = """
import sys
from pathlib import Path
from moco_eval import store
print("ready", flush=True)
sys.stdin.readline()
merged = store.merge(Path("source"), Path("results"))
assert not merged.problems, merged.problems
print(merged.num_copied, merged.num_known)
"""


def test_merges_at_once_copy_each_record_once(tmp_path, write_record):
    for seed in range(60):
        write_record(tmp_path / "source", seed=seed)
    mergers = [
        subprocess.Popen(
            [sys.executable, "-c", MERGER],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for merger in mergers:
        assert merger.stdout is not None
        assert merger.stdout.readline() == "ready\n"
    for merger in mergers:
        assert merger.stdin is not None
        merger.stdin.write("go\n")
        merger.stdin.flush()
    told = [tuple(map(int, merger.communicate()[0].split())) for merger in mergers]
    assert [merger.returncode for merger in mergers] == [0, 0, 0]
    assert sum(copied for copied, _ in told) == 60
    assert all(copied + known == 60 for copied, known in told)
    assert names(tmp_path / "results") == names(tmp_path / "source")


def test_merge_of_no_folder_and_into_one_that_refuses(tmp_path, write_record, nobody):
    with pytest.raises(UsageError, match="There is no folder"):
        store.merge(tmp_path / "absent", tmp_path)
    write_record(Path("source"))
    Path("source/knn").chmod(0o755)
    write_record(Path("results"), seed=1)
    with nobody("results"), pytest.raises(OutputError, match="cannot be written"):
        store.merge(Path("source"), Path("results"))
    assert len(names(Path("results"))) == 1


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "gc.auto=0")
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_two_branches_with_a_hundred_records_each_merge_in_git_without_conflict(
    tmp_path, write_record
):
    results = tmp_path / "results"
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "begin")
    for branch in ("mine", "yours"):
        git(tmp_path, "checkout", "-q", "-b", branch, "main")
        # The same cells on both: forty seeds and their repetitions, and what each withdraws.
        for number in range(98):
            path = write_record(results, seed=number % 40)
            if number % 7 == 0:
                store.read_heads(results)
        store.retract(results, path.name, "a mistake")
        store.correct(
            results, run_id_of(write_record(results)), reason="misspelt", encoder_name="v2"
        )
        git(tmp_path, "add", "results")
        git(tmp_path, "commit", "-q", "-m", branch)
    git(tmp_path, "merge", "-q", "-m", "both", "mine")
    assert git(tmp_path, "status", "--porcelain") == ""
    # 101 files a branch: 99 runs, a withdrawal and a correction; of the runs two do not count.
    verdict = store.verify(results)
    assert (verdict.num_whole, verdict.problems, verdict.notes) == (202, (), ())
    assert len(store.read_history(results)[0]) == 200
    assert len(names(results)) == 196
    assert git(tmp_path, "ls-files", "results/.index.parquet") == ""


def test_a_record_is_found_by_its_id_the_beginning_of_one_and_its_files_name(
    tmp_path, write_record
):
    path = write_record(tmp_path)
    write_record(tmp_path, protocol="svm")
    for name in (run_id_of(path), path.name, str(path), path.name[:30]):
        assert store.resolve(tmp_path, name)["name"] == path.name


def test_a_name_that_is_none_or_several_records_is_refused(tmp_path, write_record):
    first, second = write_record(tmp_path), write_record(tmp_path, seed=1)
    # The first six digits are those of some hours.
    with pytest.raises(UsageError, match="begins 2 records, such as"):
        store.resolve(tmp_path, first.name[:6])
    with pytest.raises(UsageError, match=r"no record 'ffff' among the 2 of .* ls --all"):
        store.resolve(tmp_path, "ffff")
    # So short a beginning is a slip, even where it is of one record only.
    second.unlink()
    with pytest.raises(UsageError, match="There is no record"):
        store.resolve(tmp_path, first.name[:3])
    damage(first)
    with pytest.raises(DataError, match="is damaged"):
        store.resolve(tmp_path, run_id_of(first))


def test_a_withdrawn_record_does_not_count_until_the_withdrawal_is_withdrawn(
    tmp_path, write_record
):
    path = write_record(tmp_path)
    content = path.read_bytes()
    first = store.retract(tmp_path, run_id_of(path), "  trained on the test set ")
    assert first.parent == path.parent
    assert json.loads(first.read_text()).keys() == {
        *("schema", "run_id", "created", "retracts", "reason")
    }
    assert names(tmp_path) == set()
    (told,), _ = store.read_history(tmp_path)
    assert told["state"] == f"retracted by {run_id_of(first)}"
    assert told["state_reason"] == "trained on the test set"
    with pytest.raises(UsageError, match="does not count any more: it is retracted by"):
        store.retract(tmp_path, run_id_of(path), "again")
    store.retract(tmp_path, run_id_of(first), "it was not")
    assert names(tmp_path) == {path.name}
    assert path.read_bytes() == content


def test_a_corrected_name_is_a_new_record_of_the_same_measurement(tmp_path, write_record):
    path = write_record(tmp_path, encoder_id="MoCo v3")
    corrected = store.correct(tmp_path, path.name, reason="misspelt", encoder_name="MoCo v2")
    assert corrected.parent == tmp_path / "knn" / "digits" / "MoCo-v2"
    old, new = records.read(path), records.read(corrected)
    assert new["supersedes"] == old["run_id"]
    assert new["reason"] == "misspelt"
    assert new["encoder"] == {**old["encoder"], "id": "MoCo v2"}
    for part in ("metrics", "details", "config", "seed", "time", "status"):
        assert new[part] == old[part]
    # What reading adds is not written.
    assert json.loads(corrected.read_text()).keys() == json.loads(path.read_text()).keys()
    assert names(tmp_path) == {corrected.name}
    assert store.verify(tmp_path).problems == ()


def test_what_cannot_be_corrected_or_withdrawn_is_refused_in_words(tmp_path, write_record):
    path = write_record(tmp_path)
    for change, message in (
        ({"encoder_name": "MoCo v2"}, "called 'MoCo v2' already"),
        ({"encoder_name": " "}, "--encoder-name is empty"),
        ({"reason": " "}, "--reason is empty"),
    ):
        with pytest.raises(UsageError, match=message):
            store.correct(
                tmp_path, path.name, **{"reason": "misspelt", "encoder_name": "b", **change}
            )
    with pytest.raises(UsageError, match="--reason is empty"):
        store.retract(tmp_path, path.name, "")
    withdrawal = store.retract(tmp_path, path.name, "a mistake")
    with pytest.raises(UsageError, match="is a withdrawal"):
        store.correct(tmp_path, withdrawal.name, reason="misspelt", encoder_name="b")
    assert len(list(path.parent.iterdir())) == 2


def test_the_index_is_made_anew_and_kept_out_of_git_by_itself(tmp_path, write_record, nobody):
    write_record(Path("results"))
    damage(write_record(Path("results"), seed=1))
    num, problems = store.rebuild_index(Path("results"))
    assert num == 1
    assert "is damaged" in problems[0]
    assert f"/{index.FILE_NAME}\n" in Path("results/.gitignore").read_text()
    # What a user has there stays.
    Path("results/.gitignore").write_text("own")
    store.rebuild_index(Path("results"))
    assert Path("results/.gitignore").read_text() == "own"
    with nobody("results"), pytest.raises(OutputError, match="cannot be written"):
        store.rebuild_index(Path("results"))
