import subprocess
import sys
from pathlib import Path

from moco_eval import published


def test_every_published_number_is_there_with_its_source():
    rows = published.read()
    assert len(rows) == 2075
    assert (rows["source"] != "").all()
    assert set(rows["verified"]) == {"yes", "no"}


def test_every_word_must_match_somewhere_in_the_row_whatever_its_case():
    # MoCo v1's headline figure: 60.6 top-1 under the linear protocol (arXiv:1911.05722, table 1).
    rows = published.search(["MOCO", "1911.05722", "linear", "60.6", "r50"])
    assert len(rows) >= 1
    assert set(rows["value"]) == {"60.6"}
    assert set(rows["protocol"]) == {"linear"}


def test_words_are_not_patterns():
    # As a pattern, "top." would find top1, and "(repo" would be an error.
    assert published.search(["top."]).empty
    assert published.search(["(repo"])["method"].str.contains("(repo", regex=False).all()
    assert not published.search(["(repo"]).empty


def test_no_words_find_every_row_in_the_order_of_the_file():
    assert list(published.search([])["method"]) == list(published.read()["method"])


def test_digits_are_kept_as_printed():
    # Parsed as a number, 70.0 would be 70 in a column of whole numbers, and an empty s.d. NaN.
    rows = published.search(["2003.04297", "AP50"])
    assert "82.0 (unverified)" in set(rows["value"])
    assert set(rows["std"]) == {""}


def test_a_number_that_nobody_checked_says_so_and_no_other_does():
    rows = published.search([])
    is_marked = rows["value"].str.endswith(" (unverified)")
    assert is_marked.sum() == 25
    assert (is_marked == (rows["verified"] == "no")).all()


def test_the_numbers_are_found_from_an_installed_package(tmp_path):
    # As a wheel lays it out: the folder is the package moco_eval.results.
    root = Path(__file__).parents[2]
    package = tmp_path / "moco_eval"
    (package / "results").mkdir(parents=True)
    for source, target in (
        ("moco_eval/__init__.py", "__init__.py"),
        ("moco_eval/published.py", "published.py"),
        ("results/__init__.py", "results/__init__.py"),
        ("results/published.csv", "results/published.csv"),
    ):
        (package / target).write_bytes((root / source).read_bytes())
    script = "from moco_eval import published; print(len(published.read()), published.__file__)"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["2075", str(package / "published.py")]
