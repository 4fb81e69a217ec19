"""Many records: found, read, indexed.

Every file below the results folder is one immutable record (``moco_eval.records``); what is here
only reads them. The index is a cache: it may be deleted at any time.
"""

from moco_eval.store.reading import (
    done,
    find,
    read_all,
    read_heads,
    read_history,
    rebuild_index,
)

__all__ = ["done", "find", "read_all", "read_heads", "read_history", "rebuild_index"]
