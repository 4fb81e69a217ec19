import json
import resource
import subprocess
import sys

import pytest
import torch

from moco_eval.cli import COMMANDS, main


def moco_eval(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "moco_eval.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, **options
    )


def test_help_imports_nothing_heavy_and_is_quick():
    code = (
        "import sys; sys.argv = ['moco-eval', '--help']\n"
        "from moco_eval.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'pandas', 'torchvision', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # By the processor's clock, which a busy machine does not move.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert moco_eval("--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.4


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["moco-eval", name, "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert COMMANDS[name].help.split(",")[0] in " ".join(capsys.readouterr().out.split())


def test_version_and_doctor_answer():
    assert moco_eval("--version").stdout.startswith("moco-eval 0.")
    doctor = moco_eval("doctor").stdout
    assert "torch " in doctor
    assert "Detectron2" in doctor


def test_the_chain_records_once_and_prints_a_table(tmp_path):
    results = str(tmp_path / "results")
    command = ("knn", "pixels", "--data", "digits", "--name", "raw", "--results", results)
    first = moco_eval(*command, cwd=tmp_path)
    again = moco_eval(*command, cwd=tmp_path)
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    assert "top1 98.3" in first.stdout
    assert "Already recorded" in again.stdout
    deviating = moco_eval(
        *("knn", "pixels", "--data", "digits", "--name", "raw", "--results", results),
        *("--set", "k=1", "--set", "other_k=[]"),
        cwd=tmp_path,
    )
    assert deviating.returncode == 0, deviating.stderr
    records = [json.loads(path.read_text()) for path in (tmp_path / "results").rglob("*.json")]
    deviations = [record["protocol"]["deviations"] for record in records]
    assert sorted(deviations, key=len) == [{}, {"k": 1, "other_k": []}]


def test_a_table_goes_to_a_file_in_every_format(tmp_path):
    results = str(tmp_path / "results")
    moco_eval("knn", "pixels", "--data", "digits", "--results", results, cwd=tmp_path)
    for form, mark in (
        ("md", "| pixels"),
        ("latex", r"\toprule"),
        ("csv", "mean"),
        ("html", "<table"),
    ):
        out = tmp_path / f"table.{form}"
        done = moco_eval("table", "--results", results, "--format", form, "--output", str(out))
        assert done.returncode == 0, done.stderr
        assert mark in out.read_text()


def test_convert_and_check_round_trip(tmp_path):
    out = tmp_path / "encoder.safetensors"
    done = moco_eval("convert", "random:resnet10_small@3", str(out), "--to", "safetensors")
    assert done.returncode == 0, done.stderr
    source, copy = (
        json.loads(moco_eval("check", spec, "--json").stdout)
        for spec in ("random:resnet10_small@3", str(out))
    )
    assert source["tensor_sha256"] == copy["tensor_sha256"]
    assert source["input"] == copy["input"]


def test_published_numbers_are_found():
    found = moco_eval("published", "MoCo v2", "voc_det_c4_24k")
    assert found.returncode == 0
    assert "57.0" in found.stdout


@pytest.fixture
def bad_files(tmp_path):
    torch.save({"weights": {"a": torch.zeros(3)}}, tmp_path / "foreign.pth")
    torch.save({"arch": "resnet18", "state_dict": {}}, tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "truncated.pth").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.pth").write_text("this is no checkpoint\n")
    (tmp_path / "file").write_text("")
    empty = tmp_path / "images"
    for split in ("train", "val"):
        (empty / split / "cat").mkdir(parents=True)
    return tmp_path


BAD = [
    (["lineer", "pixels"], 2, "Did you mean 'linear'?"),
    (["linear", "pixels", "--data", "digits", "--recipe", "lbfg"], 2, "Did you mean 'lbfgs'?"),
    (["linear", "pixels", "--data", "digits", "--set", "num_c=many"], 2, "num_c"),
    (["linear", "random:resnet5", "--data", "digits"], 2, "Did you mean 'resnet50'?"),
    (["linear", "no-such-file.pth", "--data", "digits"], 2, "no-such-file.pth"),
    (["linear", "pixels", "--data", "imagefolder:nowhere"], 65, "nowhere/train/CLASS/*.jpg"),
    (["linear", "pixels", "--data", "imagefolder:images"], 65, "train/cat holds no images"),
    (["linear", "foreign.pth", "--data", "digits"], 2, "foreign.pth"),
    (["linear", "truncated.pth", "--data", "digits"], 2, "truncated.pth"),
    (["linear", "text.pth", "--data", "digits"], 2, "text.pth"),
    (["detect", "pixels", "--data", "digits-scenes:s"], 2, "no levels res2 to res5"),
    (["detect", "pixels", "--data", "digits-scenes:s", "--engine", "d2"], 2, "engine 'd2'"),
    (["detect", "pixels", "--data", "coco:images:no.json"], 65, "no.json"),
    (["knn", "pixels", "--data", "digits", "--results", "file/below"], 74, "cannot be written"),
    (["convert", "random:resnet18", "file/x.pth", "--to", "torchvision"], 74, "cannot be written"),
    (["convert", "pixels", "x.pth", "--to", "tensorflow"], 2, "tensorflow"),
    (["table", "--results", "nothing-here"], 2, "There are no records"),
]


@pytest.mark.parametrize(("arguments", "code", "text"), BAD, ids=[" ".join(b[0]) for b in BAD])
def test_bad_input_gets_one_paragraph_and_its_exit_code(
    bad_files, monkeypatch, capsys, arguments, code, text
):
    before = set(bad_files.rglob("*"))
    monkeypatch.chdir(bad_files)
    monkeypatch.setenv("HOME", str(bad_files / "home"))
    monkeypatch.setattr(sys, "argv", ["moco-eval", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    errors = capsys.readouterr().err
    assert ended.value.code == code, errors
    assert text in errors
    assert "Traceback" not in errors
    allowed = (bad_files / "home", bad_files / "s")
    left = [
        path
        for path in set(bad_files.rglob("*")) - before
        if not any(path.is_relative_to(folder) for folder in allowed)
    ]
    assert left == []
