"""Numbers that papers published, each with its source: for reading, never averaged with ours."""

from __future__ import annotations

import importlib.resources
import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd


def read() -> pd.DataFrame:
    """Every published number, one a row, as text: digits are kept as they were printed."""
    rows: pd.DataFrame = pd.read_csv(io.StringIO(_text()), dtype=str, keep_default_na=False)
    return rows


def search(words: Sequence[str]) -> pd.DataFrame:
    """The rows in which every word occurs somewhere, whatever its case.

    Args:
        words: Parts of a method's, protocol's, data set's or paper's name. None finds all rows.

    Returns:
        The rows in the file's order; a value that nobody has checked against its source says so.
    """
    rows = read()
    text = rows.agg(" ".join, axis=1).str.lower()
    for word in words:
        found = text.str.contains(word.lower(), regex=False)
        rows, text = rows[found], text[found]
    is_checked = rows["verified"] == "yes"
    value = rows["value"].where(is_checked, rows["value"] + " (unverified)")
    marked: pd.DataFrame = rows.assign(value=value).reset_index(drop=True)
    return marked


def _text() -> str:
    try:
        folder = importlib.resources.files("moco_eval.results")
    except ModuleNotFoundError:
        # A source tree that is not installed: there the folder lies beside the package.
        path = Path(__file__).parents[1] / "results" / "published.csv"
        return path.read_text(encoding="utf-8")
    return folder.joinpath("published.csv").read_text(encoding="utf-8")
