import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from moco_eval import cli, records, store
from moco_eval.store import listing

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results(tmp_path, write_record):
    """Four runs: one of each status, and one that was superseded."""
    old = write_record(tmp_path, top1=50.0)
    write_record(tmp_path, top1=97.5, supersedes=old.name.partition(".")[0])
    write_record(tmp_path, encoder_id="MoCo v1", seed=1, status="failed")
    write_record(tmp_path, encoder_id="random", protocol="svm", status="preempted")
    return tmp_path


@pytest.fixture
def ask(results, monkeypatch, capsys):
    """Ask ``moco-eval results`` about them; returns exit code, output and errors."""

    def ask(action, *arguments, folder=results):
        line = ["moco-eval", "results", action, *map(str, arguments), "--results", str(folder)]
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return ask


def listed(ask, *filters):
    code, out, _ = ask("ls", "--format", "csv", *filters)
    assert code == 0
    return [
        (row["encoder"], row["protocol"], row["status"], row["state"].partition(" ")[0])
        for row in csv.DictReader(io.StringIO(out))
    ]


NEWEST = ("MoCo v2", "knn", "ok", "current")
FAILED = ("MoCo v1", "knn", "failed", "current")
PREEMPTED = ("random", "svm", "preempted", "current")


@pytest.mark.parametrize(
    ("filters", "rows"),
    [
        ((), [NEWEST, FAILED, PREEMPTED]),
        (("--protocol", "knn"), [NEWEST, FAILED]),
        (("--encoder", "MoCo v?"), [NEWEST, FAILED]),
        (("--encoder", "*1", "--protocol", "knn"), [FAILED]),
        (("--encoder", "MoCo"), []),
        (("--dataset", "digits"), [NEWEST, FAILED, PREEMPTED]),
        (("--dataset", "voc07"), []),
        (("--status", "preempted"), [PREEMPTED]),
        (("--all",), [("MoCo v2", "knn", "ok", "superseded"), NEWEST, FAILED, PREEMPTED]),
    ],
)
def test_ls_shows_what_the_filters_leave_oldest_first(ask, filters, rows):
    assert listed(ask, *filters) == rows


def test_ls_prints_one_aligned_line_a_record(ask, results):
    _, out, err = ask("ls", "--all")
    assert err == ""
    lines = out.splitlines()
    assert len(lines) == 4
    found, _ = store.read_history(results)
    for line, record in zip(lines, found, strict=True):
        short = line.split()[0]
        assert record["run_id"].startswith(short)
        assert store.resolve(results, short)["name"] == record["name"]
        assert line == line.rstrip()
    assert "superseded" in lines[0]
    assert "knn@1 knn-20  digits  seed 0  top1 97.50  MoCo v2" in lines[1]
    assert "failed" in lines[2]
    # The columns stand below each other, also where there is no number.
    assert len({line.index("digits") for line in lines}) == 1
    assert lines[2].index("MoCo v1") == lines[1].index("MoCo v2")


def test_ids_are_as_long_as_it_takes_to_tell_those_of_one_moment_apart():
    own = {"created": "", "state": "current", "reason": "", "path": "", "retracts": "a"}
    run_ids = [f"01a20a94-f051-7527-{rest}-f13f4abfe8cd" for rest in ("93ca", "93cb")]
    rows = listing.rows_of([{**own, "run_id": run_id} for run_id in run_ids])
    assert [row["short"] for row in rows] == ["01a20a94-f051-7527-93ca", "01a20a94-f051-7527-93cb"]
    # Otherwise the time is enough, to a millisecond.
    assert listing.rows_of([{**own, "run_id": run_ids[0]}])[0]["short"] == "01a20a94-f051"


