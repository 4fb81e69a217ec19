"""The README promises nothing that is not there; its commands run in tests/documented."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_two_commands_are_targets_of_make():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.findall(r"^make (\w+)", TEXT, flags=re.MULTILINE)
    assert {"demo", "test"} <= set(named)
    for target in named:
        assert f"\n{target}:" in makefile, target


def test_named_files_and_folders_exist():
    names = re.findall(r"`((?:moco_eval|pretrain|tests|results|tools|docs)/[\w./]*)`", TEXT)
    links = re.findall(r"\]\((?!https?:)([^)#]+)", TEXT)
    assert len(links) > 10
    for name in (*names, *links):
        assert (ROOT / name).exists(), name


def test_its_links_into_pages_meet_headings():
    for name, anchor in re.findall(r"\]\(([\w./-]+\.md)#([\w-]+)\)", TEXT):
        headings = re.findall(r"^#+ (.*)$", (ROOT / name).read_text(), flags=re.MULTILINE)
        slugs = [re.sub(r"[^\w-]+", "-", heading.lower()).strip("-") for heading in headings]
        assert anchor in slugs, f"{name}#{anchor}"


def test_the_layout_names_files_that_exist():
    layout = TEXT[TEXT.index("```text\nmoco_eval/") :].split("```")[1]
    place = {0: ROOT}
    for line in layout.removeprefix("text\n").splitlines():
        indent = len(line) - len(line.lstrip())
        if indent > 8:
            continue  # the rest of a description
        names = re.split(r"\s{2,}", line.strip())[0].split()
        parent = place[max(depth for depth in place if depth <= indent)]
        for name in names:
            assert (parent / name).exists(), f"{parent.relative_to(ROOT)}/{name}"
        if names[0].endswith("/"):
            place = {depth: path for depth, path in place.items() if depth <= indent}
            place[indent + 2] = parent / names[0]
