"""A sheet of images, pixel for pixel, with words above each and names where they find room."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from numpy.typing import NDArray
from PIL import Image

from moco_eval.pictures.looks import ink_on

Array = NDArray[Any]

# The longer side of each image, in the picture's pixels.
SIDE = 480
FONT_SIZE = 9

_DPI = 150
_MARGIN, _GAP, _WIDE_GAP = 18, 12, 48
_CAPTION, _HEADING_LINE = 58, 29
_CHARACTERS_PER_INCH = 11.5  # of a heading, as ``canvas.save`` breaks its lines
_PADDING = 4
# Names cover at most this share of an image: of a crowd one wants to see something, too.
_MAX_COVERED = 0.25


@dataclass(frozen=True, eq=False)
class Panel:
    """One image of a sheet.

    Attributes:
        pixels: ``(h, w, 3)`` uint8, of the size in which it is shown: ``scaled`` makes it.
        size: The original's height and width: what is drawn on it is in the original's pixels.
        caption: One or two lines above it.
    """

    pixels: Array
    size: tuple[int, int]
    caption: str = ""


def scaled(image: Image.Image | Array, *, smoothly: bool = True) -> Array:
    """An image in the size in which a sheet shows it.

    Args:
        image: A Pillow image, or an array ``(H, W)`` or ``(H, W, 3)`` of bytes or booleans.
        smoothly: Whether values may mix, as those of labels must not. Small images are enlarged in
            hard squares, as they are.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
    share = SIDE / max(picture.size)
    size = (max(1, round(share * picture.width)), max(1, round(share * picture.height)))
    resampling = Image.Resampling.LANCZOS if smoothly and share < 1 else Image.Resampling.NEAREST
    return np.asarray(picture.resize(size, resampling))


