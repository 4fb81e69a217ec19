import json
from dataclasses import replace

import pytest

from moco_eval import store, suite
from moco_eval.encoders.hints import Hints
from moco_eval.errors import PreemptedError, UsageError
from moco_eval.suite import claims
from moco_eval.suite.running import Standing

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


def test_a_wrong_request_is_no_failed_run(tmp_path):
    with pytest.raises(UsageError, match="k = 5000 is more than"):
        run(replace(CELL, overrides=("k=5000",)), tmp_path)
    assert store.read_all(tmp_path / "results") == ([], [])


def test_an_unknown_protocol_offers_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'linear'"):
        suite.protocol_module("lineal")


def test_a_run_leaves_the_id_of_its_record_beside_its_pictures(tmp_path):
    record = run(CELL, tmp_path)
    assert (tmp_path / "work" / "run_id").read_text() == f"{record['run_id']}\n"


def test_other_weights_under_the_same_name_are_another_cell(tmp_path, write_checkpoint):
    path = tmp_path / "checkpoint.pth"
    cell = replace(CELL, encoder=str(path), hints=Hints(arch="resnet10_small", input="half,size=8"))
    write_checkpoint(path, seed=0)
    run(cell, tmp_path)
    # The same bytes under another file name are found, other bytes under this one are not.
    moved = tmp_path / "moved.pth"
    moved.write_bytes(path.read_bytes())
    assert find(replace(cell, encoder=str(moved)), tmp_path)
    write_checkpoint(path, seed=1)
    assert find(cell, tmp_path) is None


def test_a_holder_that_was_taken_for_dead_records_nothing(tmp_path):
    claim = claims.acquire(tmp_path / "claims", "cell")
    taken_over = {**claim.told, "token": "another"}
    (tmp_path / "claims" / "cell.2").write_text(json.dumps(taken_over))
    standing = Standing(claim=claim)
    folders = {"results": tmp_path / "results", "work_dir": tmp_path / "work"}
    with pytest.raises(PreemptedError, match="another process holds this cell"):
        suite.run_cell(CELL, **folders, standing=standing)
    assert store.read_all(tmp_path / "results") == ([], [])