def test_a_withdrawal_is_listed_with_its_reason_among_all(ask, results):
    failed = next(r["run_id"] for r in store.read_all(results)[0] if r["status"] == "failed")
    code, out, _ = ask("retract", failed, "--reason", "trained on the test set")
    assert code == 0
    assert out.startswith("Withdrawn by ")
    assert out.endswith("To take that back, retract this one.\n")
    assert listed(ask) == [NEWEST, PREEMPTED]
    _, out, _ = ask("ls", "--all")
    assert f"of {failed}: trained on the test set" in out.splitlines()[-1]
    assert "retracted" in out


def test_who_withdraws_a_repeated_run_is_told_that_the_first_one_counts_again(ask, results):
    old, new = (record["run_id"] for record in store.read_history(results)[0][:2])
    _, out, _ = ask("retract", new, "--reason", "another GPU was broken")
    assert f"{old}, which it superseded, counts again" in out
    assert len(listed(ask)) == 3
    assert store.resolve(results, old)["state"] == "current"


def test_ls_as_json_has_every_metric(ask):
    _, out, _ = ask("ls", "--format", "json")
    row = json.loads(out)[0]
    assert row["metrics"] == {"top1": 97.5, "top5": 99.0}
    assert (row["metric"], row["value"], row["wall_s"]) == ("top1", 97.5, 1.5)


def test_ls_of_nothing_says_so_and_is_no_error(ask, tmp_path):
    code, out, err = ask("ls", "--protocol", "none")
    assert (code, out) == (0, "")
    assert "no such record in" in err
    (tmp_path / "empty").mkdir()
    code, out, err = ask("ls", "--format", "json", folder=tmp_path / "empty")
    assert (code, json.loads(out)) == (0, [])


def test_what_is_damaged_is_told_of_beside_the_list(ask, results, write_record):
    torn = write_record(results, seed=5)
    torn.write_bytes(torn.read_bytes()[:30])
    code, out, err = ask("ls")
    assert (code, len(out.splitlines())) == (0, 3)
    assert f"moco-eval results ls: {torn} is left out: it is damaged" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ls", "--format", "yaml"), "There is no format of a list of records 'yaml'"),
        (("ls", "--status", "okay"), "There is no status of a record 'okay'. Did you mean 'ok'"),
        (("show", "ffff"), "There is no record 'ffff'"),
        (("retract", "ffff", "--reason", "a"), "There is no record 'ffff'"),
    ],
)
def test_a_slip_is_refused_in_words(ask, arguments, message):
    code, _, err = ask(*arguments)
    assert code == 2
    assert message in err


def test_a_folder_that_is_not_there_is_refused(ask, tmp_path):
    for action in (("ls",), ("verify",), ("index",)):
        code, _, err = ask(*action, folder=tmp_path / "absent")
        assert code == 2
        assert "absent of records. Say which it is: --results DIR" in err
    assert not (tmp_path / "absent").exists()


def test_show_prints_a_record_with_its_state(ask, results):
    first = store.read_history(results)[0][0]
    _, out, _ = ask("show", first["run_id"])
    shown = json.loads(out)
    assert shown["metrics"]["top1"]["value"] == 50.0
    assert shown["details"] == {"curve": [1.0, 2.0]}
    assert shown["state"].startswith("superseded by ")


def test_show_tells_what_two_records_differ_in(ask, results, write_record):
    old, new, failed, _ = (r["run_id"] for r in store.read_history(results)[0])
    _, out, _ = ask("show", old, "--diff", new)
    first, second, relation, *lines = out.splitlines()
    assert first.startswith(f"- {old}")
    assert second.startswith(f"+ {new}")
    assert relation == "They are the same trial, run twice."
    assert lines == [
        "metrics.top1.value: 50.0 -> 97.5",
        'reason: "" -> "run again"',
        f'state: "superseded by {new}" -> "current"',
        f'supersedes: null -> "{old}"',
    ]
    _, out, _ = ask("show", new, "--diff", failed)
    assert "They are never averaged, they differ in: encoder.id." in out
    assert "metrics.top1.value: 97.5 -> nothing" in out
    trial = write_record(results, seed=8)
    _, out, _ = ask("show", new, "--diff", trial.name)
    assert "They are trials of one cell, and averaged." in out
    other = write_record(results, config={"k": 5})
    _, out, _ = ask("show", new, "--diff", other.name)
    assert "They are never averaged, they differ in: config." in out
    assert "config.k: 20 -> 5" in out


