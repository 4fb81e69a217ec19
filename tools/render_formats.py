"""Render the table of checkpoint formats from their rows and from the files that the tests write.

python tools/render_formats.py            write results/tables/formats.md
python tools/render_formats.py --check    exit 1 if it would change
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from rendering import ROOT, write_or_check

from moco_eval.encoders.formats import FORMATS
from moco_eval.encoders.formats.layout import Format, needs_of

TABLE = ROOT / "results" / "tables" / "formats.md"
# Beside the tests lies the package that writes a file of each layout.
sys.path.insert(0, str(ROOT / "tests" / "moco_eval" / "encoders"))
LAYOUTS: Any = importlib.import_module("layouts").LAYOUTS

HEADING = """\
# Checkpoint formats

What `load_encoder` reads, in the order in which it looks. Of several towers the first that a file
holds is taken; `--tower` takes another. Proven: how the file came about that a test in
`tests/moco_eval/encoders/formats/` loads, tensor by tensor. No published file was at hand.
Written by `tools/render_formats.py`.

"""
COLUMNS = ("format", "what it is", "towers", "the user says", "proven")
EVIDENCE = {
    "library": "loaded, a file by the real library",
    "synthetic": "loaded, a synthetic file",
}


def rendered() -> str:
    """The table, as Markdown."""
    rows = [
        (f"`{row.name}`", row.title, _towers(row), needs_of(row), _proven(row)) for row in FORMATS
    ]
    lines = [" | ".join(cell.replace("|", r"\|") for cell in row) for row in (COLUMNS, *rows)]
    lines.insert(1, " | ".join([":--"] * len(COLUMNS)))
    return HEADING + "".join(f"| {line} |\n" for line in lines)


def _towers(row: Format) -> str:
    names = ", ".join(dict.fromkeys(tower.name for tower in row.towers))
    return f"{names}; none goes before another" if row.equal_towers else names


def _proven(row: Format) -> str:
    """How the files came about that were loaded as ``row``, the best evidence first."""
    if row.refused:
        return f"refused by name ({row.source})"
    sentences = []
    for evidence, words in EVIDENCE.items():
        held = [each for each in LAYOUTS if (each.format, each.evidence) == (row.name, evidence)]
        for by in dict.fromkeys(each.by for each in held):
            cases = " / ".join(each.case for each in held if each.by == by)
            sentences.append(f"{words} ({by}): {cases}")
    return "; ".join(sentences) or f"read from source only ({row.source})"


def main() -> None:
    """Write the file, or say that it would change."""
    write_or_check({TABLE: rendered()})


if __name__ == "__main__":
    main()
