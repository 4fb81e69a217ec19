"""Heads of records in one parquet file: a cache that saves opening thousands of files.

A row holds for what bytes it stands (path, size, time of change), and the whole file for which
reading of them. What does not agree is read from the records again, so the index may be old,
damaged or gone, and two processes may write it at once: it appears whole, and the last one stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from moco_eval import records
from moco_eval.files import atomic_file
from moco_eval.store.folder import Stored

FILE_NAME = ".index.parquet"

# Raise it when heads change: then what an older program indexed is not used.
LAYOUT = 1

# Parts that many records have in common: each is kept in memory once.
SHARED = ("encoder", "protocol", "config", "dataset", "environment", "selection")
# The rest of a record, as one part.
OWN = "own"
# Curves, single draws and confusions: what only pages about one run need.
LEFT_OUT = ("details",)

# JSON texts: the shared parts, then the rest.
Head = tuple[str, ...]

_IGNORED = f"""# A cache that is made again from the records, and what killed writers leave.
/{FILE_NAME}
.*.tmp
"""

_TYPES = ("string", "int64", "int64")

_READING = "moco_eval.reading"


def path_of(results: Path) -> Path:
    """Where the index of a store lies."""
    return results / FILE_NAME


def head_of(record: Mapping[str, Any]) -> Head:
    """What the index keeps of a record: all but ``details``, as JSON text."""
    own = {name: part for name, part in record.items() if name not in (*SHARED, *LEFT_OUT)}
    return tuple(json.dumps(part) for part in (*(record.get(name) for name in SHARED), own))


def load(results: Path) -> dict[Stored, Head]:
    """Heads by the files that they are of; none where there is no usable index."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = path_of(results)
    if not path.exists():
        return {}
    try:
        table = pq.read_table(path, read_dictionary=list(SHARED))
        if (table.schema.metadata or {}).get(_READING.encode()) != _reading().encode():
            return {}
        files = [table.column(name).to_pylist() for name in Stored._fields]
        heads = [_texts(table.column(name).combine_chunks()) for name in (*SHARED, OWN)]
    except (OSError, KeyError, pa.ArrowException):
        return {}
    return dict(zip(map(Stored, *files), zip(*heads, strict=True), strict=True))


def save(results: Path, heads: Mapping[Stored, Head]) -> None:
    """Write the index, and keep it out of git: two branches' would not merge.

    Raises:
        OutputError: If the folder cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = list(zip(*heads, strict=True)) or [()] * len(Stored._fields)
    texts = list(zip(*heads.values(), strict=True)) or [()] * (len(SHARED) + 1)
    columns = {
        **dict(zip(Stored._fields, map(pa.array, files, _TYPES), strict=True)),
        **{
            name: pa.array(column, pa.string())
            for name, column in zip((*SHARED, OWN), texts, strict=True)
        },
    }
    table = pa.table(columns).replace_schema_metadata({_READING: _reading()})
    with atomic_file(path_of(results)) as file:
        pq.write_table(table, file, compression="zstd")
    with contextlib.suppress(OSError), (results / ".gitignore").open("x") as ignored:
        ignored.write(_IGNORED)


def parse(heads: Collection[Head]) -> list[dict[str, Any]]:
    """The heads as records. Parts that are equal are one object: they are for reading alone."""
    known: dict[str, Any] = {}

    def shared(text: str) -> Any:
        if text not in known:
            known[text] = json.loads(text)
        return known[text]

    # In one piece, so that equal names are kept in memory once.
    owns: list[dict[str, Any]] = json.loads(f"[{','.join(head[-1] for head in heads)}]")
    for own, head in zip(owns, heads, strict=True):
        if not own.get("retracts"):
            own.update(zip(SHARED, map(shared, head[:-1]), strict=True))
    return owns


def _texts(column: Any) -> list[str]:
    """A column's strings; of one with a dictionary, equal ones are one object."""
    if not hasattr(column, "dictionary"):
        texts: list[str] = column.to_pylist()
        return texts
    values = column.dictionary.to_pylist()
    return [values[place] for place in column.indices.to_pylist()]


def _reading() -> str:
    """What heads depend on besides the files: how this program reads and fills them in."""
    facts = [LAYOUT, records.SCHEMA, records.UNSAID, records.RENAMED]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
