"""WebDataset shards: images within uncompressed tar files, read where they lie.

Nothing is extracted, and nothing but images and labels is read. An index of where each image lies
makes shards as good as files: any order, exact resume, any number of processes.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moco_eval.data import fingerprint
from moco_eval.data.encoded_images import EncodedImages
from moco_eval.data.packed import PackedNames
from moco_eval.data.parts import Part, number, train_and_test
from moco_eval.data.shard_index import Shard, find_members
from moco_eval.data.splits import TrainingImages
from moco_eval.errors import DataError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def open_shards(rest: str) -> TrainingImages:
    """Open ``PATTERN`` or ``TRAIN_PATTERN:TEST_PATTERN``.

    A pattern is a path with ``{000..099}``, ``*`` or both. Of an image ``KEY.jpg`` the label is
    the text of ``KEY.cls``, or ``label`` in ``KEY.json``.

    Raises:
        UsageError: If there are more than two patterns.
        DataError: If a shard is missing, compressed or damaged, or there is no image in any.
    """
    train, *others = train_and_test("wds", rest)
    name = re.sub(r"[^\w.]+", "-", Path(train).stem).strip("-.")
    return number(f"wds-{name}", _part(train), _part(others[0]) if others else None)


class ShardImages(EncodedImages):
    """All images of ``shards``, in their order."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.paths = [shard.path for shard in shards]
        self.ends = np.cumsum([len(shard.names) for shard in shards])
        self.names = PackedNames(b"".join(shard.names.block for shard in shards))
        self.places = np.concatenate([shard.places for shard in shards])

    def __len__(self) -> int:
        return len(self.names)

    def name_of(self, index: int) -> str:
        """The tar file's path and the image's name within it."""
        name = self.names[index]
        return f"{self._shard_of(index)}:{name}"

    def encoded(self, index: int) -> bytes:
        """The image's bytes."""
        first, size = map(int, self.places[index])
        # Opened anew, for a file that processes or threads share is one more thing to get wrong;
        # that costs a hundredth of decoding.
        with self._shard_of(index).open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), size, first)
        if len(data) < size:
            raise OSError(f"the shard is truncated, {len(data)} of {size} bytes are there")
        return data

    def _shard_of(self, index: int) -> Path:
        position = range(len(self))[index]
        return self.paths[int(np.searchsorted(self.ends, position, side="right"))]


def _part(pattern: str) -> Part:
    shards = find_members(_matching(pattern), pattern)
    images = ShardImages(shards)
    if not len(images):
        raise DataError(
            f"wds:{pattern} matches {len(shards)} tar files without an image in any. An image is a "
            "member such as 0001.jpg, with one dot in its name."
        )
    words = [word for shard in shards for word in shard.words]
    return Part(images, words, fingerprint.of_names(images.names, images.places[:, 1], None))


def _matching(pattern: str) -> list[Path]:
    """The tar files that the pattern names, in the order of their names."""
    found = []
    for path in _expanded(pattern):
        # Path.glob takes no absolute pattern.
        matches = sorted(glob.glob(path)) if glob.has_magic(path) else [path]  # noqa: PTH207
        if not matches or not Path(matches[0]).is_file():
            raise DataError(
                f"wds:{pattern} names {path}, but there is no such file. A pattern is the path of "
                "a tar file, of many as shard-{000..099}.tar, or shard-*.tar."
            )
        found += [Path(match) for match in matches]
    return found


def _expanded(pattern: str) -> list[str]:
    braces = _RANGE.search(pattern)
    if braces is None:
        return [pattern]
    first, last = braces.groups()
    start, end = pattern[: braces.start()], pattern[braces.end() :]
    numbers = range(int(first), int(last) + 1)
    return [path for n in numbers for path in _expanded(f"{start}{n:0{len(first)}d}{end}")]
