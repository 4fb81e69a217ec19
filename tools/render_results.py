"""Render the tables of this project's own records, and the one that the README shows.

python tools/render_results.py            write results/tables/ and README.md
python tools/render_results.py --check    exit 1 if any of them would change
"""

from __future__ import annotations

import sys
from pathlib import Path

from moco_eval import records, tables
from moco_eval.demo import MOCO, PIXELS, RANDOM, SUPERVISED
from moco_eval.files import write_text

ROOT = Path(__file__).resolve().parent.parent
ENCODERS = (RANDOM, PIXELS, SUPERVISED, MOCO)
BEGIN, END = "<!-- written by tools/render_results.py -->\n", "<!-- end -->\n"


def rendered() -> dict[Path, str]:
    """Every file that depends on the records, with the text that it should have."""
    found, problems = records.read_all(ROOT / "results")
    if problems:
        sys.exit("\n".join(problems))
    table = tables.table(found, baseline=RANDOM, encoders=ENCODERS)
    files = {
        ROOT / "results" / "tables" / f"digits.{suffix}": tables.render(table, form)
        for form, suffix in (("md", "md"), ("latex", "tex"), ("csv", "csv"))
    }
    readme = (ROOT / "README.md").read_text()
    before, after = readme.split(BEGIN)[0], readme.split(END)[1]
    files[ROOT / "README.md"] = f"{before}{BEGIN}\n{tables.render(table, 'md')}\n{END}{after}"
    return files


def main() -> None:
    """Write the files, or say which would change."""
    files = rendered()
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        sys.exit("\n".join(f"{path.relative_to(ROOT)} is stale" for path in stale) or 0)
    for path in stale:
        write_text(path, files[path])
        print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
