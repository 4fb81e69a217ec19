"""How a detector looks at a scene: resized, mirrored, cropped; pixels and objects alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from moco_eval.data.masks import decode
from moco_eval.engines.recipe import Recipe

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class View:
    """What becomes of an image, in this order.

    Attributes:
        source: Height and width of the image file.
        size: Height and width that it is resized to.
        mirrored: Whether it is mirrored then.
        top: The first row of that which is kept.
        left: The first column.
        shape: Height and width of what is kept.
    """

    source: Size
    size: Size
    mirrored: bool = False
    top: int = 0
    left: int = 0
    shape: Size

    def pixels(self, image: Image.Image) -> Tensor:
        """What is seen of the image, ``(3, h, w)`` uint8."""
        height, width = self.size
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        return self._kept(pil_to_tensor(resized))

    def points(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Where places ``(..., 2)`` of the image, x and y, are seen; some beyond the edges."""
        return self._placed(points) - (self.left, self.top)

    def boxes(self, boxes: NDArray[Any]) -> NDArray[np.float64]:
        """Boxes ``(n, 4)`` as they are seen, cut off at the edges; of those beyond no area is left.

        Args:
            boxes: Left, top, right, bottom in pixels of the image.
        """
        corners = self.points(boxes.reshape(-1, 2, 2))
        ordered = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        return ordered.clip(0, [*self.shape[::-1]] * 2)

    def mask(self, segmentation: Any) -> Tensor:
        """The pixels of an object, ``(h, w)`` bool, from its polygons or run lengths.

        Polygons are drawn at the size of what is seen, as Detectron2 does; run lengths are drawn
        at the image's, and the nearest pixels taken.

        Raises:
            DataError: If the segmentation is neither.
        """
        if isinstance(segmentation, dict):
            height, width = self.size
            whole = Image.fromarray(decode(segmentation, self.source))
            drawn = np.array(whole.resize((width, height), Image.Resampling.NEAREST))
            return self._kept(torch.from_numpy(drawn))
        placed = [
            self._placed(np.asarray(polygon, np.float64).reshape(-1, 2)).reshape(-1).tolist()
            if len(polygon) % 2 == 0
            else polygon
            for polygon in segmentation
        ]
        return self._cut(torch.from_numpy(decode(placed, self.size)))

    def _placed(self, points: NDArray[Any]) -> NDArray[np.float64]:
        height, width = self.size
        scales = (width / self.source[1], height / self.source[0])
        placed = np.asarray(points, np.float64) * scales
        if self.mirrored:
            placed[..., 0] = width - placed[..., 0]
        return placed

    def _kept(self, maps: Tensor) -> Tensor:
        return self._cut(maps.flip(-1) if self.mirrored else maps)

    def _cut(self, maps: Tensor) -> Tensor:
        height, width = self.shape
        rows, columns = slice(self.top, self.top + height), slice(self.left, self.left + width)
        return maps[..., rows, columns].contiguous()


def whole_view(source: Size, *, side: int, max_side: int) -> View:
    """A whole image of ``source`` (height, width) whose short side becomes ``side``."""
    width, height = resized(source, side=side, max_side=max_side)
    return View(source=source, size=(height, width), shape=(height, width))


def draw_view(source: Size, recipe: Recipe, draw: torch.Generator) -> View:
    """A view for training, of an image of ``source`` (height, width).

    Resized as Detectron2's ResizeShortestEdge does, then mirrored half the time; or with large
    scale jitter mirrored, resized and cropped as its RandomFlip, ResizeScale and FixedSizeCrop do
    without padding.
    """
    mirrored = recipe.flip and bool(torch.rand((), generator=draw) < 0.5)
    if not recipe.jitter:
        sides = recipe.short_sides_train
        side = sides[int(torch.randint(len(sides), (), generator=draw))]
        width, height = resized(source, side=side, max_side=recipe.max_side)
        return View(source=source, size=(height, width), mirrored=mirrored, shape=(height, width))
    low, high = recipe.jitter
    scale, share = torch.rand(2, generator=draw, dtype=torch.double).tolist()
    return jittered(source, low + (high - low) * scale, recipe.max_side, share, mirrored=mirrored)


def jittered(source: Size, scale: float, side: int, share: float, *, mirrored: bool) -> View:
    """The image scaled to fit ``scale`` times a square of ``side``, and cropped to that square.

    Args:
        source: Its height and width.
        scale: Of the square.
        side: Of the square, in pixels.
        share: Where it is cropped, from 0, at the top left, to 1.
        mirrored: Whether it is mirrored.
    """
    factor = min(side * scale / length for length in source)
    height, width = (max(1, round(length * factor)) for length in source)
    top, left = (round(max(length - side, 0) * share) for length in (height, width))
    return View(
        source=source,
        size=(height, width),
        mirrored=mirrored,
        top=top,
        left=left,
        shape=(min(height, side), min(width, side)),
    )


def resized(size: Size, *, side: int, max_side: int) -> tuple[int, int]:
    """Width and height of an image of ``size`` (height, width) whose short side becomes ``side``.

    The long side is at most ``max_side``; rounding as in Detectron2's ResizeShortestEdge.
    """
    short, long = sorted(size)
    scaled = side / short * long
    factor = min(1.0, max_side / max(scaled, side))
    # In the order in which Detectron2 multiplies: a half is rounded either way by the last bit.
    sides = {short: int(side * factor + 0.5), long: int(scaled * factor + 0.5)}
    return sides[size[1]], sides[size[0]]
