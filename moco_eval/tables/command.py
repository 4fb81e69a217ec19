"""``moco-eval table``: records become a table."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from moco_eval.errors import UsageError

if TYPE_CHECKING:
    from moco_eval.tables.layout import Layout
    from moco_eval.tables.trials import Record

FORMATS = {".md": "md", ".tex": "latex", ".csv": "csv", ".html": "html", ".htm": "html"}
OUTSIDE_CODE = 1

EPILOG = """examples:
  moco-eval table --results results --baseline "random init"
  moco-eval table --encoders "MoCo v1" "MoCo v2" --protocols knn linear-lbfgs --output table.tex
  moco-eval table --columns knn:digits:top1_k1 knn:digits:top1 --cost params_m wall_s
  moco-eval table --layout paper.toml --output table.html
  moco-eval table --check --reference results/tables/digits.csv
  moco-eval table --papers
  moco-eval table --paper moco-v1/table2 --beside "my encoder=MoCo v1"

A layout holds title, baseline, cost, decimals, tolerance, protocols, datasets, metrics; [[rows]]
with encoder, label, rule, published; [[columns]] with protocol, version, recipe, data, metric,
title, group. Options on the command line take the place of its keys. published = {method = "...",
architecture = "...", pretrain_epochs = "..."} picks rows of the published numbers, for --check, and
for a grey row where no encoder is named.

--check compares each measured cell with its published number: inside, outside or no reference. The
band is two published standard deviations wide on both sides, and at least the tolerance. Exit code
0: no cell is outside; 1: one is; 2: a name is wrong or records cannot be compared; 74: nothing can
be read or written."""


def add_options(parser: ArgumentParser) -> None:
    """The options of the command."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("--results", type=str, default="results", help="folder of the records")
    add("--layout", type=str, default=None, help="a TOML file that says what the table shows")
    add("--encoders", nargs="+", type=str, default=None, help="the rows, in this order")
    add("--protocols", nargs="+", type=str, default=None, help="only columns of these")
    add("--datasets", nargs="+", type=str, default=None, help="only columns on these data sets")
    add("--metrics", nargs="+", type=str, default=None, help="these, not each column's primary one")
    add(
        "--columns",
        nargs="+",
        type=str,
        default=None,
        metavar="PROTOCOL[@VERSION][/RECIPE][:DATA[:METRIC]]",
        help="the columns, in this order",
    )
    add("--baseline", type=str, default=None, help="the encoder that deltas are taken from")
    add(
        "--cost",
        nargs="+",
        type=str,
        default=None,
        help="columns of costs: params_m, wall_s, wall_h, device_s, device_h, memory_gib,"
        " device_memory_gib",
    )
    add("--decimals", type=int, default=None, help="of the numbers; 1 by default")
    add("--title", type=str, default=None, help="what stands above the table")
    add("--format", type=str, default=None, help="md, latex, csv or html; else as OUTPUT ends")
    add("--output", type=str, default=None, help="a file instead of standard output")
    add("--check", action="store_true", help="compare with published numbers, by lines")
    add("--reference", type=str, default=None, help="with --check: the CSV of a table instead")
    add("--tolerance", type=float, default=None, help="with --check: in points; 0.5 by default")
    add("--paper", type=str, default=None, metavar="ID", help="a table of a paper, with our rows")
    add("--papers", action="store_true", help="list the tables of papers")
    add(
        "--beside",
        action="append",
        type=str,
        default=[],
        metavar="ENCODER=LABEL",
        help="with --paper: put an encoder's row under the published row of that label; repeatable",
    )


def run(arguments: Namespace) -> None:
    """Print or write the table, or what ``--check`` found."""
    from moco_eval import tables

    _require_together(arguments)
    if arguments.papers:
        from moco_eval.tables import papers

        listed = papers.known().items()
        _put("".join(f"{name:24} {title}\n" for name, title in listed), arguments.output)
        return
    form = _format(arguments)
    records = _records(Path(arguments.results))
    if arguments.paper:
        from moco_eval.tables import papers

        grid = papers.grid(arguments.paper, records, beside=_beside(arguments.beside))
        _put(tables.render(grid, form), arguments.output)
        return
    table = tables.table(records, _layout(arguments))
    if not arguments.check:
        _put(tables.render(table, form), arguments.output)
        return
    from moco_eval.tables import bands

    reference = Path(arguments.reference) if arguments.reference else None
    lines, is_clean = bands.check(table, bands.read_references(reference) if reference else None)
    _put("".join(f"{line}\n" for line in lines), arguments.output)
    if not is_clean:
        sys.exit(OUTSIDE_CODE)


def _require_together(arguments: Namespace) -> None:
    """Refuse an option that would have no effect."""
    for name, needed in (
        ("reference", "check"),
        ("tolerance", "check"),
        ("beside", "paper"),
    ):
        if arguments[name] not in (None, []) and not arguments[needed]:
            raise UsageError(f"--{name} goes with --{needed}, which is missing.")
    if arguments.check and arguments.paper:
        raise UsageError("--check compares a table of our own: leave out --paper, or --check.")


def _records(results: Path) -> list[Record]:
    from moco_eval import store

    found, problems = store.read_heads(results)
    for problem in problems:
        print(f"moco-eval table: {problem}", file=sys.stderr)
    return list(found)


def _layout(arguments: Namespace) -> Layout:
    """The layout of the file, with the options in the place of its keys."""
    from moco_eval.tables.layout import Layout, parse_column, read_layout

    if arguments.columns and (arguments.protocols or arguments.datasets or arguments.metrics):
        raise UsageError(
            "--columns says what the columns are: leave out --protocols, --datasets and --metrics,"
            " or --columns."
        )
    layout = read_layout(Path(arguments.layout)) if arguments.layout else Layout()
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name in (
            *("protocols", "datasets", "metrics", "cost"),
            *("baseline", "decimals", "title", "tolerance"),
        )
        if (value := arguments[name]) is not None
    }
    if arguments.encoders:
        layout = layout.with_encoders(arguments.encoders)
    if arguments.columns:
        given["columns"] = tuple(map(parse_column, arguments.columns))
    elif arguments.protocols or arguments.datasets or arguments.metrics:
        given["columns"] = ()
    return replace(layout, **given)


def _format(arguments: Namespace) -> Any:
    """The format that is asked for, else that of the file's suffix, else Markdown."""
    if arguments.format is not None or arguments.output is None or arguments.check:
        return arguments.format or "md"
    suffix = Path(arguments.output).suffix
    if suffix not in FORMATS:
        raise UsageError(
            f"--output {arguments.output} does not say which format it should have: let it end in"
            f" {', '.join(FORMATS)}, or pass --format."
        )
    return FORMATS[suffix]


def _beside(pairs: list[str]) -> dict[str, str]:
    beside = {}
    for pair in pairs:
        encoder, separator, label = pair.partition("=")
        if not separator or not encoder or not label:
            raise UsageError(f"--beside {pair!r} is not of the form ENCODER=LABEL.")
        beside[encoder] = label
    return beside


def _put(text: str, output: str | None) -> None:
    from moco_eval.files import write_text

    if output:
        write_text(Path(output), text)
    else:
        print(text, end="")
