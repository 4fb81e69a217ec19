"""What a record says about its data, so that numbers on different images are never averaged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def of_pixels(images: Iterable[Image.Image], labels: Sequence[int] | None) -> str:
    """Hash every pixel and label: for sets small enough to be decoded at every start."""
    digest = hashlib.sha256(repr(None if labels is None else list(labels)).encode())
    for image in images:
        digest.update(f"{image.mode} {image.size}\n".encode())
        digest.update(np.asarray(image).tobytes())
    return f"pixels:{digest.hexdigest()[:16]}"


def of_files(paths: Sequence[Path], labels: Sequence[int] | None, root: Path) -> str:
    """Hash names, sizes and labels: for sets too large to be decoded at every start."""
    digest = hashlib.sha256(repr(None if labels is None else list(labels)).encode())
    for path in paths:
        digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode())
    return f"names+sizes:{digest.hexdigest()[:16]}"
