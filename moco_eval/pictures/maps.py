"""The best and the worst label maps: truth, prediction, and where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image

from moco_eval.canvas import VERMILLION, outlined, shorten, style
from moco_eval.pictures import sheet
from moco_eval.pictures.looks import colors_of, rgb_of
from moco_eval.pictures.sheet import Panel
from moco_eval.pictures.writing import counted, spread, write

Array = NDArray[Any]

# Pixels of no class are neither right nor wrong.
IGNORED = 255
# Of the best, and of the worst.
NUM_SHOWN = 4

# A region of a smaller share of its image has no name written on it, nor has one whose middle is
# nearer to its edge than this share of the image's longer side.
_MIN_NAMED, _MIN_DEPTH = 0.004, 0.015
_NAME_WIDTH = 16
_GROUND, _NOTHING = "#D1D5DB", "#FFFFFF"


def draw(
    drawn: Mapping[str, Any], names: Sequence[str], split: Any, folder: Path, *, title: str
) -> list[Path]:
    """Draw ``best_images.png`` and ``worst_images.png``: image, truth, prediction, difference.

    Args:
        drawn: ``mIoU_by_image`` ``(M,)`` in percent; ``predicted_best`` and ``predicted_worst``,
            pairs of an image's index and its predicted classes ``(H, W)``, in the order in which
            they are to be shown.
        names: Of the classes; one called ``background`` is grey.
        split: The test split: ``pair(index)`` gives an image and its classes ``(H, W)``, 255 where
            a pixel has none; ``items[index].name`` what it is called.
        folder: Where they go.
        title: What they are of.

    Returns:
        The pictures.
    """
    scores = np.asarray(drawn["mIoU_by_image"], np.float64)
    sheets = {
        which: [
            (f"{which} {rank}", int(index), np.asarray(predicted))
            for rank, (index, predicted) in enumerate(drawn[key], start=1)
        ][:NUM_SHOWN]
        for which in ("best", "worst")
        if (key := f"predicted_{which}") in drawn
    }
    colors = _colors(sheets, names, split)
    said = f"of {counted(int(np.isfinite(scores).sum()), 'test image')} by mIoU"
    return [
        _draw_sheet(
            [(rank, index, predicted, float(scores[index])) for rank, index, predicted in shown],
            (names, colors),
            split,
            folder / f"{which}_images.png",
            title=f"{title}\nThe {which} {said}: image, truth, prediction, and in red the pixels "
            "that are wrong",
        )
        for which, shown in sheets.items()
        if shown
    ]


def _colors(
    sheets: Mapping[str, Sequence[tuple[str, int, Array]]], names: Sequence[str], split: Any
) -> dict[int, str]:
    """One colour a class in both pictures; those that differ most for the largest classes."""
    size = max(len(names), IGNORED + 1)
    pixels = np.zeros(size, np.int64)
    for shown in sheets.values():
        for _, index, predicted in shown:
            for labels in (predicted, split.pair(index)[1]):
                # Each image counts as much as another.
                counts = np.bincount(labels.ravel(), minlength=size)[:size]
                pixels += np.round(1e6 * counts / labels.size).astype(np.int64)
    grey = {label for label, name in enumerate(names) if name == "background"}
    order = np.lexsort((np.arange(size), -pixels))
    colored = [i for i in order[pixels[order] > 0].tolist() if i not in grey | {IGNORED}]
    return colors_of(colored) | dict.fromkeys(grey, _GROUND) | {IGNORED: _NOTHING}


def _draw_sheet(
    shown: Sequence[tuple[str, int, Array, float]],
    looks: tuple[Sequence[str], Mapping[int, str]],
    split: Any,
    path: Path,
    *,
    title: str,
) -> Path:
    names, colors = looks
    rows, maps, numbers = [], [], []
    for rank, index, predicted, score in shown:
        image, truth = split.pair(index)
        file = Path(split.items[index].name).name
        judged = truth != IGNORED
        wrong = judged & (predicted != truth)
        share = 100 * wrong.sum() / max(judged.sum(), 1)
        size = truth.shape
        rows.append(
            [
                Panel(sheet.scaled(image), size, f"{rank}: {shorten(file, 30)}"),
                Panel(_painted(truth, colors), size, "truth"),
                Panel(_painted(predicted, colors), size, f"prediction: mIoU {score:.1f} %"),
                Panel(_marked(image, wrong), size, f"{share:.1f} % of its pixels are wrong"),
            ]
        )
        maps.append((truth, predicted))
        numbers += _numbers((rank, file, score), truth, predicted, names)
    scores = [score for *_, score in shown]
    with style():
        figure, grid = sheet.lay_out(rows, title=title, apart=len(rows[0]))
        for axes_row, row, sides in zip(grid, rows, maps, strict=True):
            for axes, panel, labels in zip(axes_row[1:], row[1:], sides, strict=False):
                _write_names(axes, panel, labels, names)
        alt = (
            f"{counted(len(shown), 'test image')} with mIoU {spread(scores)} %, "
            "each with its true classes, the predicted ones and where they differ."
        )
        return write(figure, path, title=title, alt=alt, numbers=pd.DataFrame(numbers))


def _painted(labels: Array, colors: Mapping[int, str]) -> Array:
    """A map in its classes' colours, with black lines between them."""
    shown = sheet.scaled(labels.astype(np.uint8), smoothly=False)
    table = np.zeros((256, 3), np.uint8)
    for label, color in colors.items():
        table[label] = rgb_of(color)
    pixels: Array = table[shown]
    pixels[:-1][shown[:-1] != shown[1:]] = 0
    pixels[:, :-1][shown[:, :-1] != shown[:, 1:]] = 0
    return pixels


