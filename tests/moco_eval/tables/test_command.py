import hashlib
import itertools
import json
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from moco_eval import cli

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "results"


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def table(monkeypatch, capsys):
    def run(*arguments, results=RESULTS):
        command = ["moco-eval", "table", *map(str, arguments), "--results", str(results)]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as end:
            cli.main()
        return Done(end.value.code, *capsys.readouterr())

    return run


SOME = ("--encoders", "random init", "MoCo v2", "--protocols", "knn", "linear-lbfgs")


def test_flags_choose_rows_columns_and_the_baseline(table):
    done = table(*SOME, "--baseline", "random init", "--title", "Digits", "--decimals", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "**Digits**"
    cells = [cell.strip() for cell in lines[5].strip("|").split("|")]
    # 96.11 - 93.61 of results/tables/digits.csv.
    assert cells == ["MoCo v2", "**98.33 ± 0.00 (5)** (+1.39)", "96.11 (1) (+2.50)"]


def test_columns_may_show_any_metric_and_costs(table):
    done = table("--encoders", "MoCo v2", "--columns", "knn:digits:top1_k1", "--cost", "params_m")
    assert done.returncode == 0, done.stderr
    heading, _, row = done.stdout.splitlines()[:3]
    assert "digits<br>knn top1_k1" in heading
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["MoCo v2", "98.6 (1)", "0.308"]


def test_a_layout_is_read_and_flags_take_the_place_of_its_keys(table, tmp_path):
    layout = tmp_path / "layout.toml"
    layout.write_text(
        'title = "From the file"\nprotocols = ["knn"]\n[[rows]]\nencoder = "MoCo v2"\n'
        'label = "ours"\n[[rows]]\nencoder = "random init"\n'
    )
    done = table("--layout", layout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("**From the file**")
    assert "| ours " in done.stdout
    assert "linear" not in done.stdout
    # The label of a row stays when flags choose among the rows.
    done = table("--layout", layout, "--encoders", "MoCo v2", "--title", "From the flag")
    assert done.stdout.startswith("**From the flag**")
    assert "| ours " in done.stdout
    assert "random init" not in done.stdout


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("x.md", "| encoder"),
        ("x.tex", "% Needs"),
        ("x.csv", "encoder,protocol,"),
        ("x.html", "<!doctype html>"),
    ],
)
def test_the_suffix_of_the_output_says_the_format(table, tmp_path, name, begins):
    path = tmp_path / "new folder" / name
    done = table(*SOME, "--output", path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    first = path.read_bytes()
    assert first.startswith(begins.encode())
    table(*SOME, "--output", path)
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == [name]


def test_a_format_that_is_asked_for_goes_before_the_suffix(table, tmp_path):
    table(*SOME, "--output", tmp_path / "x.txt", "--format", "csv")
    assert (tmp_path / "x.txt").read_text().startswith("encoder,")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--output", "x.txt"), "--output x.txt does not say which format"),
        (("--format", "markdown"), "There is no table format 'markdown'."),
        (("--encoders", "Moco v2"), "Did you mean 'MoCo v2'?"),
        (("--columns", "knn@x"), "is not of the form PROTOCOL"),
        (("--columns", "knn", "--protocols", "knn"), "--columns says what the columns are"),
        (("--cost", "wall"), "There is no cost column 'wall'."),
        (("--reference", "x.csv"), "--reference goes with --check, which is missing."),
        (("--tolerance", "1"), "--tolerance goes with --check, which is missing."),
        (("--beside", "a=b"), "--beside goes with --paper, which is missing."),
        (("--paper", "moco-v1/table2", "--check"), "leave out --paper, or --check."),
        (("--paper", "moco-v1/table2", "--beside", "a"), "is not of the form ENCODER=LABEL."),
        (("--paper", "moco-v1/tabel2"), "moco-v1/table2"),
    ],
)
def test_what_is_asked_for_wrongly_is_refused_with_code_2(
    table, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    done = table(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_check_exits_1_where_a_cell_is_outside_its_band(table, tmp_path):
    reference = RESULTS / "tables" / "digits.csv"
    done = table(*SOME, "--check", "--reference", reference)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("4 inside, 0 outside, 0 no reference")
    moved = tmp_path / "moved.csv"
    moved.write_text(reference.read_text().replace(",96.111111,", ",90.0,"))
    done = table(*SOME, "--check", "--reference", moved)
    assert done.returncode == 1
    assert "outside       MoCo v2, knn top1: measured 96.1 (1), reference 90.00" in done.stdout
    assert done.stderr == ""


def test_the_papers_tables_are_listed_and_printed(table):
    listed = table("--papers")
    assert "moco-v1/table2 " in listed.stdout
    done = table("--paper", "moco-v1/table2", "--format", "csv")
    assert done.returncode == 0, done.stderr
    assert "published" in done.stdout


def test_a_damaged_record_is_named_and_left_out(table, tmp_path):
    source = next((RESULTS / "knn" / "digits").glob("*/*.json"))
    folder = tmp_path / "knn" / "digits" / "x"
    folder.mkdir(parents=True)
    (folder / source.name).write_bytes(source.read_bytes())
    (folder / source.name.replace("0", "1")).write_bytes(source.read_bytes()[:-9])
    done = table(results=tmp_path)
    assert done.returncode == 0
    assert "is left out: it is damaged" in done.stderr
    assert "1 records" in done.stdout


def test_no_results_are_refused_with_what_to_do(table, tmp_path):
    done = table(results=tmp_path)
    assert done.returncode == 2
    assert "evaluate an encoder first" in done.stderr


PROGRAM = """
import sys, resource
sys.argv = ["moco-eval", "table", *sys.argv[1:]]
from moco_eval import cli
try:
    cli.main()
except SystemExit as end:
    assert not end.code
used = resource.getrusage(resource.RUSAGE_SELF)
high = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print("torch" in sys.modules, used.ru_utime + used.ru_stime, int(high) / 1024)
"""


def run_apart(results, output):
    """What a process of its own imports and takes: whether torch, CPU seconds, MiB."""
    command = [sys.executable, "-c", PROGRAM, "--results", results, "--output", output]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imports_torch, cpu_s, high_mib = done.stdout.split()
    return imports_torch == "True", float(cpu_s), float(high_mib)


def write_ten_thousand(results):
    """Records of 20 encoders under 10 protocols with 50 seeds, after a committed one."""
    source = next((RESULTS / "lowshot" / "digits").glob("*/*.json"))
    record = json.loads(source.read_text())
    record["encoder"]["id"], record["protocol"]["id"] = "ENCODER", "PROTOCOL"
    record["seed"], record["run_id"], record["metrics"]["top1"]["value"] = "SEED", "RUN", "VALUE"
    template = json.dumps(record, sort_keys=True, indent=1)
    cells = itertools.product(range(20), range(10), range(50))
    for number, (encoder, protocol, seed) in enumerate(cells):
        run_id = str(uuid.UUID(int=number + (7 << 76)))
        value = 50 + encoder + (seed * 7919 % 101) / 50
        text = template.replace("ENCODER", f"e{encoder}").replace("PROTOCOL", f"p{protocol}")
        text = text.replace('"SEED"', str(seed)).replace("RUN", run_id)
        content = text.replace('"VALUE"', str(value)).encode()
        folder = results / f"p{protocol}" / "digits" / f"e{encoder}"
        if seed == 0:
            folder.mkdir(parents=True)
        digest = hashlib.sha256(content).hexdigest()[:12]
        (folder / f"{run_id}.{digest}.json").write_bytes(content)


def test_ten_thousand_records_take_seconds_and_less_than_500_mib_and_no_torch(tmp_path):
    write_ten_thousand(tmp_path / "results")
    # The first reads every file and writes the index; the second has it.
    for name, limit_s in (("first.md", 10), ("second.md", 3)):
        imports_torch, cpu_s, high_mib = run_apart(tmp_path / "results", tmp_path / name)
        assert not imports_torch
        assert cpu_s < limit_s
        assert high_mib < 500
    first = (tmp_path / "first.md").read_bytes()
    assert b"10000 records" in first
    assert (tmp_path / "second.md").read_bytes() == first
