"""One record as a file: named by the hash of its bytes, written once, read back.

    <run_id>.<first 12 digits of the SHA-256>.json

A file that is damaged does not hash as its name says, and two runs never make the same name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from time import time_ns
from typing import Any

from moco_eval.errors import OutputError, output_error
from moco_eval.files import sync_folder

# What file systems without hard links say.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)

_NAME = re.compile(r"(?P<run_id>[0-9a-f-]{36})\.(?P<sha12>[0-9a-f]{12})\.json")


def stamp(schema: int) -> dict[str, Any]:
    """What makes a new record one of its own: schema, run id and time."""
    return {
        "schema": schema,
        "run_id": new_run_id(),
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def new_run_id() -> str:
    """A version 7 UUID, which sorts by the time it was made (RFC 9562, section 5.7, method 3)."""
    milliseconds, rest = divmod(time_ns(), 10**6)
    high = milliseconds << 16 | 7 << 12 | rest * 4096 // 10**6
    return str(uuid.UUID(int=high << 64 | 2 << 62 | secrets.randbits(62)))


def save(record: Mapping[str, Any], folder: Path) -> Path:
    """Write a record into its folder and read it back.

    Raises:
        OutputError: If it cannot be written. It is then in ``~/.moco-eval/unsaved`` where that is
            possible, and on standard output in any case.
    """
    content = _canonical(record)
    path = folder / f"{record['run_id']}.{_sha12(content)}.json"
    try:
        write_once(path, content)
    except OSError as problem:
        raise _unsaved(path, content, problem) from problem
    return path


def load(path: Path) -> dict[str, Any]:
    """What ``save`` wrote.

    Raises:
        ValueError: If the file is no record, or damaged.
        OSError: If it cannot be read.
    """
    named = _NAME.fullmatch(path.name)
    if not named:
        raise ValueError("its name is not that of a record.")
    content = path.read_bytes()
    found = _sha12(content)
    if found != named["sha12"]:
        raise ValueError(f"it is damaged, its bytes hash to {found} and not as its name says.")
    try:
        record = json.loads(content)
    except ValueError as error:
        raise ValueError(f"it is whole, but what it holds is no record: {error}.") from error
    if not isinstance(record, dict) or "schema" not in record:
        raise ValueError("it is whole, but what it holds is no record: it has no schema.")
    return record


def write_once(path: Path, content: bytes) -> None:
    """Make ``path`` appear whole, on the disk, and only if it does not exist.

    A hard link is the one exclusive creation that network file systems keep too. Where there are
    none (exFAT, some mounted object stores), a rename does: no two records have one name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with temporary.open("xb") as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            _link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    if path.read_bytes() != content:
        path.unlink()
        raise OSError(errno.EIO, "other bytes came back than were written")


def _link(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS or path.exists():
            raise
        temporary.rename(path)


def _canonical(record: Mapping[str, Any]) -> bytes:
    text = json.dumps(record, sort_keys=True, allow_nan=False, ensure_ascii=False, indent=1)
    return text.encode() + b"\n"


def _sha12(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _unsaved(path: Path, content: bytes, problem: OSError) -> OutputError:
    """Put a record that its store refuses where it is not lost, and say where that is."""
    refuge = Path.home() / ".moco-eval" / "unsaved" / path.name
    try:
        write_once(refuge, content)
        kept = f"was kept as {refuge}"
    except OSError as second:
        kept = f"could not be kept as {refuge} either ({second.strerror})"
    print(content.decode(), end="", flush=True)
    return OutputError(
        f"{output_error(path, problem)} The record {kept} and was printed on standard output."
        f" Put that file into {path.parent} under its own name and nothing is lost."
    )
