"""Records become the tables that a paper would print."""

from moco_eval.tables.grid import Entry, Grid, Row
from moco_eval.tables.table import PROTOCOLS, Column, Format, Table, render, table

__all__ = ["PROTOCOLS", "Column", "Entry", "Format", "Grid", "Row", "Table", "render", "table"]
