"""Images that are kept as their files' bytes and decoded when indexed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from moco_eval.data.decoding import damage_of, decode, decode_lazily


class EncodedImages(Sequence[Image.Image]):
    """Images that are read and decoded when indexed, in any process and any order.

    Raises:
        DamagedImageError: When one cannot be decoded, naming it. Evaluation never substitutes one.
    """

    @abstractmethod
    def name_of(self, index: int) -> str:
        """Where the image lies: a path, or a path and what is within it."""

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """The bytes of the image's file.

        Raises:
            OSError: If they cannot be read.
        """

    def __getitem__(self, index: Any) -> Any:
        return decode(self._read(index), self.name_of(index))

    def lazy(self, index: int) -> Image.Image:
        """The image, a JPEG of which is not decoded yet; decode it within ``damage_of``."""
        return decode_lazily(self._read(index), self.name_of(index))

    def _read(self, index: int) -> bytes:
        with damage_of(self.name_of(index)):
            return self.encoded(index)


class ImageFiles(EncodedImages):
    """Image files under ``root``; names may be absolute."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root = root
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def name_of(self, index: int) -> str:
        """The file's path."""
        return str(self.root / self.names[index])

    def encoded(self, index: int) -> bytes:
        """The file's bytes."""
        return (self.root / self.names[index]).read_bytes()
