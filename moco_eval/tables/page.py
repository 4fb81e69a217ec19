"""A grid as HTML: a table that a page can embed, and a page that holds it."""

from __future__ import annotations

import functools

import jinja2

from moco_eval.tables.grid import Grid

# Blue and orange are told apart by the colour-blind too; each has a contrast above 4.5 to 1 with
# its background, light and dark. The sign is printed in any case.
LIGHT = {"better": "0063A6", "worse": "A84300"}
DARK = {"better": "7CC4F5", "worse": "FFA45C"}
COLOURED = "Differences of at least half a point are coloured: blue is better, orange is worse."

STYLE = f"""\
  :root {{ --better: #{LIGHT["better"]}; --worse: #{LIGHT["worse"]}; --grey: #5f6872;
          --ink: #1b1f24; --paper: #fff; --line: #d0d7de; --dim: #57606a;
          color-scheme: light dark }}
  @media (prefers-color-scheme: dark) {{
    :root {{ --better: #{DARK["better"]}; --worse: #{DARK["worse"]}; --grey: #9aa4b0;
            --ink: #e6e9ee; --paper: #14171b; --line: #333a43; --dim: #9aa4b0 }}
  }}
  .grid {{ border-collapse: collapse; border-block: 2px solid var(--ink);
          font-variant-numeric: tabular-nums }}
  .grid caption {{ text-align: left; font-weight: 600; padding-block: .5rem }}
  .grid :is(th, td) {{ padding: .45rem .9rem; text-align: right; white-space: nowrap;
                      font-weight: 400 }}
  .grid :is(thead, tbody) th:first-child {{ text-align: left }}
  .grid thead th {{ font-weight: 600; vertical-align: bottom }}
  .grid thead .group {{ text-align: center; padding-bottom: .3rem;
                       background: linear-gradient(var(--ink), var(--ink)) no-repeat
                       center bottom / calc(100% - 1.2rem) 1px; print-color-adjust: exact }}
  .grid thead tr:last-child > * {{ border-bottom: 1px solid var(--ink) }}
  .grid tbody tr + tr > * {{ border-top: 1px solid var(--line) }}
  .grid tbody tr.rule > * {{ border-top: 1px solid var(--ink) }}
  .grid .published > * {{ color: var(--grey); font-style: italic }}
  .grid .missing {{ color: var(--dim) }}
  .grid .better {{ color: var(--better) }}
  .grid .worse {{ color: var(--worse) }}
"""


def printable(text: str) -> str:
    """``text`` on one line, without characters that control and without private ones."""
    return "".join(character if character.isprintable() else " " for character in text)


def notes_of(grid: Grid) -> list[str]:
    """The notes of a grid that is printed in colour."""
    is_coloured = any(entry.tone for row in grid.rows for entry in row.entries)
    return [*map(printable, grid.notes), *([COLOURED] if is_coloured else [])]


def html_table(grid: Grid) -> str:
    """A bare ``<table>`` to put into a page whose style begins with ``STYLE``.

    Classes: ``grid`` (the table), ``group`` (a heading over several columns), ``published`` and
    ``rule`` (a row), ``missing`` (a cell without a number), ``delta`` with ``better`` or ``worse``
    (within a cell), ``marks`` (footnote marks, raised). The best of a column are ``<strong>``.
    A cell's ``data-value`` is the number to sort by, absent where there is none; a column heading's
    ``data-best`` says which end of it is best, ``high`` or ``low``.
    """
    return _template("table").render(grid=_clean(grid))


def html(grid: Grid) -> str:
    """A page that needs nothing else, for light and dark screens, wide and narrow, and print."""
    heading = printable(grid.title) or "How well the encoders transfer"
    # The heading says what a caption would.
    table = {**_clean(grid), "title": ""}
    return _template("page").render(grid=table, heading=heading, notes=notes_of(grid), style=STYLE)


def _clean(grid: Grid) -> dict[str, object]:
    """What the templates show, without what only machines would see."""
    return {
        "title": printable(grid.title),
        "corner": printable(grid.corner),
        "groups": [(printable(name), span) for name, span in grid.groups],
        "columns": list(zip(map(printable, grid.columns), grid.higher_better, strict=True)),
        "rows": [
            (row, printable(row.label), [(entry, printable(entry.text)) for entry in row.entries])
            for row in grid.rows
        ],
    }


@functools.cache
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.DictLoader({"table": _TABLE, "page": _PAGE}),
    )
    return environment.get_template(name)


_TABLE = """\
<table class="grid">
{% if grid.title %}
<caption>{{ grid.title }}</caption>
{% endif %}
<thead>
{% if grid.groups %}
<tr>
<td></td>
{% for name, span in grid.groups %}
{% if name %}
<th scope="colgroup" class="group" colspan="{{ span }}">{{ name }}</th>
{% else %}
<td colspan="{{ span }}"></td>
{% endif %}
{% endfor %}
</tr>
{% endif %}
<tr>
<th scope="col">{{ grid.corner }}</th>
{% for title, higher_better in grid.columns %}
<th scope="col" data-best="{{ "high" if higher_better else "low" }}">{{ title }}</th>
{% endfor %}
</tr>
</thead>
<tbody>
{% for row, label, entries in grid.rows %}
{% set classes = [] %}
{% if row.is_published %}{% set _ = classes.append("published") %}{% endif %}
{% if row.has_rule %}{% set _ = classes.append("rule") %}{% endif %}
<tr{% if classes %} class="{{ classes | join(" ") }}"{% endif %}>
<th scope="row">{{ label }}</th>
{% for entry, text in entries %}
{% if entry.value is none %}
<td class="missing">
{%- else %}
<td data-value="{{ entry.value | round(6) }}">
{%- endif %}
{% if entry.bold %}<strong>{{ text }}</strong>{% else %}{{ text }}{% endif %}
{% if entry.delta %} <span class="delta {{ entry.tone }}">({{ entry.delta }})</span>{% endif %}
{% if entry.marks %}<sup class="marks">{{ entry.marks }}</sup>{% endif %}
</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
"""

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ heading }}</title>
<style>
{{ style | safe }}\
  body { margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: var(--ink);
         background: var(--paper); font: 1rem/1.5 system-ui, sans-serif }
  h1 { font-size: 1.5rem; font-weight: 600 }
  div { overflow-x: auto; margin-block: 1rem }
  p { margin: .5rem 0; color: var(--dim); font-size: .875rem }
  @media print { body { max-width: none } div { overflow-x: visible } }
</style>
<h1>{{ heading }}</h1>
<div tabindex="0" role="region" aria-label="{{ heading }}">
{% include "table" %}
</div>
{% for note in notes %}
<p>{{ note }}</p>
{% endfor %}
</html>
"""
