"""Some images of a split, as a split of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from PIL import Image

from moco_eval.data.splits import Split


class _Chosen(Sequence[Image.Image]):
    def __init__(self, images: Sequence[Image.Image], indices: Sequence[int]) -> None:
        self.images = images
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: Any) -> Any:
        return self.images[self.indices[position]]


def subset(split: Split, indices: Sequence[int]) -> Split:
    """The images ``indices`` of ``split`` in this order, decoded when indexed.

    Its fingerprint is the split's with a mark of which they are.
    """
    labels = [split.labels[index] for index in indices]
    mark = hashlib.sha256(repr(list(indices)).encode()).hexdigest()[:12]
    return Split(_Chosen(split.images, indices), labels, f"{split.fingerprint}-{mark}")
