"""A report as one page of HTML that needs nothing else: styles, script and pictures lie in it."""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib import resources

import jinja2

from moco_eval.report.content import Report
from moco_eval.report.picture import as_uri, csv_uri
from moco_eval.tables import typeset
from moco_eval.tables.grid import Grid
from moco_eval.tables.page import STYLE

TITLE = "How well the encoders transfer"
# Of more pictures each encoder's are folded away at first.
MAX_OPEN = 60


def html(report: Report) -> str:
    """The page; the same content gives the same bytes.

    Nothing that a name or an error holds can become markup, and no script runs but the page's own:
    templates escape, and the page's security policy names the hash of its script.
    """
    environment = _environment()
    script = _text("page.js")
    num_pictures = sum(section.num_pictures for section in report.sections)
    return environment.get_template("page.html").render(
        report=report,
        title=TITLE,
        style=STYLE + _text("page.css"),
        script=script,
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        galleries_open=num_pictures <= MAX_OPEN,
    )


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(_text),
    )
    environment.globals |= {
        "table": typeset.html_table,
        "csv": _csv_of,
        "csv_text": csv_uri,
        "uri": as_uri,
    }
    parts = environment.get_template("parts.html").module
    environment.globals |= {name: getattr(parts, name) for name in ("sortable", "figure")}
    return environment


def _csv_of(grid: Grid) -> str:
    return csv_uri(typeset.csv(grid))


def _text(name: str) -> str:
    return (resources.files("moco_eval.report") / name).read_text(encoding="utf-8")
