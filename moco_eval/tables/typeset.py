"""A frame of cells, and the notes under it, as Markdown, LaTeX or a page of HTML."""

from __future__ import annotations

from collections.abc import Sequence

import jinja2
import pandas as pd

# These are ours, and left as they are by pandas; not every LaTeX engine has them in its font.
_LATEX_SYMBOLS = {"±": r"$\pm$", "–": "--", "−": "$-$", "†": r"$^\dagger$", "‡": r"$^\ddagger$"}


def markdown(frame: pd.DataFrame, notes: Sequence[str]) -> str:
    """A table in GitHub's Markdown, each note a paragraph under it."""
    alignment = ["left", *["right"] * len(frame.columns)]
    frame = frame.rename(index=_escape_bar, columns=_escape_bar)
    grid = frame.to_markdown(disable_numparse=True, colalign=alignment)
    return "\n\n".join([grid, *notes]) + "\n"


def latex(frame: pd.DataFrame, notes: Sequence[str]) -> str:
    """Two tabulars, the table (booktabs) and its notes, both escaped by pandas."""
    body = frame.rename_axis(index=None).style.format(escape="latex")
    body = body.format_index(escape="latex", axis=0).format_index(escape="latex", axis=1)
    grid = body.to_latex(hrules=True, column_format="l" + "r" * len(frame.columns))
    lines = pd.DataFrame({"note": notes}).style.format(escape="latex")
    lines = lines.hide(axis="index").hide(axis="columns")
    footer = lines.to_latex(column_format=r"@{}p{\linewidth}@{}")
    text = f"% Needs \\usepackage{{booktabs}}.\n{grid}\n\\par\\medskip\\footnotesize\n{footer}"
    for symbol, command in _LATEX_SYMBOLS.items():
        text = text.replace(symbol, command)
    return text


def html(frame: pd.DataFrame, notes: Sequence[str]) -> str:
    """A page that needs nothing else, for light and dark screens."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, keep_trailing_newline=True)
    rows = [(encoder, cells) for encoder, *cells in frame.itertuples(name=None)]
    return environment.from_string(_PAGE).render(titles=list(frame.columns), rows=rows, notes=notes)


def _escape_bar(name: str) -> str:
    # A bar would end the cell.
    return name.replace("|", r"\|")


_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>How well the encoders transfer</title>
<style>
  :root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --line: #d0d7de; --dim: #57606a }
  @media (prefers-color-scheme: dark) {
    :root { --ink: #e6e9ee; --paper: #14171b; --line: #333a43; --dim: #9aa4b0 }
  }
  body { margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: var(--ink);
         background: var(--paper); font: 1rem/1.5 system-ui, sans-serif }
  h1 { font-size: 1.5rem; font-weight: 600 }
  div { overflow-x: auto; margin-block: 1rem }
  table { border-collapse: collapse; border-block: 2px solid var(--ink);
          font-variant-numeric: tabular-nums }
  th, td { padding: .45rem .9rem; text-align: right; white-space: nowrap; font-weight: 400 }
  th:first-child { text-align: left }
  thead th { border-bottom: 1px solid var(--ink); font-weight: 600 }
  tbody tr + tr > * { border-top: 1px solid var(--line) }
  p { margin: .5rem 0; color: var(--dim); font-size: .875rem }
</style>
<h1>How well the encoders transfer</h1>
<div>
<table>
<thead>
<tr>
<th scope="col">encoder</th>
{% for title in titles %}
<th scope="col">{{ title }}</th>
{% endfor %}
</tr>
</thead>
<tbody>
{% for encoder, cells in rows %}
<tr>
<th scope="row">{{ encoder }}</th>
{% for cell in cells %}
<td>{{ cell }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
{% for note in notes %}
<p>{{ note }}</p>
{% endfor %}
</html>
"""
