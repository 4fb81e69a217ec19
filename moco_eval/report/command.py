"""``moco-eval report``: records and pictures become one page."""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace


def add_options(parser: ArgumentParser) -> None:
    """The options of the command."""
    parser.epilog = """example:
  moco-eval report --results results --work runs --output report.html"""
    add = parser.add_argument
    add("--results", type=str, default="results", help="folder of the records")
    add("--work", type=str, default="runs", help="folder of what runs left, searched for pictures")
    add("--baseline", type=str, default=None, help="the encoder that deltas are taken from")
    add("--output", type=str, default="report.html", help="the page")


def run(arguments: Namespace) -> None:
    """Write the page."""
    from moco_eval import store, tables
    from moco_eval.files import write_text

    found, problems = store.read_all(Path(arguments.results))
    for problem in problems:
        print(f"moco-eval report: {problem}", file=sys.stderr)
    page = tables.render(tables.table(found, baseline=arguments.baseline), "html")
    write_text(Path(arguments.output), page)
    print(f"{arguments.output}: {len(found)} records.")
