import dataclasses
import errno
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from moco_eval import record_file, records, store
from moco_eval.errors import OutputError

RUN = records.Run(
    encoder_id="MoCo v2",
    encoder={"tensor_sha256": "aa", "num_params": 7, "source": "mocov2.pth.tar"},
    protocol="linear-lbfgs",
    version=1,
    recipe="lbfgs",
    config={"num_c": 7, "scaled": True},
    deviations={},
    dataset={"id": "digits", "num_train": 1437, "num_test": 360, "fingerprint": "f0"},
    seed=3,
)
OUTCOME = records.Outcome(metrics={"top1": 97.5, "top5": 99.0}, num_test=360, details={"C": 1.0})


def write(results, run=RUN, outcome=OUTCOME, status="ok", error=None, **more):
    keywords = {"environment": {}, "time": {}, **more}
    return records.write(run, results, status=status, outcome=outcome, error=error, **keywords)


def plant(folder, content):
    """A file whose name vouches for ``content``, as only ``write`` makes them."""
    sha12 = hashlib.sha256(content).hexdigest()[:12]
    path = folder / f"00000000-0000-7000-8000-000000000000.{sha12}.json"
    path.write_bytes(content)
    return path


def test_a_record_holds_the_run_and_what_it_measured(tmp_path):
    path = write(tmp_path)
    (record,), problems = store.read_all(tmp_path)
    assert problems == []
    assert record["schema"] == 2
    assert (record["status"], record["error"], record["seed"]) == ("ok", None, 3)
    assert record["encoder"]["id"] == "MoCo v2"
    assert record["encoder"]["num_params"] == 7
    assert record["protocol"] == {
        "id": "linear-lbfgs",
        "version": 1,
        "recipe": "lbfgs",
        "deviations": {},
        "engine": None,
    }
    assert record["metrics"] == {
        "top1": {"value": 97.5, "primary": True, "n": 360, "unit": "%", "higher_better": True},
        "top5": {"value": 99.0, "primary": False, "n": 360, "unit": "%", "higher_better": True},
    }
    assert record["name"] == path.name
    assert path.parent == tmp_path / "linear-lbfgs" / "digits" / "MoCo-v2"


def test_a_file_is_named_by_the_hash_of_its_bytes(tmp_path):
    path = write(tmp_path)
    run_id, sha12, suffix = path.name.split(".")
    assert sha12 == hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert run_id == json.loads(path.read_bytes())["run_id"]
    assert suffix == "json"
    # Version 7 and variant 10 of RFC 9562.
    assert run_id[14] == "7"
    assert run_id[19] in "89ab"


def test_records_come_back_in_the_order_in_which_they_were_written(tmp_path):
    # The protocols' folders sort the other way round.
    protocols = ["z", "y", "x", "w", "v", "u"]
    for protocol in protocols:
        write(tmp_path, dataclasses.replace(RUN, protocol=protocol))
    found, _ = store.read_all(tmp_path)
    assert [record["protocol"]["id"] for record in found] == protocols


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": {**RUN.encoder, "tensor_sha256": "bb"}},
        {"protocol": "knn"},
        {"version": 2},
        {"recipe": "lbfgs-45"},
        {"config": {"num_c": 8, "scaled": True}},
        {"dataset": {**RUN.dataset, "id": "other"}},
        {"dataset": {**RUN.dataset, "fingerprint": "f1"}},
        {"seed": 4},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_key_changes_with_all_that_makes_another_trial(change):
    assert dataclasses.replace(RUN, **change).key() != RUN.key()


def test_the_key_ignores_where_the_weights_lay():
    elsewhere = {"tensor_sha256": "aa", "source": "elsewhere.pth"}
    assert dataclasses.replace(RUN, encoder=elsewhere).key() == RUN.key()


def test_a_record_from_before_a_field_is_the_same_trial_as_one_that_names_what_was_done():
    named = dataclasses.replace(RUN, config={**RUN.config, "feature": "pooled"})
    assert named.key() == RUN.key()
    other = dataclasses.replace(RUN, config={**RUN.config, "feature": "cls"})
    assert other.key() != RUN.key()


def test_another_display_name_is_another_row_and_so_another_key():
    assert dataclasses.replace(RUN, encoder_id="mine").key() != RUN.key()


