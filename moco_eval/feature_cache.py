"""Features on disk, under the content that they were computed from.

A file is one safetensors: a header and the floats, which are mapped into memory, not read. Its name
is the hash of its key, so that a changed weight, image or setting has another file; its header has
the hash of the floats. What is damaged, or cannot be read or written, costs time, never the run.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from moco_eval.data.images import InputSpec
from moco_eval.data.index_cache import users_folder
from moco_eval.errors import OutputError
from moco_eval.files import atomic_file

# In the key: raise it with every change of what an image becomes before the network takes it, or of
# the file.
LAYOUT = 1
BLOCK = 1 << 24
# A header takes some hundred bytes; a length beyond this was never written.
MAX_HEADER = 1 << 16

# Files whose floats this process has hashed, by what changes when they do.
_verified: dict[Path, tuple[int, ...]] = {}


def default_folder() -> Path | None:
    """``features`` in the user's cache folder, where there is one: see ``data/index_cache.py``."""
    folder = users_folder()
    return None if folder is None else folder / "features"


def key_of(*, tensors: str, arch: str, spec: InputSpec, images: str, feature: str) -> str:
    """All that decides features but for rounding, as text.

    Args:
        tensors: The encoder's ``tensor_sha256``.
        arch: Of the encoder: equal weights may compute different things.
        spec: How it is fed.
        images: Their fingerprint.
        feature: Its kind and its precision.
    """
    known = {"tensors": tensors, "arch": arch, "images": images, "feature": feature}
    return json.dumps(known | {"input": asdict(spec), "layout": LAYOUT}, sort_keys=True)


def read(folder: Path, key: str) -> Tensor | None:
    """Features ``(N, D)`` that were stored under ``key``, mapped; None where there are none.

    A file that is not what was written is told of in one line and counts as none. All its bytes are
    hashed once a process, since a byte that flipped shows in nothing else: seconds for 10 GB, which
    the probe must read anyway.
    """
    path = path_of(folder, key)
    try:
        return _mapped(path, key)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        _say(f"{path} cannot be used: {reason}. Its features are computed anew.")
        return None


def write(folder: Path, key: str, features: Tensor) -> None:
    """Store ``(N, D)`` float32 under ``key``; if that fails, say so and go on."""
    array = np.ascontiguousarray(features.numpy(), dtype="<f4")
    header = _header(key, list(array.shape), _sha256(_blocks(array)))
    try:
        with atomic_file(path_of(folder, key)) as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.writelines(_blocks(array))
    except OutputError as error:
        _say(f"{error} The next run computes these features anew; --cache says another folder.")


def path_of(folder: Path, key: str) -> Path:
    """The file of a key."""
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"


def _mapped(path: Path, key: str) -> Tensor:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, MAX_HEADER))
        shape, digest = _facts_of(header)
        if header != _header(key, shape, digest):
            raise ValueError("its header is not that of these features")
        found, expected = path.stat(), 8 + length + 4 * math.prod(shape)
        if found.st_size != expected:
            raise ValueError(f"it has {found.st_size:,} bytes of {expected:,}")
        state = (found.st_ino, found.st_size, found.st_mtime_ns)
        if _verified.get(path) != state:
            if _sha256(iter(lambda: file.read(BLOCK), b"")) != digest:
                raise ValueError("its bytes are not those that were written")
            _verified[path] = state
    # Whoever changes them changes a copy in memory.
    array = np.memmap(path, "<f4", mode="c", offset=8 + length, shape=tuple(shape))
    return torch.from_numpy(array)


def _header(key: str, shape: list[int], digest: str) -> bytes:
    tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * math.prod(shape)]}
    document = {"__metadata__": {"key": key, "sha256": digest}, "features": tensor}
    text = json.dumps(document).encode()
    # The format allows spaces behind the text, so that the floats begin at a multiple of 8.
    return text.ljust(-(-len(text) // 8) * 8)


def _facts_of(header: bytes) -> tuple[list[int], str]:
    try:
        document = json.loads(header)
        shape = [int(length) for length in document["features"]["shape"]]
        return shape, str(document["__metadata__"]["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("it has no header") from error


def _blocks(array: NDArray[Any]) -> Iterator[bytes]:
    flat = array.reshape(-1).view(np.uint8)
    return (flat[start : start + BLOCK].tobytes() for start in range(0, len(flat), BLOCK))


def _sha256(blocks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)
