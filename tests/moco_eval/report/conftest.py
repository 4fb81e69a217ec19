"""A store with everything that a report may meet, and the page that is made of it."""

import dataclasses
import shutil

import numpy as np
import pytest

from moco_eval import pictures, records
from moco_eval.report.content import Sources, gather
from moco_eval.report.page import html
from moco_eval.store import read_all
from moco_eval.tables.layout import Layout

HOSTILE = "<script>alert('x')</script> & \"漢字\""
WEIGHTS = {
    **{"tensor_sha256": "aa", "num_params": 23_508_032, "source": "mocov2.pth.tar"},
    **{"arch": "resnet50", "format": "moco", "input": {"size": 224, "mean": [0.5, 0.25]}},
    "pretrain": {"method": "moco", "recipe": "mocov2", "config": {"temperature": 0.2}},
}
LBFGS = {"protocol": "linear-lbfgs", "recipe": "lbfgs", "config": {"c": []}}


@pytest.fixture(scope="session")
def write_run(knn_run):
    """Write one record, changed as told: what was measured, how it ended, who ran."""

    def write(
        results, metrics, *, status="ok", details=None, wall_s=1.5, error="it was so", **changes
    ):
        outcome = records.Outcome(metrics=metrics, num_test=360, details=details or {})
        path = records.write(
            dataclasses.replace(knn_run, **{"encoder": WEIGHTS, **changes}),
            results,
            status=status,
            outcome=outcome if status == "ok" else None,
            error=None if status == "ok" else error,
            environment={"package": "0.1.0"},
            time={"wall_s": wall_s, "peak_memory_mib": 900},
        )
        return records.read(path)

    return write


def by_c(*scores):
    """The selection of an L-BFGS probe that tried C of 1, 10 and so on."""
    tried = {str(10**place): {"top1": score} for place, score in enumerate(scores)}
    told = {"what": "C", "by": "top1", "on": "20% of the training set", "chosen": 10.0}
    return {"selection": {**told, "by_c": tried}}


def leave_pictures(drawn, folder, run_id):
    """Put the pictures of a run into a work folder, as the run leaves them."""
    shutil.copytree(drawn, folder)
    (folder / "run_id").write_text(f"{run_id}\n")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """Pictures of three classes of two images each, one of them taken for another."""
    folder = tmp_path_factory.mktemp("drawn")
    logits = 4.0 * np.eye(3)[[0, 0, 1, 2, 2, 2]]
    arrays = {"labels": np.repeat(np.arange(3), 2), "logits": logits}
    pictures.draw(arrays, classes=["a", "b", HOSTILE], folder=folder, title=HOSTILE)
    return folder


@pytest.fixture(scope="session")
def store(tmp_path_factory, write_run, drawn):
    """The folder of ``results`` and ``work``."""
    root = tmp_path_factory.mktemp("store")
    results, work = root / "results", root / "work"
    for name, number, first in (("random init", 0, 70.0), ("MoCo v2", 1, 95.0), (HOSTILE, 2, 9.5)):
        weights = {**WEIGHTS, "tensor_sha256": f"a{number}"}
        who = {"encoder_id": name, "encoder": weights}
        for seed in (0, 1):
            made = write_run(
                results,
                {"top1": first + seed, "top5": 99.0, "ece": 1.0},
                wall_s=3.0 - number,
                seed=seed,
                **who,
            )
            place = work / "knn" / f"encoder{number}" / f"seed{seed}"
            leave_pictures(drawn, place, made["run_id"])
            if number < 2:
                details = by_c(60.0, 80.0 + number, 70.0)
                write_run(
                    results, {"top1": 90.0 + seed}, details=details, seed=seed, **who, **LBFGS
                )
        dense = {"protocol": "detect", "version": 2, "recipe": "voc", "engine": "detectron2"}
        write_run(results, {"AP": 30.0 + number, "AP50": 50.0}, **who, **dense)
    failed = {"protocol": "finetune", "recipe": "digits"}
    write_run(results, {}, status="failed", error="Loss is <nan> at step 3.", **failed)
    stray = results / "knn" / "digits" / "MoCo-v2"
    damaged = next(stray.glob("*.json"))
    (stray / damaged.name.replace(".", "0.", 1)).write_bytes(damaged.read_bytes())
    return root


@pytest.fixture
def hostile_name():
    """An encoder's name that would be markup and is not ASCII."""
    return HOSTILE


def _sources(store, layout):
    return Sources(results=store / "results", work=store / "work", layout=layout)


@pytest.fixture(scope="session")
def report(store):
    """The content of the report of ``store``."""
    found, problems = read_all(store / "results")
    layout = Layout(baseline="random init")
    return gather(found, problems, _sources(store, layout))


@pytest.fixture(scope="session")
def page_file(report, tmp_path_factory):
    """The page of ``report``, in a file."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html(report), encoding="utf-8")
    return path
