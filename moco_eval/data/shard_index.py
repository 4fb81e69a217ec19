"""Where images and their labels lie within tar files, found once and remembered."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from moco_eval.data import index_cache
from moco_eval.data.folder_index import is_image_name
from moco_eval.data.packed import PackedNames
from moco_eval.data.parts import LABEL_NAMES
from moco_eval.errors import DataError

_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstd"}


@dataclass(frozen=True, eq=False)
class Shard:
    """What one tar file holds.

    Attributes:
        path: The tar file.
        names: The images' names within it, in its order.
        words: Their labels in words; empty where there is none.
        places: ``(n, 2)``, where each image begins, and its size, in bytes.
        stamp: Size and modification time of the tar file as it was read.
    """

    path: Path
    names: PackedNames
    words: PackedNames
    places: NDArray[np.int64]
    stamp: tuple[int, int]


def find_members(paths: Sequence[Path], pattern: str) -> list[Shard]:
    """Index the images of every shard; a shard whose size and time are as they were is not read.

    Args:
        paths: The tar files.
        pattern: What the index is remembered under.

    Raises:
        DataError: If a shard is missing, compressed or damaged.
    """
    key = f"shards {Path(pattern).absolute()}"
    known = _read(key)
    progress = tqdm(paths, desc="index", unit=" shards", leave=False, disable=None, delay=2)
    shards = [_current(path, known) for path in progress]
    is_new = any(known.get(shard.path) is not shard for shard in shards)
    if is_new and sum(len(shard.names) for shard in shards) >= index_cache.WORTH_KEEPING:
        index_cache.write(key, _arrays(shards))
    return shards


def _current(path: Path, known: Mapping[Path, Shard]) -> Shard:
    try:
        status = path.stat()
        stamp = (status.st_size, status.st_mtime_ns)
        if path in known and known[path].stamp == stamp:
            return known[path]
        if not index_cache.is_settled(stamp[1]):
            # No file's: the next start reads it again.
            stamp = (0, 0)
        with path.open("rb") as file:
            _refuse_compressed(path, file)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                return _index(path, stamp, archive, file)
    except (OSError, tarfile.TarError) as error:
        raise DataError(
            f"The shard {path} cannot be read as a tar file: {error}. Fetch it again, or leave it "
            "out of the pattern."
        ) from error


def _refuse_compressed(path: Path, file: IO[bytes]) -> None:
    start = file.read(8)
    file.seek(0)
    for signature, name in _COMPRESSIONS.items():
        if start.startswith(signature):
            raise DataError(
                f"The shard {path} is compressed with {name}: an image within it could only be "
                "reached by unpacking all before it. Uncompress the shards; images are small "
                "already."
            )


def _index(path: Path, stamp: tuple[int, int], archive: tarfile.TarFile, file: IO[bytes]) -> Shard:
    names: list[str] = []
    places: list[tuple[int, int]] = []
    words: dict[str, str] = {}
    for member in _regular_files(archive):
        sample, suffix = _sample_of(member.name)
        # So neither what comes with an image, 1.mask.png, nor a Macintosh's ._1.png is one.
        if is_image_name(f".{suffix}") and "." not in suffix:
            names.append(member.name)
            places.append((member.offset_data, member.size))
        elif suffix == "cls" or (suffix == "json" and sample not in words):
            position = file.tell()
            file.seek(member.offset_data)
            words[sample] = _word(suffix, file.read(member.size))
            file.seek(position)
    return Shard(
        path,
        PackedNames.of(names),
        PackedNames.of(words.get(_sample_of(name)[0], "") for name in names),
        np.array(places, dtype=np.int64).reshape(-1, 2),
        stamp,
    )


def _regular_files(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        if member.isreg() and not member.issparse():
            yield member
        # The archive would keep every member it has passed.
        archive.members = []  # type: ignore[attr-defined]


def _sample_of(name: str) -> tuple[str, str]:
    """A member's sample and suffix: a sample's name ends at the first dot after its folder."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


def _word(suffix: str, data: bytes) -> str:
    text = data.decode(errors="replace")
    if suffix == "cls":
        return text.strip().replace("\0", "")
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return ""
    if not isinstance(found, dict):
        return ""
    label = next((found[name] for name in LABEL_NAMES if name in found), "")
    is_word = isinstance(label, str | int) and not isinstance(label, bool)
    return str(label).replace("\0", "") if is_word else ""


def _arrays(shards: Sequence[Shard]) -> index_cache.Arrays:
    return {
        "paths": PackedNames.of(str(shard.path) for shard in shards).as_array(),
        "stamps": np.array([shard.stamp for shard in shards], dtype=np.int64),
        "counts": np.array([len(shard.names) for shard in shards], dtype=np.int64),
        "names": PackedNames(b"".join(shard.names.block for shard in shards)).as_array(),
        "words": PackedNames(b"".join(shard.words.block for shard in shards)).as_array(),
        "places": np.concatenate([shard.places for shard in shards]),
    }


def _read(key: str) -> dict[Path, Shard]:
    arrays = index_cache.read(key)
    if not arrays:
        return {}
    names, words = (PackedNames.from_array(arrays[field]) for field in ("names", "words"))
    ends = np.cumsum(arrays["counts"])
    shards = [
        Shard(
            Path(path),
            names[last - count : last],
            words[last - count : last],
            arrays["places"][last - count : last],
            (int(stamp[0]), int(stamp[1])),
        )
        for path, count, last, stamp in zip(
            PackedNames.from_array(arrays["paths"]),
            arrays["counts"].tolist(),
            ends.tolist(),
            arrays["stamps"],
            strict=True,
        )
    ]
    return {shard.path: shard for shard in shards}