def test_verify_ends_with_65_where_a_file_is_damaged(ask, results):
    code, out, err = ask("verify")
    assert (code, err) == (0, "")
    assert out == "4 records are whole, 0 files are not.\n"
    path = results / store.read_all(results)[0][0]["path"]
    path.write_bytes(path.read_bytes().replace(b"97.5", b"99.5"))
    code, out, err = ask("verify")
    assert code == 65
    assert f"{path}: it is damaged" in out
    assert "3 records are whole, 1 files are not." in out
    assert "Tables leave them out" in err


def test_verify_clears_what_killed_writers_left_if_asked(ask, results, monkeypatch):
    path = results / store.read_all(results)[0][0]["path"]
    left = path.with_name(f".{path.name}.00.tmp")
    left.write_text("{")
    monkeypatch.setattr(store.folder, "LEFT_AFTER_S", -1.0)
    code, out, _ = ask("verify")
    assert code == 0
    assert f"{left}: left by a killed writer, no record." in out
    assert left.exists()
    _, out, _ = ask("verify", "--clear")
    assert "1 leftover files removed." in out
    assert not left.exists()
    assert path.exists()


def test_index_says_how_many_there_are(ask, results):
    code, out, _ = ask("index")
    assert (code, out) == (0, f"4 records are in {store.index.path_of(results)}.\n")


def test_merge_takes_several_folders_and_says_what_it_refused(ask, results, write_record, tmp_path):
    target, other = tmp_path / "target", tmp_path / "other"
    bad = write_record(other, seed=1)
    bad.write_bytes(b"{}")
    write_record(other, seed=2)
    code, out, err = ask("merge", other, results, folder=target)
    assert code == 65
    assert f"{other}: 1 records copied, 0 were there." in out
    assert f"{results}: 4 records copied, 0 were there." in out
    assert f"{bad}: it is damaged" in err
    assert len(store.read_history(target)[0]) == 5
    code, out, _ = ask("merge", results, folder=target)
    assert (code, out) == (0, f"{results}: 0 records copied, 4 were there.\n")
    code, _, err = ask("merge", tmp_path / "absent", folder=target)
    assert code == 2
    assert "There is no folder" in err


def test_correct_renames_an_encoder(ask, results):
    failed = next(r for r in store.read_all(results)[0] if r["status"] == "failed")
    words = ("--encoder-name", "MoCo v1, 200 epochs", "--reason", "there are two")
    code, out, _ = ask("correct", failed["run_id"], *words)
    assert code == 0
    assert "Corrected by" in out
    assert ("MoCo v1, 200 epochs", "knn", "failed", "current") in listed(ask)
    assert FAILED not in listed(ask)


def test_a_reason_must_be_given(ask, results):
    run_id = store.read_all(results)[0][0]["run_id"]
    code, _, err = ask("retract", run_id)
    assert code == 2
    assert "required: retract.reason" in err


def test_the_records_are_listed_without_torch(results):
    code = (
        "import sys; from moco_eval.cli import main\n"
        f"sys.argv = ['moco-eval', 'results', 'ls', '--results', {str(results)!r}]\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code, ended.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 3


@pytest.mark.parametrize("action", ["", "ls", "show", "verify", "index", "merge", "retract"])
def test_every_action_has_help(action, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["moco-eval", "results", *filter(None, [action]), "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_a_store_of_the_first_schema_is_listed_as_any_other(ask):
    committed = ROOT / "results"
    num_files = len(store.folder.files(committed))
    assert num_files > 300
    code, out, err = ask("ls", "--all", "--format", "csv", folder=committed)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == num_files + 1
    assert records.SCHEMA == 2
