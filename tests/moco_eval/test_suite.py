from dataclasses import replace

import pytest

from moco_eval import linear, store, suite
from moco_eval.errors import DivergedError, UsageError

CELL = suite.Cell(
    protocol="knn", encoder="pixels", data="digits", name="raw", overrides=("other_k=[]",)
)


def run(cell, folder):
    return suite.run_cell(cell, results=folder / "results", work_dir=folder / "work")


def find(cell, folder):
    return suite.find_record(cell, results=folder / "results")


def test_a_recorded_cell_is_found_and_says_how_it_deviated(tmp_path):
    assert find(CELL, tmp_path) is None
    record = run(CELL, tmp_path)
    assert find(CELL, tmp_path)["run_id"] == record["run_id"]
    assert record["protocol"]["deviations"] == {"other_k": []}
    assert record["encoder"]["id"] == "raw"
    assert (record["dataset"]["num_train"], record["dataset"]["num_test"]) == (1437, 360)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"overrides": ("k=3", "other_k=[]")}, {"name": "other"}]
)
def test_what_differs_is_another_cell(tmp_path, change):
    run(CELL, tmp_path)
    assert find(replace(CELL, **change), tmp_path) is None


def test_running_a_cell_again_keeps_both_records(tmp_path):
    run(CELL, tmp_path)
    run(CELL, tmp_path)
    found, problems = store.read_all(tmp_path / "results")
    assert (len(found), problems) == (2, [])


def test_two_processes_leave_what_one_would(tmp_path):
    cells = [CELL, replace(CELL, overrides=("k=3", "other_k=[]")), replace(CELL, seed=1)]
    folders = {"results": tmp_path / "results", "work_dir": tmp_path / "work"}
    done = suite.run_all(cells, **folders, num_processes=2)
    assert len(done) == 3
    alone = run(CELL, tmp_path / "alone")
    both = next(r for r in done if r["config"] == alone["config"] and r["seed"] == 0)
    assert both["metrics"] == alone["metrics"]
    # What is recorded is not run again.
    assert len(suite.run_all(cells, **folders, num_processes=2)) == 3
    assert len(store.read_all(tmp_path / "results")[0]) == 3


def test_a_failed_run_is_recorded_and_the_rest_goes_on(tmp_path, monkeypatch, capsys):
    def diverge(*arguments, **options):
        raise DivergedError("the loss is nan")

    monkeypatch.setattr(linear, "evaluate", diverge)
    failing = replace(CELL, protocol="linear", overrides=())
    done = suite.run_all([failing, CELL], results=tmp_path / "results", work_dir=tmp_path / "work")
    assert [record["protocol"]["id"] for record in done] == ["knn"]
    found, _ = store.read_all(tmp_path / "results")
    assert {record["protocol"]["id"]: record["status"] for record in found} == {
        "linear-lbfgs": "failed",
        "knn": "ok",
    }
    assert "failed. the loss is nan" in capsys.readouterr().out


def test_a_wrong_request_is_no_failed_run(tmp_path):
    with pytest.raises(UsageError, match="k = 5000 is more than"):
        run(replace(CELL, overrides=("k=5000",)), tmp_path)
    assert store.read_all(tmp_path / "results") == ([], [])


def test_an_unknown_protocol_offers_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'linear'"):
        suite.protocol_module("lineal")