def test_find_returns_the_newest_success_of_a_key(tmp_path):
    assert store.find(tmp_path / "absent", RUN.key()) is None
    write(tmp_path, status="failed", outcome=None, error="it diverged")
    assert store.find(tmp_path, RUN.key()) is None
    for top1 in (90.0, 91.0):
        write(tmp_path, outcome=records.Outcome(metrics={"top1": top1}, num_test=1, details={}))
    write(tmp_path, dataclasses.replace(RUN, seed=9))
    write(tmp_path, status="preempted", outcome=None, error="stopped")
    found = store.find(tmp_path, RUN.key())
    assert found is not None
    assert found["metrics"]["top1"]["value"] == 91.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_metric_that_is_not_finite_becomes_null_and_fails_the_run(tmp_path, value):
    outcome = records.Outcome(
        metrics={"top1": 50.0, "top5": value}, num_test=360, details={"curve": [1.0, value]}
    )
    path = write(tmp_path, outcome=outcome)
    assert "NaN" not in path.read_text()
    assert "Infinity" not in path.read_text()
    (record,), _ = store.read_all(tmp_path)
    assert record["status"] == "failed"
    assert record["error"] == "top5: not a finite number."
    assert record["metrics"]["top5"]["value"] is None
    assert record["details"]["curve"] == [1.0, None]


def test_a_value_json_does_not_know_costs_no_result(tmp_path):
    details = {"dim": np.int64(64), "norm": np.float32(0.5), "path": Path("a/b"), 5: (1, True)}
    write(tmp_path, outcome=records.Outcome(metrics={"top1": 1.0}, num_test=1, details=details))
    (record,), _ = store.read_all(tmp_path)
    assert record["details"] == {"dim": 64, "norm": 0.5, "path": "a/b", "5": [1, True]}


def test_damaged_torn_misnamed_and_newer_files_are_left_out_by_name(tmp_path):
    whole = write(tmp_path)
    changed = write(tmp_path)
    changed.write_bytes(changed.read_bytes().replace(b"97.5", b"98.5"))
    torn = write(tmp_path)
    torn.write_bytes(torn.read_bytes()[:40])
    empty = write(tmp_path)
    empty.write_bytes(b"")
    misnamed = whole.with_name("copy of a record.json")
    misnamed.write_bytes(whole.read_bytes())
    newer = plant(whole.parent, b'{"schema": 3}')
    found, problems = store.read_all(tmp_path)
    assert [record["name"] for record in found] == [whole.name]
    by_path = {problem.split(" is left out: ")[0]: problem for problem in problems}
    assert by_path.keys() == {str(p) for p in (changed, torn, empty, misnamed, newer)}
    assert "is damaged, its bytes hash to" in by_path[str(changed)]
    assert "is damaged" in by_path[str(torn)]
    assert "is damaged" in by_path[str(empty)]
    assert "its name is not that of a record" in by_path[str(misnamed)]
    assert "schema 3, this moco-eval reads up to 2" in by_path[str(newer)]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("timm:vit_small", "timm-vit_small"),
        ("../../etc/passwd", "etc-passwd"),
        ("..", "unnamed"),
        ("", "unnamed"),
        (".hidden", "hidden"),
        ("Größe 1", "Gr-e-1"),
        ("a" * 300, "a" * 100),
    ],
)
def test_a_name_becomes_one_harmless_path_component(name, path):
    assert records.slug(name) == path


def test_names_with_slashes_stay_inside_the_store(tmp_path):
    hostile = dataclasses.replace(
        RUN, encoder_id="../../../e", dataset={**RUN.dataset, "id": "imagefolder:/data/x"}
    )
    path = write(tmp_path / "store", hostile)
    assert path.resolve().is_relative_to(tmp_path / "store")
    (record,), _ = store.read_all(tmp_path / "store")
    assert record["dataset"]["id"] == "imagefolder:/data/x"


WRITER = """
import os, signal, sys
from pathlib import Path
from tests.moco_eval.test_records import write
{before}
for _ in range(int(sys.argv[2])):
    print(write(Path(sys.argv[1])), flush=True)
"""


