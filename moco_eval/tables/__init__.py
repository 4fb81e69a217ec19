"""Records become the tables that a paper would print."""

from moco_eval.tables.table import PROTOCOLS, Column, Format, Table, render, table

__all__ = ["PROTOCOLS", "Column", "Format", "Table", "render", "table"]
