"""What was found on disk at an earlier start: index files in the user's cache folder.

They lie in ``$MOCO_EVAL_CACHE/index``, ``$XDG_CACHE_HOME/moco-eval/index`` or
``~/.cache/moco-eval/index``. Removing them costs nothing but the time to look again.
"""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco_eval.errors import OutputError
from moco_eval.files import atomic_file

# In the key: an index of another layout is none.
LAYOUT = 1
# Fewer entries are found again sooner than anyone notices.
WORTH_KEEPING = 1000
# Clocks of file systems tick as slowly as once in two seconds; what changed within the last tick
# may change again under the same time.
TICK_NS = 2_000_000_000

Arrays = Mapping[str, NDArray[Any]]


def read(key: str) -> Arrays:
    """The arrays stored under ``key``; none where there are none, or where they are damaged."""
    path = _path_of(key)
    if path is None:
        return {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        return {}
    return arrays if arrays.pop("key", np.empty(0)).tobytes() == _stamped(key) else {}


def write(key: str, arrays: Arrays) -> None:
    """Store ``arrays`` under ``key``, if the cache folder can be written."""
    path = _path_of(key)
    if path is None:
        return
    try:
        with atomic_file(path) as file:
            np.savez(file, allow_pickle=False, key=np.frombuffer(_stamped(key), np.uint8), **arrays)
    except OutputError:
        # The next start looks again; this one has what it needs.
        return


def is_settled(mtime_ns: int) -> bool:
    """Whether a modification time is old enough that a later change will show another."""
    return mtime_ns < time.time_ns() - TICK_NS


def _path_of(key: str) -> Path | None:
    folder = users_folder()
    name = f"{hashlib.sha256(_stamped(key)).hexdigest()[:24]}.npz"
    return None if folder is None else folder / "index" / name


def users_folder() -> Path | None:
    """Where this user's caches lie; None where there is no such place."""
    if chosen := os.environ.get("MOCO_EVAL_CACHE"):
        return Path(chosen)
    if users := os.environ.get("XDG_CACHE_HOME"):
        return Path(users) / "moco-eval"
    try:
        return Path.home() / ".cache" / "moco-eval"
    except RuntimeError:
        # A user without a home, as in some containers.
        return None


def _stamped(key: str) -> bytes:
    return os.fsencode(f"{LAYOUT} {key}")
