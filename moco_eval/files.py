"""Files that are either whole or absent: written beside their place, then renamed into it."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from moco_eval.errors import output_error


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears under ``path`` only when the block ends without an error.

    The temporary file lies in the same folder, so that the rename cannot cross file systems, and
    is synchronised before it. A reader sees the old file or the new one, never a part.

    Raises:
        OutputError: If the folder or the file cannot be written. Nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise output_error(path, error) from error
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if cause := _of_the_disk(error):
            raise output_error(path, cause) from error
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Make a folder that appears under ``path`` only when the block ends without an error."""
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if cause := _of_the_disk(error):
            raise output_error(path, cause) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in one piece."""
    with atomic_file(path) as file:
        file.write(text.encode())


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _of_the_disk(error: BaseException) -> OSError | None:
    # torch.save hides the file's own error behind one of its serialiser.
    cause = error if isinstance(error, OSError) else error.__context__
    return cause if isinstance(cause, OSError) else None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
