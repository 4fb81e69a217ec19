"""What a record says about its data, so that numbers on different images are never averaged."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

# Images that stand for all of a set that is read image by image.
SAMPLE = 500

# One class an image, or for each image what is said of every class.
Labels = Sequence[int] | Sequence[Sequence[int]]


def of_pixels(images: Iterable[Image.Image], labels: Sequence[int] | None) -> str:
    """Hash every pixel and label: for sets small enough to be decoded at every start."""
    digest = _hash_of(labels)
    for image in images:
        digest.update(f"{image.mode} {image.size}\n".encode())
        digest.update(np.asarray(image).tobytes())
    return f"pixels:{digest.hexdigest()[:16]}"


def of_files(paths: Sequence[Path], labels: Sequence[int] | None, root: Path) -> str:
    """Hash names, sizes and labels: for sets too large to be decoded at every start."""
    names = [str(path.relative_to(root)) for path in paths]
    return of_names(names, [path.stat().st_size for path in paths], labels)


def of_names(names: Iterable[str], sizes: Iterable[int], labels: Labels | None) -> str:
    """Hash names, sizes in bytes and labels that are known without touching a file.

    An image that was replaced by another of the same name and size is not noticed.
    """
    digest = _hash_of(labels)
    for name, size in zip(names, sizes, strict=True):
        digest.update(os.fsencode(f"{name} {size}\n"))
    return f"names+sizes:{digest.hexdigest()[:16]}"


def with_labels(content: str, labels: Labels) -> str:
    """Add labels to the fingerprint of images alone."""
    return f"{content}+labels:{_hash_of(labels).hexdigest()[:16]}"


def sample_of(count: int) -> range:
    """Evenly spread indices, at most twice ``SAMPLE``: a tenth of a second of decoding."""
    return range(0, count, max(1, count // SAMPLE))


def of_bytes(encoded: Iterable[bytes], count: int) -> str:
    """Hash the files of a sample; the number of all images stands for the rest."""
    digest = hashlib.sha256()
    for data in encoded:
        digest.update(f"{len(data)}\n".encode())
        digest.update(data)
    return f"sample:{digest.hexdigest()[:16]}-n{count}"


def _hash_of(labels: Labels | None) -> hashlib._Hash:
    return hashlib.sha256(repr(None if labels is None else list(labels)).encode())
