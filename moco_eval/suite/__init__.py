"""Encoders x protocols x seeds: run what is missing, skip what is done, record what fails."""

from moco_eval.cell import DENSE_PROTOCOLS, IMAGE_PROTOCOLS, Cell, protocol_module
from moco_eval.suite.cells import folder_of, run_all
from moco_eval.suite.running import find_record, run_cell, summary, work_folder

__all__ = [
    "DENSE_PROTOCOLS",
    "IMAGE_PROTOCOLS",
    "Cell",
    "find_record",
    "folder_of",
    "protocol_module",
    "run_all",
    "run_cell",
    "summary",
    "work_folder",
]
