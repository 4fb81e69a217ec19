"""Which images lie under a folder, found once and remembered.

A folder's modification time changes when a file is added, removed or renamed in it, so a start
that finds all times as they were reads no folder again; where one differs, that folder alone is.
An image that was overwritten in place is noticed only if it is among a sample of the files.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from moco_eval.data import file_sizes, index_cache
from moco_eval.data.packed import PackedNames
from moco_eval.errors import DataError

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"))


@dataclass(frozen=True, eq=False)
class FolderIndex:
    """The images under a folder, each folder's own before those of its sub-folders, by name.

    Attributes:
        root: The folder.
        folders: Every folder's path relative to ``root``, which itself is the empty one, first.
        counts: How many images each holds itself.
        names: The images' paths relative to ``root``, in the order of ``folders``.
        sizes: Their sizes in bytes.
    """

    root: Path
    folders: tuple[str, ...]
    counts: NDArray[np.int64]
    names: PackedNames
    sizes: NDArray[np.int64]

    def below(self) -> FolderIndex:
        """The same without the images that lie in ``root`` itself."""
        loose = int(self.counts[0])
        return dataclasses.replace(
            self,
            folders=self.folders[1:],
            counts=self.counts[1:],
            names=self.names[loose:],
            sizes=self.sizes[loose:],
        )

    def within(self, names: Collection[str]) -> FolderIndex:
        """The same without what lies in none of the folders ``names`` of ``root``."""
        kept = np.array([folder.partition("/")[0] in names for folder in self.folders])
        is_kept = np.repeat(kept, self.counts)
        return dataclasses.replace(
            self,
            folders=tuple(itertools.compress(self.folders, kept)),
            counts=self.counts[kept],
            names=PackedNames.of(itertools.compress(self.names, is_kept)),
            sizes=self.sizes[is_kept],
        )


@dataclass(frozen=True, eq=False)
class _Listing:
    """What one folder holds itself. Names end in zero bytes and are relative to the root."""

    folder: str
    mtime_ns: int
    subfolders: tuple[str, ...]
    names: bytes
    sizes: NDArray[np.int64]


def find_images(root: Path) -> FolderIndex:
    """Index every image under ``root``, at any depth; links are followed.

    Names that begin with a dot are passed by. Whatever else has an image's suffix is listed, even
    a folder or a link to nothing: opening it says what is wrong with it.

    Raises:
        DataError: If a folder cannot be listed.
    """
    root = root.resolve()
    known = _read(root)
    index, is_new = _assemble(root, known)
    if not is_new and file_sizes.sample_differs(root, index.names, index.sizes):
        index, _ = _assemble(root, {})
    return index


def is_image_name(name: str) -> bool:
    """Whether a file name ends as an image's does."""
    _, dot, suffix = name.rpartition(".")
    return dot + suffix.lower() in SUFFIXES


def _assemble(root: Path, known: Mapping[str, _Listing]) -> tuple[FolderIndex, bool]:
    """The index, and whether any of it was not ``known``; if so, it is stored."""
    walk = _walk(root, "", known, frozenset())
    progress = tqdm(walk, desc="index", unit=" folders", leave=False, disable=None, delay=2)
    listings = list(progress)
    index = FolderIndex(
        root,
        tuple(listing.folder for listing in listings),
        np.array([len(listing.sizes) for listing in listings], dtype=np.int64),
        PackedNames(b"".join(listing.names for listing in listings)),
        np.concatenate([listing.sizes for listing in listings]),
    )
    is_new = any(known.get(listing.folder) is not listing for listing in listings)
    is_new |= len(known) != len(listings)
    if is_new and len(index.names) >= index_cache.WORTH_KEEPING:
        mtimes = [listing.mtime_ns for listing in listings]
        index_cache.write(_key(root), _arrays(index, mtimes))
    return index, is_new


def _walk(
    root: Path, folder: str, known: Mapping[str, _Listing], above: frozenset[tuple[int, int]]
) -> Iterator[_Listing]:
    try:
        status = (root / folder).stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            # A link that leads back up.
            return
        listing = known.get(folder)
        if listing is None or listing.mtime_ns != status.st_mtime_ns:
            listing = _list(root, folder, status.st_mtime_ns)
    except OSError as error:
        raise DataError(
            f"The folder {root / folder} cannot be listed: {error.strerror}. Make it readable, or "
            "take it out of the data set."
        ) from error
    yield listing
    for name in listing.subfolders:
        yield from _walk(root, name, known, above | {identity})


def _list(root: Path, folder: str, mtime_ns: int) -> _Listing:
    prefix = f"{folder}/" if folder else ""
    # 0, which no folder has, if another change could bear the same time. Judged before looking.
    known_until = mtime_ns if index_cache.is_settled(mtime_ns) else 0
    with os.scandir(root / folder) as entries:
        found = sorted(
            (entry for entry in entries if not entry.name.startswith(".")),
            key=lambda entry: entry.name,
        )
    images = [entry for entry in found if is_image_name(entry.name)]
    return _Listing(
        folder,
        known_until,
        tuple(
            prefix + entry.name
            for entry in found
            if not is_image_name(entry.name) and entry.is_dir()
        ),
        PackedNames.of(prefix + entry.name for entry in images).block,
        np.array([_size_of(entry) for entry in images], dtype=np.int64),
    )


def _size_of(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return file_sizes.MISSING


def _key(root: Path) -> str:
    return f"folder {root}"


def _arrays(index: FolderIndex, mtimes: list[int]) -> index_cache.Arrays:
    return {
        "folders": PackedNames.of(index.folders).as_array(),
        "mtimes": np.array(mtimes, dtype=np.int64),
        "counts": index.counts,
        "names": index.names.as_array(),
        "sizes": index.sizes,
    }


def _read(root: Path) -> dict[str, _Listing]:
    """The listings of an earlier start, by folder."""
    arrays = index_cache.read(_key(root))
    if not arrays:
        return {}
    folders = PackedNames.from_array(arrays["folders"])
    names = PackedNames.from_array(arrays["names"])
    subfolders: dict[str, list[str]] = {folder: [] for folder in folders}
    for folder in folders[1:]:
        subfolders[folder.rpartition("/")[0]].append(folder)
    listings, first = {}, 0
    for folder, mtime, count in zip(folders, arrays["mtimes"], arrays["counts"], strict=True):
        last = first + int(count)
        listings[folder] = _Listing(
            folder,
            int(mtime),
            tuple(subfolders[folder]),
            names[first:last].block,
            arrays["sizes"][first:last],
        )
        first = last
    return listings
