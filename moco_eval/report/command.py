"""``moco-eval report``: records, and what their runs left, become one page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

if TYPE_CHECKING:
    from moco_eval.report.content import Report
    from moco_eval.tables.layout import Layout

_WORK = "runs"


def add_options(parser: ArgumentParser) -> None:
    """The options of the command."""
    parser.epilog = """examples:
  moco-eval report --results results --work runs --output report.html
  moco-eval report --encoders "random init" "MoCo v2" --baseline "random init"
  moco-eval report --output report.html --latex report.tex

The page needs no network. Pictures are those that runs left in --work, beside the file run_id that
names their record, and those that the records themselves allow to draw."""
    add = parser.add_argument
    add("--results", type=str, default="results", help="folder of the records")
    add("--work", type=str, default=_WORK, help="folder of what runs left: pictures, curves")
    add("--baseline", type=str, default=None, help="the encoder that deltas are taken from")
    add("--encoders", type=str, nargs="+", default=[], help="which, in this order; by default all")
    add("--layout", type=str, default=None, help="a TOML file as of moco-eval table: the one table")
    add("--pictures", type=str, default="first-seed", help="of the runs: all, first-seed or none")
    add("--output", type=str, default="report.html", help="the page")
    add("--latex", type=str, default=None, help="a document for pdflatex, its pictures beside it")


def run(arguments: Namespace) -> None:
    """Write the page, and the document where it is asked for.

    Raises:
        UsageError: If an option names what is not there.
        OutputError: If a file cannot be written.
    """
    from moco_eval import store
    from moco_eval.files import write_text
    from moco_eval.report import leavings
    from moco_eval.report.content import Sources, gather
    from moco_eval.report.page import html

    leavings.require_extent(arguments.pictures)
    leavings.require_folder(Path(arguments.work), is_default=arguments.work == _WORK)
    found, problems = store.read_all(Path(arguments.results))
    for problem in problems:
        print(f"moco-eval report: {problem}", file=sys.stderr)
    sources = Sources(
        results=Path(arguments.results),
        work=Path(arguments.work),
        pictures=arguments.pictures,
        layout=_layout(arguments, {record["encoder"]["id"] for record in found}),
        has_layout=bool(arguments.layout),
    )
    report = gather(found, problems, sources)
    page = html(report)
    write_text(Path(arguments.output), page)
    if arguments.latex:
        _write_document(report, Path(arguments.latex))
    num_pictures = len(report.pictures) + sum(each.num_pictures for each in report.sections)
    print(
        f"{arguments.output}: {len(report.sections)} encoders, {num_pictures} pictures,"
        f" {len(page.encode()) / 2**20:.1f} MiB."
    )


def _write_document(report: Report, path: Path) -> None:
    """Write the LaTeX document, and the pictures of all encoders beside it."""
    from moco_eval.files import atomic_file, write_text
    from moco_eval.report.document import latex

    names = {}
    for picture in report.pictures:
        names[picture.name] = f"{path.stem}-{picture.name}.png"
        with atomic_file(path.with_name(names[picture.name])) as file:
            file.write(picture.png)
    write_text(path, latex(report, names))
    print(f"{path}: pdflatex {path.name}")


def _layout(arguments: Namespace, known: set[str]) -> Layout:
    """What the tables show, by the file and the options, which go before it."""
    from dataclasses import replace

    from moco_eval.errors import unknown
    from moco_eval.tables.layout import Layout, read_layout

    layout = read_layout(Path(arguments.layout)) if arguments.layout else Layout()
    if arguments.encoders:
        layout = layout.with_encoders(arguments.encoders)
    layout = replace(layout, baseline=arguments.baseline or layout.baseline)
    for name in (*(row.encoder for row in layout.rows), layout.baseline):
        if name and name not in known:
            raise unknown("encoder in these records called", name, known)
    return layout
