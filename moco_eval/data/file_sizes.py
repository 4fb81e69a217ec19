"""The sizes of listed files: looked up once, remembered while the list is the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moco_eval.data import index_cache

MISSING = -1
# Enough to notice that a data set was written anew, in half a second on a slow network disk.
SAMPLE = 500


def of_list(source: Path, root: Path, names: Sequence[str]) -> NDArray[np.int64]:
    """Sizes ``(len(names),)`` in bytes of files under ``root``; ``MISSING`` where there is none.

    Args:
        source: The file that lists them. While it and a sample of the files are as they were,
            sizes found earlier are returned; a single file that was overwritten in place since
            then goes unnoticed.
        root: What relative names start from.
        names: Relative or absolute.
    """
    status = source.stat()
    asked = hashlib.blake2b(b"\0".join(map(os.fsencode, names)), digest_size=8).digest()
    stamp = np.array(
        [status.st_mtime_ns, status.st_size, int.from_bytes(asked, "big", signed=True)],
        dtype=np.int64,
    )
    key = f"sizes {source.resolve()}"
    known = index_cache.read(key)
    if np.array_equal(known.get("stamp", np.empty(0)), stamp):
        sizes = known.get("sizes", np.empty(0, dtype=np.int64))
        if len(sizes) == len(names) and not sample_differs(root, names, sizes):
            return sizes
    is_settled = index_cache.is_settled(status.st_mtime_ns)
    sizes = np.fromiter((size_of(root / name) for name in names), np.int64, len(names))
    if len(names) >= index_cache.WORTH_KEEPING and is_settled:
        index_cache.write(key, {"stamp": stamp, "sizes": sizes})
    return sizes


def size_of(path: Path) -> int:
    """The size of a file in bytes; ``MISSING`` if it cannot be found."""
    try:
        return path.stat().st_size
    except OSError:
        return MISSING


def sample_differs(root: Path, names: Sequence[str], sizes: NDArray[np.int64]) -> bool:
    """Whether any of evenly spread files now has another size."""
    step = max(1, len(names) // SAMPLE)
    return any(size_of(root / names[i]) != sizes[i] for i in range(0, len(names), step))