def lay_out(
    rows: Sequence[Sequence[Panel]], *, title: str, apart: int
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with an axes for each panel, whose coordinates are the original's pixels.

    Args:
        rows: From the top; all rows but the last as long as the first.
        title: The heading that ``canvas.save`` will write: room is left for its lines.
        apart: How many panels belong together; a wider gap follows them.
    """
    num_columns = max(map(len, rows))
    lefts = [_MARGIN + i * (SIDE + _GAP) + i // apart * _WIDE_GAP for i in range(num_columns)]
    width = lefts[-1] + SIDE + _MARGIN
    heights = [max(panel.pixels.shape[0] for panel in row) + _CAPTION for row in rows]
    line_width = int(width / _DPI * _CHARACTERS_PER_INCH)
    num_lines = sum(len(textwrap.wrap(line, line_width)) for line in title.splitlines())
    # The heading starts at 98 % of the height.
    heading = _HEADING_LINE * num_lines + _MARGIN
    height = round((heading + sum(heights) + _GAP * len(rows) + _MARGIN) / 0.98)
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    top = round(0.02 * height) + heading
    grid = []
    for row, row_height in zip(rows, heights, strict=True):
        grid.append(
            [
                _add(figure, panel, (left, top + _CAPTION), (width, height))
                for panel, left in zip(row, lefts, strict=False)
            ]
        )
        top += row_height + _GAP
    return figure, grid


def _add(figure: Figure, panel: Panel, corner: tuple[int, int], whole: tuple[int, int]) -> Axes:
    h, w = panel.pixels.shape[:2]
    (left, top), (width, height) = corner, whole
    axes = figure.add_axes((left / width, 1 - (top + h) / height, w / width, h / height))
    rows, columns = panel.size
    axes.imshow(panel.pixels, extent=(0, columns, rows, 0), interpolation="nearest", aspect="auto")
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.set_axis_off()
    axes.annotate(
        panel.caption,
        *((0, 1), (0, 3)),
        xycoords="axes fraction",
        textcoords="offset points",
        va="bottom",
        fontsize=FONT_SIZE,
        linespacing=1.15,
    )
    return axes


def write_names(
    axes: Axes, panel: Panel, boxes: Array, texts: Sequence[str], colors: Sequence[str]
) -> int:
    """Write each box's text at it, on a ground of its colour, clear of the other texts.

    Args:
        axes: Of ``lay_out``.
        panel: What they show.
        boxes: ``(n, 4)`` left, top, right, bottom in the original's pixels, the most important
            first.
        texts: One a box.
        colors: One a box.

    Returns:
        How many texts found no room and are not written.
    """
    share = panel.pixels.shape[1] / panel.size[1]
    sizes = [text_size(text) for text in texts]
    places = find_room(boxes * share, sizes, panel.pixels.shape[:2])
    for place, (w, h), text, color in zip(places, sizes, texts, colors, strict=True):
        if place is None:
            continue
        left, top = place[0] / share, place[1] / share
        axes.add_patch(
            Rectangle(
                *((left, top), w / share, h / share),
                facecolor=color,
                linewidth=0,
                zorder=4,
                # A name may be longer than a narrow image is wide.
                clip_on=False,
            )
        )
        axes.text(
            *(left + _PADDING / share, top + h / share / 2, text),
            va="center_baseline",
            fontsize=FONT_SIZE,
            color=ink_on(color),
            zorder=5,
        )
    return sum(place is None for place in places)


def text_size(text: str) -> tuple[int, int]:
    """Width and height of a text with its padding, in the picture's pixels."""
    width = TextPath((0, 0), text, size=FONT_SIZE * _DPI / 72).get_extents().width if text else 0
    return round(width) + 2 * _PADDING + 2, round(1.25 * FONT_SIZE * _DPI / 72)


def find_room(
    boxes: Array, sizes: Sequence[tuple[int, int]], within: tuple[int, ...]
) -> list[tuple[float, float] | None]:
    """For each box the corner (left, top) of its text, at the box and clear of earlier texts.

    A text rather stands beside its box than on it, and rather on nothing than on other boxes.

    Args:
        boxes: ``(n, 4)``, in pixels of the picture.
        sizes: Width and height of each text.
        within: The image's height and width.

    Returns:
        One a box; None where no place is clear, or too much is covered already.
    """
    taken = np.zeros((0, 4))
    places: list[tuple[float, float] | None] = []
    for number, (box, (w, h)) in enumerate(zip(boxes, sizes, strict=True)):
        left, top, right, bottom = box.tolist()
        corners = np.array(
            [
                *((left, top - h), (left, bottom), (right - w, top - h), (right - w, bottom)),
                *((right, top), (left - w, top), (right, bottom - h), (left - w, bottom - h)),
                *((left, top), (right - w, top), (left, bottom - h), (right - w, bottom - h)),
            ]
        ).clip(0, np.maximum(0, [within[1] - w, within[0] - h]))
        spots = np.concatenate([corners, corners + np.array((w, h))], axis=1)
        clear = overlaps(spots, taken).sum(axis=1) == 0
        others = overlaps(spots, np.delete(boxes, number, axis=0)).sum(axis=1) / (w * h)
        own = overlaps(spots, box[None]).sum(axis=1) / max((right - left) * (bottom - top), 1)
        cost = np.where(clear, 0.5 * others + own + 0.01 * np.arange(len(spots)), np.inf)
        best = int(cost.argmin())
        covered = (taken[:, 2:] - taken[:, :2]).prod(axis=1).sum() + w * h
        # A single one is written even where it covers more.
        is_crowded = covered > _MAX_COVERED * within[0] * within[1] and len(taken) > 0
        if not clear[best] or is_crowded:
            places.append(None)
            continue
        taken = np.concatenate([taken, spots[best : best + 1]])
        places.append((float(corners[best, 0]), float(corners[best, 1])))
    return places


def overlaps(some: Array, others: Array) -> Array:
    """The area ``(n, m)`` that each of some boxes shares with each of others."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    shared: Array = (high - low).clip(0).prod(axis=2)
    return shared


def blend(pixels: Array, mask: Array, color: Array, *, opacity: float) -> Array:
    """Pixels ``(h, w, 3)`` with a colour over those of ``mask`` ``(h, w)``."""
    mixed: Array = pixels.copy()
    mixed[mask] = np.round((1 - opacity) * pixels[mask] + opacity * color).astype(np.uint8)
    return mixed


def edge_of(mask: Array) -> Array:
    """Those pixels ``(h, w)`` of a mask, two deep, that lie beside its outside."""
    inner: Array = mask
    for _ in range(2):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge: Array = mask & ~inner
    return edge
