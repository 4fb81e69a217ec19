"""A million names as one block of bytes: small, quick to store, and shared by forked processes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class PackedNames(Sequence[str]):
    """Strings that are stored one after the other, each ended by a zero byte.

    A list of strings would be copied, page by page, into every loader process that reads it, for
    reading counts references.

    Args:
        block: The bytes; file names that are no UTF-8 stay as they are.
    """

    def __init__(self, block: bytes) -> None:
        self.block = block
        self.ends = np.flatnonzero(np.frombuffer(block, np.uint8) == 0)

    @classmethod
    def of(cls, names: Iterable[str]) -> PackedNames:
        """Pack ``names``, none of which holds a zero byte."""
        return cls(b"".join(os.fsencode(name) + b"\0" for name in names))

    @classmethod
    def from_array(cls, array: NDArray[np.uint8]) -> PackedNames:
        """The inverse of ``as_array``."""
        return cls(array.tobytes())

    def as_array(self) -> NDArray[np.uint8]:
        """The block as an array, to be stored."""
        return np.frombuffer(self.block, np.uint8)

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[str]:
        return map(os.fsdecode, self.block.split(b"\0")[:-1])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            first, last, step = index.indices(len(self))
            assert step == 1, "Packed names are sliced in one piece."
            return PackedNames(self.block[self._start(first) : self._start(max(first, last))])
        position = range(len(self))[index]
        return os.fsdecode(self.block[self._start(position) : int(self.ends[position])])

    def _start(self, position: int) -> int:
        return int(self.ends[position - 1]) + 1 if position else 0
