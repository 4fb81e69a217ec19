"""The documentation is built strictly, fetches nothing, and says what the code says."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from moco_eval import records, store
from moco_eval.cli import main

ROOT = Path(__file__).parent.parent
# What a page fetches by itself. A link is followed by the reader alone.
FETCHING = {"src", "srcset", "data", "poster"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; anything that is wrong in it ends the build."""
    folder = tmp_path_factory.mktemp("site")
    # With --quiet it would pass warnings by, strict or not.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(
        [*command, "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


def test_every_page_is_built(site):
    for page in (ROOT / "docs").rglob("*.md"):
        built = site / page.relative_to(ROOT / "docs").with_suffix(".html")
        assert built.exists(), page


class Fetched(HTMLParser):
    """Addresses that a browser asks for on its own."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in FETCHING or (tag == "link" and name == "href"):
                self.found.append(value)


def test_no_page_fetches_anything_from_outside(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        fetched = Fetched()
        fetched.feed(page.read_text(encoding="utf-8"))
        assert len(fetched.found) > 3
        outside = [each for each in fetched.found if re.match(r"(https?:)?//", each or "")]
        assert outside == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", sheet.read_text("utf-8")), sheet


def test_what_pages_take_from_the_code_is_as_the_code_has_it(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import render_docs

    for page, text in render_docs.rendered().items():
        assert page.read_text(encoding="utf-8") == text, f"python tools/render_docs.py: {page}"
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md"))
    for name in render_docs.blocks():
        assert pages.count(render_docs.MARK.format(name)) == 1, name


def test_every_suite_that_comes_with_the_program_is_told_of():
    page = (ROOT / "docs/suites.md").read_text(encoding="utf-8")
    for path in (ROOT / "suites").glob("*.toml"):
        assert f"| `{path.stem}` |" in page, path


def test_every_field_of_a_record_is_described_and_no_other(tmp_path, monkeypatch):
    for choice in ([], ["--recipe", "lbfgs"]):
        # A protocol that chooses something, and one that chooses nothing.
        protocol = "linear" if choice else "knn"
        command = ["moco-eval", protocol, "random:resnet10_small", "--data", "digits", *choice]
        monkeypatch.setattr(sys, "argv", [*command, "--pictures", "false", "--cache", "off"])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
    results = tmp_path / "results"
    paths = sorted(results.rglob("*.json"))
    fields = {name for path in paths for name in names_of(json.loads(path.read_text()))}
    store.retract(results, records.read(paths[0])["run_id"], reason="a test")
    (withdrawal,) = set(results.rglob("*.json")) - set(paths)
    told = described()
    assert sorted(fields - told) == []
    assert sorted(told - fields) == []
    page = (ROOT / "docs/records.md").read_text(encoding="utf-8")
    sentence = page[page.index("A withdrawal has only") :]
    assert set(re.findall(r"`(\w+)`", sentence)) == set(json.loads(withdrawal.read_text()))


# Below these a record holds what its protocol, its encoder's file or its machine has to tell.
FREE = ("config", "details", "environment.versions")
WHOLE = ("encoder.pretrain", "protocol.deviations")


def names_of(value, above=""):
    """The fields of a record, as the page writes them."""
    if above in FREE:
        return {f"{above}.*"}
    if not isinstance(value, dict) or above in WHOLE:
        return {above}
    if above == "metrics":
        return set().union(*(names_of(facts, "metrics.NAME") for facts in value.values()))
    return set().union(*(names_of(value[n], f"{above}.{n}".lstrip(".")) for n in value))


def described():
    """The fields that the page's table describes, some of them several in a row."""
    page = (ROOT / "docs/records.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]*`) \|", page[page.index("## The fields") :], re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(names) == len(set(names))
    return set(names)
