"""Which files of a results folder are records, by where they lie."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from moco_eval.errors import OutputError, UsageError

# No writer takes as long, and clocks of machines that share a disk agree better.
LEFT_AFTER_S = 600.0

DEPTH = 3  # protocol, dataset, encoder


class Stored(NamedTuple):
    """A file where records lie.

    Attributes:
        path: Relative to the results folder, with ``/``.
        size: In bytes.
        mtime_ns: When it was last changed.
    """

    path: str
    size: int
    mtime_ns: int

    @property
    def name(self) -> str:
        """The file's own name, which begins with the time of its run."""
        return self.path.rpartition("/")[2]


def files(results: Path) -> list[Stored]:
    """The JSON files in ``<protocol>/<dataset>/<encoder>/``, oldest run first.

    Links to folders are followed, so that a part of a store may lie on another disk. A record that
    is reached by two ways is there once.

    Raises:
        UsageError: If ``results`` is a file.
        OutputError: If it never can be a folder, as a file is in the place of one above it: better
            said before a run than after.
    """
    if not results.exists():
        above = next(folder for folder in results.absolute().parents if folder.exists())
        if not above.is_dir():
            raise OutputError(f"{results} cannot be written, nor read: {above} is a file.")
    elif not results.is_dir():
        raise UsageError(f"{results} is a file; the folder of the records is asked for.")
    found = sorted(_walk(results, "", DEPTH), key=lambda file: (file.name, file.path))
    return [file for i, file in enumerate(found) if not i or file.name != found[i - 1].name]


def leftovers(results: Path) -> list[str]:
    """Paths of files that killed writers left: of no use, and of no harm.

    A younger one may be about to become a record.
    """
    since_s = time.time() - LEFT_AFTER_S
    return sorted(
        path.relative_to(results).as_posix()
        for pattern in ("*/*/*/.*.json*.tmp", "..index.parquet.*.tmp")
        for path in results.glob(pattern)
        if path.is_file() and path.stat().st_mtime < since_s
    )


def _walk(folder: Path, below: str, depth: int) -> Iterator[Stored]:
    try:
        entries = list(os.scandir(folder / below))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = f"{below}/{entry.name}" if below else entry.name
        if depth and entry.is_dir():
            yield from _walk(folder, path, depth - 1)
        elif not depth and entry.name.endswith(".json"):
            status = _status(entry)
            yield Stored(path, status.st_size, status.st_mtime_ns)


def _status(entry: os.DirEntry[str]) -> os.stat_result:
    """Of what a link leads to; of the link itself where that is gone, so that it is told of."""
    try:
        return entry.stat()
    except FileNotFoundError:
        return entry.stat(follow_symlinks=False)