def _marked(image: Image.Image, wrong: Array) -> Array:
    """The image in pale grey, with the wrong pixels in red."""
    grey = np.repeat(np.asarray(sheet.scaled(image.convert("L")))[..., None], 3, axis=2)
    pale = (255 - (255 - grey.astype(np.float64)) * 0.35).astype(np.uint8)
    return sheet.blend(pale, sheet.scaled(wrong, smoothly=False), rgb_of(VERMILLION), opacity=1)


def _write_names(axes: Axes, panel: Panel, labels: Array, names: Sequence[str]) -> None:
    """Write each class's name within its largest region, where that is large enough."""
    share = panel.pixels.shape[1] / panel.size[1]
    limits = panel.pixels.shape[1::-1]
    taken = np.zeros((0, 4))
    for label, spot in deepest(labels).items():
        text = "no class" if label == IGNORED else shorten(names[label], _NAME_WIDTH)
        half = np.array(sheet.text_size(text)) / 2
        middle = np.clip(np.array(spot) * share, half, np.maximum(limits - half, half))
        box = np.concatenate([middle - half, middle + half])[None]
        if sheet.overlaps(box, taken).any():
            continue
        taken = np.concatenate([taken, box])
        axes.text(
            *(*(middle / share), text),
            ha="center",
            va="center_baseline",
            fontsize=sheet.FONT_SIZE,
            path_effects=outlined(2.5),
        )


def deepest(labels: Array) -> dict[int, tuple[float, float]]:
    """For each class of a map the point (x, y) farthest inside its largest region.

    Regions that are small or thin are left out; the largest class comes first.
    """
    from scipy import ndimage

    spots = {}
    found, counts = np.unique(labels, return_counts=True)
    for label in found[np.argsort(-counts, kind="stable")].tolist():
        regions, _ = ndimage.label(labels == label)
        sizes = np.bincount(regions.ravel())[1:]
        # Outside the image is outside the region.
        depth = ndimage.distance_transform_edt(np.pad(regions == 1 + sizes.argmax(), 1))
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        is_deep = depth[row, column] >= _MIN_DEPTH * max(labels.shape)
        if is_deep and sizes.max() >= _MIN_NAMED * labels.size:
            spots[label] = (float(column) - 0.5, float(row) - 0.5)
    return spots


def _numbers(
    which: tuple[str, str, float], truth: Array, predicted: Array, names: Sequence[str]
) -> list[dict[str, Any]]:
    rank, file, score = which
    judged = truth != IGNORED
    rows = []
    for label in np.unique(np.concatenate([truth[judged], predicted[judged]])).tolist():
        true, found = judged & (truth == label), judged & (predicted == label)
        both, either = int((true & found).sum()), int((true | found).sum())
        rows.append(
            {
                "image": rank,
                "file": file,
                "mIoU": round(score, 4),
                "class": names[label],
                "pixels_true": int(true.sum()),
                "pixels_predicted": int(found.sum()),
                "pixels_both": both,
                "IoU": round(100 * both / either, 4),
            }
        )
    return rows
