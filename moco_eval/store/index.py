"""Heads of records in one parquet file: a cache that saves opening thousands of files.

A row holds for what bytes it stands (path, size, time of change), and the whole file for which
reading of them. What does not agree is read from the records again, so the index may be old,
damaged or gone, and two processes may write it at once: it appears whole, and the last one stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from moco_eval import records
from moco_eval.files import atomic_file
from moco_eval.store.folder import Stored

FILE_NAME = ".index.parquet"

# Raise it when heads change: then what an older program indexed is not used.
LAYOUT = 1

_IGNORED = f"""# A cache that is made again from the records, and what killed writers leave.
/{FILE_NAME}
.*.tmp
"""

_READING = "moco_eval.reading"


def path_of(results: Path) -> Path:
    """Where the index of a store lies."""
    return results / FILE_NAME


def load(results: Path) -> dict[Stored, str]:
    """Heads as JSON text by the files that they are of; none where there is no usable index."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = path_of(results)
    if not path.exists():
        return {}
    try:
        table = pq.read_table(path)
        if (table.schema.metadata or {}).get(_READING.encode()) != _reading().encode():
            return {}
        columns = [table.column(name).to_pylist() for name in (*Stored._fields, "head")]
    except (OSError, KeyError, pa.ArrowException):
        return {}
    return {
        Stored(path, size, mtime_ns): head
        for path, size, mtime_ns, head in zip(*columns, strict=True)
    }


def save(results: Path, heads: Mapping[Stored, str]) -> None:
    """Write the index, and keep it out of git: two branches' would not merge.

    Raises:
        OutputError: If the folder cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "path": pa.array([file.path for file in heads], pa.string()),
            "size": pa.array([file.size for file in heads], pa.int64()),
            "mtime_ns": pa.array([file.mtime_ns for file in heads], pa.int64()),
            "head": pa.array(list(heads.values()), pa.large_string()),
        }
    ).replace_schema_metadata({_READING: _reading()})
    with atomic_file(path_of(results)) as file:
        pq.write_table(table, file, compression="zstd")
    with contextlib.suppress(OSError), (results / ".gitignore").open("x") as ignored:
        ignored.write(_IGNORED)


def parse(heads: Iterable[str]) -> list[dict[str, Any]]:
    """The heads as records; in one piece, so that equal names are kept in memory once."""
    parsed: list[dict[str, Any]] = json.loads(f"[{','.join(heads)}]")
    return parsed


def _reading() -> str:
    """What heads depend on besides the files: how this program reads and fills them in."""
    facts = [LAYOUT, records.SCHEMA, records.UNSAID, records.RENAMED]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
