"""Many records: read in full or by their heads, verified, merged, withdrawn, corrected.

Every file below the results folder is one immutable record (``moco_eval.records``), and all else
can be made again from them: the index is a cache that may be deleted at any time.
"""

from moco_eval.store import index
from moco_eval.store.reading import (
    done,
    find,
    read_all,
    read_entries,
    read_heads,
    read_history,
    rebuild_index,
)
from moco_eval.store.upkeep import clear, correct, merge, resolve, retract, verify

__all__ = [
    "clear",
    "correct",
    "done",
    "find",
    "index",
    "merge",
    "read_all",
    "read_entries",
    "read_heads",
    "read_history",
    "rebuild_index",
    "resolve",
    "retract",
    "verify",
]