def start_writer(results, count, before=""):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER.format(before=before), str(results), str(count)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_that_write_to_one_cell_keep_every_record(tmp_path):
    writers = [start_writer(tmp_path, 100) for _ in range(2)]
    announced = [line for writer in writers for line in writer.communicate()[0].splitlines()]
    assert [writer.returncode for writer in writers] == [0, 0]
    found, problems = store.read_all(tmp_path)
    assert problems == []
    assert len(found) == 200
    assert {Path(line).name for line in announced} == {record["name"] for record in found}
    assert list(tmp_path.rglob("*.tmp")) == []


def test_a_writer_killed_before_the_record_appears_leaves_none(tmp_path):
    kill = "os.link = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)"
    writer = start_writer(tmp_path, 1, before=kill)
    assert writer.communicate()[0] == ""
    assert writer.returncode == -signal.SIGKILL
    assert store.read_all(tmp_path) == ([], [])
    # The next run is not hindered by what was left.
    write(tmp_path)
    assert len(store.read_all(tmp_path)[0]) == 1


def test_a_writer_killed_at_any_moment_tears_no_record_and_loses_none_it_announced(tmp_path):
    announced = set()
    for delay in range(4):
        writer = start_writer(tmp_path, 10**6)
        assert writer.stdout is not None
        announced |= {Path(writer.stdout.readline().strip()).name for _ in range(10 + delay)}
        writer.kill()
        # A line may be cut short by the kill, a record may not.
        rest = writer.communicate()[0].splitlines(keepends=True)
        announced |= {Path(line.strip()).name for line in rest if line.endswith(".json\n")}
    found, problems = store.read_all(tmp_path)
    assert problems == []
    assert announced <= {record["name"] for record in found}


