"""How the refusal of a damaged file is worded, and which errors mean damage."""

from __future__ import annotations

import pickle
import struct
import tokenize
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from moco_eval.errors import CheckpointError

# What reading a damaged file raises, besides errors of input and output.
DAMAGED = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    # RecursionError among them.
    RuntimeError,
    ValueError,
    LookupError,
    EOFError,
    # Of numpy, which parses an array's header as Python's literals.
    SyntaxError,
    tokenize.TokenError,
    AttributeError,
    TypeError,
    AssertionError,
    MemoryError,
    OverflowError,
    struct.error,
)


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn whatever reading a damaged file raises within the block into a refusal of ``path``.

    Raises:
        CheckpointError: With the first line of what was raised.
    """
    try:
        yield
    except CheckpointError:
        raise
    except DAMAGED as error:
        refuse_damaged(path, error)


def refuse_damaged(path: Path, error: BaseException) -> NoReturn:
    """Refuse ``path`` because of ``error``."""
    reason = str(error).strip().splitlines() or [type(error).__name__]
    raise CheckpointError(
        f"{path} begins like a checkpoint but cannot be read to its end: it is truncated or "
        f"damaged, {path.stat().st_size} bytes long ({reason[0][:160]}). Fetch or write it again."
    ) from error


def shortened(names: list[str], limit: int = 6) -> str:
    """The first ``limit`` of ``names`` as a list in words, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
