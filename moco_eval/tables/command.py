"""``moco-eval table``: records become a table."""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace


def add_options(parser: ArgumentParser) -> None:
    """The options of the command."""
    parser.epilog = """example:
  moco-eval table --results results --format latex --baseline random --output table.tex"""
    add = parser.add_argument
    add("--results", type=str, default="results", help="folder of the records")
    add("--format", type=str, default="md", help="md, latex, csv or html")
    add("--baseline", type=str, default=None, help="the encoder that deltas are taken from")
    add("--output", type=str, default=None, help="a file instead of standard output")


def run(arguments: Namespace) -> None:
    """Print or write the table."""
    from moco_eval import store, tables
    from moco_eval.files import write_text

    found, problems = store.read_all(Path(arguments.results))
    for problem in problems:
        print(f"moco-eval table: {problem}", file=sys.stderr)
    text = tables.render(tables.table(found, baseline=arguments.baseline), arguments.format)
    if arguments.output:
        write_text(Path(arguments.output), text)
    else:
        print(text)