def test_a_record_that_its_folder_refuses_is_kept_elsewhere_and_printed(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    results = tmp_path / "results"
    results.write_text("a file where the store should be")
    with pytest.raises(OutputError) as caught:
        write(results)
    (kept,) = (tmp_path / "home" / ".moco-eval" / "unsaved").iterdir()
    printed = capsys.readouterr().out
    assert kept.read_text() == printed
    assert json.loads(printed)["metrics"]["top1"]["value"] == 97.5
    text = str(caught.value)
    assert (
        f"{results / 'linear-lbfgs' / 'digits' / 'MoCo-v2' / kept.name} cannot be written" in text
    )
    assert f"was kept as {kept} and was printed on standard output" in text
    assert caught.value.exit_code == 74
    # As the message promises: moved into a store under its own name, it is a record.
    home = tmp_path / "store" / "linear-lbfgs" / "digits" / "MoCo-v2"
    home.mkdir(parents=True)
    kept.rename(home / kept.name)
    assert len(store.read_all(tmp_path / "store")[0]) == 1


def test_a_record_that_fits_nowhere_is_still_printed(tmp_path, monkeypatch, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("HOME", str(blocked))
    with pytest.raises(OutputError, match=r"could not be kept as .* either"):
        write(blocked)
    assert json.loads(capsys.readouterr().out)["seed"] == 3


FULL_DISK = """
import resource, signal
from pathlib import Path
from moco_eval.errors import OutputError
from tests.moco_eval.test_records import write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    write(Path("store"))
except OutputError as error:
    raise SystemExit(error.exit_code)
"""


def test_a_disk_that_fills_up_leaves_nothing_half_written(tmp_path, monkeypatch):
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    # Files may grow to 100 bytes; a pipe, such as standard output, is not limited.
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 74, result.stderr
    assert json.loads(result.stdout)["seed"] == 3
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_record_of_before_the_linear_probe_had_variants_is_read_under_its_new_name(tmp_path):
    write(tmp_path, dataclasses.replace(RUN, protocol="linear"))
    assert store.find(tmp_path, RUN.key())["protocol"]["id"] == "linear-lbfgs"


def test_an_error_is_better_the_lower_it_is(tmp_path):
    outcome = dataclasses.replace(OUTCOME, metrics={"top1": 97.5, "ece": 2.5})
    metrics = records.read(write(tmp_path, outcome=outcome))["metrics"]
    assert [metrics[name]["higher_better"] for name in ("top1", "ece")] == [True, False]


def test_a_record_tells_what_it_cost_and_what_no_one_measured_is_null(tmp_path):
    path = write(tmp_path, time={"wall_s": 1.5, "num_resumes": 2})
    assert records.read(path)["time"] == {
        "wall_s": 1.5,
        "device_s": None,
        "peak_memory_mib": None,
        "peak_device_memory_mib": None,
        "num_processes": None,
        "num_resumes": 2,
    }


def test_a_record_tells_how_many_images_were_damaged_and_what_was_done_about_it(tmp_path):
    dataset = json.loads(write(tmp_path).read_text())["dataset"]
    assert (dataset["num_damaged"], dataset["damaged_policy"]) == (0, "fail")
    # A data set that counts them says so itself.
    run = dataclasses.replace(RUN, dataset={**RUN.dataset, "num_damaged": 3})
    assert json.loads(write(tmp_path, run).read_text())["dataset"]["num_damaged"] == 3


@pytest.mark.parametrize(
    ("told", "rule"),
    [
        (None, "nothing is chosen: all numbers are the recipe's"),
        ({"what": "nothing: all"}, "nothing is chosen: all numbers are the recipe's"),
        (
            {"what": "C", "chosen": 1.0, "on": "20% of the training set", "by": "top1"},
            "C, by top1, on 20% of the training set",
        ),
        (
            {"lr": 0.02, "score_by_lr": {"0.02": 30.0}, "judged_on": "1 in 5 training images"},
            "lr, by primary metric, on 1 in 5 training images",
        ),
    ],
)
def test_a_record_says_in_a_sentence_how_it_was_selected(tmp_path, told, rule):
    details = {"selection": told} if told else {}
    outcome = dataclasses.replace(OUTCOME, details=details)
    record = json.loads(write(tmp_path, outcome=outcome).read_text())
    assert record["selection"]["rule"] == rule
    assert record["details"] == details


def test_a_run_that_measured_nothing_selected_nothing(tmp_path):
    path = write(tmp_path, status="failed", outcome=None, error="it diverged")
    assert records.read(path)["selection"] == {}


def test_only_a_success_takes_the_place_of_another_record(tmp_path):
    lost = records.Outcome(metrics={"top1": float("nan")}, num_test=1, details={})
    for keywords, expected in (
        ({}, ("a", "run again")),
        ({"status": "failed", "outcome": None, "error": "e"}, (None, "")),
        ({"outcome": lost}, (None, "")),
    ):
        record = records.read(write(tmp_path, supersedes="a", **keywords))
        assert (record["supersedes"], record["reason"]) == expected
    assert records.read(write(tmp_path))["supersedes"] is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "what it holds is no record"),
        (b"{}", "it has no schema"),
        (b"null", "what it holds is no record"),
        (b'{"schema": 2}', "lacks what a record has: run_id, created, status"),
        (b'{"schema": "2"}', "it has schema 2, this moco-eval reads up to 2"),
        (b'{"schema": 2, "retracts": "a"}', "lacks what a record has: run_id, created, reason"),
        (b'{"schema": 2', "no record: Expecting ',' delimiter"),
        (b'"\xff', "no record: 'utf-8' codec can't decode byte"),
    ],
)
def test_a_file_that_is_whole_but_no_record_is_refused_in_words(tmp_path, content, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        records.read(plant(tmp_path, content))


@pytest.mark.parametrize("part", ["protocol", "encoder", "dataset"])
def test_a_record_whose_parts_are_of_another_kind_is_refused(tmp_path, part):
    content = json.loads(write(tmp_path).read_text()) | {part: "text"}
    with pytest.raises(ValueError, match=f"lacks what a record has: {part}"):
        records.read(plant(tmp_path, json.dumps(content).encode()))


def test_a_record_under_another_runs_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="its name is that of another run than"):
        records.read(plant(tmp_path, write(tmp_path).read_bytes()))


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_hard_links_keeps_records_too(tmp_path, monkeypatch, number):
    def refuse(*paths):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    path = write(tmp_path)
    assert records.read(path)["seed"] == 3
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    # Nor there is a file ever replaced.
    with pytest.raises(OSError, match=os.strerror(number)):
        record_file.write_once(path, b"other")
    assert records.read(path)["seed"] == 3
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_is_never_written_twice(tmp_path):
    record_file.write_once(tmp_path / "a", b"first")
    with pytest.raises(FileExistsError):
        record_file.write_once(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
