"""Render the tables of this project's own records, and the one that the README shows.

python tools/render_results.py            write results/tables/ and README.md
python tools/render_results.py --check    exit 1 if any of them would change
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from rendering import ROOT, write_or_check

from moco_eval import store, tables
from moco_eval.demo import MOCO, PIXELS, RANDOM, SUPERVISED

# suites/digits.toml's encoders; the demo's raw pixels stand beside them.
SUITE = (RANDOM, SUPERVISED, "MoCo v1", MOCO, "MoCo v3")
ENCODERS = (RANDOM, PIXELS, SUPERVISED, "MoCo v1", MOCO, "MoCo v3")
# What moco-eval demo runs; every protocol is in one of the two other tables.
SHOWN = ("linear-lbfgs", "lowshot", "knn", "detect", "detect-tv", "segment", "segment-tv")
FORMATS = {"md": "md", "latex": "tex", "csv": "csv"}
SEED_MARK = ", pretraining seed "
BEGIN, END = "<!-- written by tools/render_results.py -->\n", "<!-- end -->\n"


def rendered() -> dict[Path, str]:
    """Every file that depends on the records, with the text that it should have."""
    found, problems = store.read_all(ROOT / "results")
    if problems:
        sys.exit("\n".join(problems))
    shown = [record for record in found if record["protocol"]["id"] in SHOWN]
    classified = [record for record in found if record["dataset"]["id"] == "digits"]
    dense = [record for record in found if record["dataset"]["id"] == "digits-scenes"]
    made = {
        "digits": tables.table(shown, baseline=RANDOM, encoders=ENCODERS),
        "classification": tables.table(classified, baseline=RANDOM, encoders=SUITE),
        "dense": tables.table(dense, baseline=RANDOM, encoders=SUITE),
    }
    folder = ROOT / "results" / "tables"
    files = {
        folder / f"{name}.{suffix}": tables.render(table, form)
        for name, table in made.items()
        for form, suffix in FORMATS.items()
    }
    files[folder / "pretraining.md"] = pretraining_table(found)
    shown_table = tables.render(made["digits"], "md")
    readme = (ROOT / "README.md").read_text()
    before, after = readme.split(BEGIN)[0], readme.split(END)[1]
    files[ROOT / "README.md"] = f"{before}{BEGIN}\n{shown_table}\n{END}{after}"
    return files


def pretraining_table(found: list[dict[str, Any]]) -> str:
    """What each method reaches over its pretraining seeds, from the records that name one.

    A record's encoder is one pretraining; its mean over draws is one value here, and the spread is
    that of the pretrainings.
    """
    rows = [
        {
            "pretraining": name.partition(SEED_MARK)[0],
            "encoder": name,
            "protocol": f"{record['protocol']['id']} {record['dataset']['id']} top1",
            "top1": record["metrics"]["top1"]["value"],
        }
        for record in found
        if SEED_MARK in (name := record["encoder"]["id"]) and record["status"] == "ok"
    ]
    per_encoder = pd.DataFrame(rows).groupby(["pretraining", "protocol", "encoder"])["top1"].mean()
    over_seeds = per_encoder.groupby(["pretraining", "protocol"]).agg(["mean", "std", "count"])
    cells = over_seeds.apply(
        lambda c: f"{c['mean']:.1f} ± {c['std']:.1f} ({c['count']:.0f})", axis=1
    )
    table = (
        cells.unstack().reset_index().to_markdown(index=False, colalign=("left", "right", "right"))
    )
    return f"{table}\n\nCells, in percent: mean ± sample s.d. over pretraining seeds (seeds).\n"


def main() -> None:
    """Write the files, or say which would change."""
    write_or_check(rendered())


if __name__ == "__main__":
    main()
