"""Records become the tables that a paper would print."""

from moco_eval.tables.columns import PROTOCOLS, Column
from moco_eval.tables.grid import Entry, Grid, Row
from moco_eval.tables.layout import ColumnLayout, Layout, RowLayout, read_layout, rows_of
from moco_eval.tables.table import Format, Table, render, table

__all__ = [
    "PROTOCOLS",
    "Column",
    "ColumnLayout",
    "Entry",
    "Format",
    "Grid",
    "Layout",
    "Row",
    "RowLayout",
    "Table",
    "read_layout",
    "render",
    "rows_of",
    "table",
]
