"""Pixel masks as COCO writes them: polygons, or run lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco_eval.errors import DataError


def encode(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask ``(height, width)`` as compressed run lengths that JSON can hold."""
    from faster_coco_eval.core import mask as coco_mask

    runs = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode()}


def decode(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of an image of ``size`` (height, width).

    Args:
        segmentation: Polygons ``[[x, y, x, y, ...], ...]``, or a dictionary of ``size`` and
            ``counts``, compressed or not.
        size: The image's height and width.

    Raises:
        DataError: If it is neither, or of another size.
    """
    from faster_coco_eval.core import mask as coco_mask

    try:
        if isinstance(segmentation, dict) and tuple(segmentation["size"]) != size:
            raise ValueError(f"it is for {segmentation['size']} pixels, the image has {size}")
        # The library reads beyond a polygon's end where a coordinate has no partner.
        if isinstance(segmentation, list) and any(len(p) < 6 or len(p) % 2 for p in segmentation):
            raise ValueError("a polygon needs three points of two coordinates each")
        mask: NDArray[np.uint8] = coco_mask.decode(coco_mask.segmToRle(segmentation, *size[::-1]))
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise DataError(f"A segmentation is neither polygons nor run lengths: {error}.") from error
    return mask.astype(np.bool_)
