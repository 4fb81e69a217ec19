"""The best and the worst test images, what is in them beside what was detected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from moco_eval.canvas import outlined, shorten, style
from moco_eval.pictures import sheet
from moco_eval.pictures.choice import best_and_worst
from moco_eval.pictures.looks import colors_of, ink_on, rgb_of
from moco_eval.pictures.objects import MIN_SCORE, Objects, detected, notes_on, present
from moco_eval.pictures.sheet import Panel
from moco_eval.pictures.writing import counted, spread, write

Array = NDArray[Any]

# Of the best, and of the worst.
NUM_SHOWN = 8
_PAIRS_A_ROW = 2
_OPACITY = 0.45
_NAME_WIDTH = 18


@dataclass(frozen=True, eq=False)
class _Pair:
    """An image with both sides: what it is called, what it shows."""

    rank: str
    scene: Any
    score: float
    truth: Objects
    found: Objects


def draw(
    scores: Array,
    names: Sequence[str],
    scenes: Any,
    results: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    title: str,
) -> list[Path]:
    """Draw ``best_images.png`` and ``worst_images.png``: truth beside detections.

    Args:
        scores: ``(M,)`` F1 of each image in percent, at IoU 0.5 and score 0.5; no number where an
            image has none.
        names: Of the classes.
        scenes: The test split: ``scenes``, each with ``image_id``, ``path``, ``size``, ``boxes``,
            ``labels``, ``crowd``, ``image()`` and ``masks()``; and ``category_ids``.
        results: COCO's results list, with the json's own numbers.
        folder: Where they go.
        title: What they are of.

    Returns:
        The pictures: none of the best where nothing is found, none of the worst where nothing is
        missing.
    """
    counts = np.array([int((notes_on(scene) == "").sum()) for scene in scenes.scenes])
    best, worst = best_and_worst(np.asarray(scores, np.float64), counts, number=NUM_SHOWN)
    shown = {scenes.scenes[index].image_id for index in (*best, *worst)}
    by_image: dict[int, list[Mapping[str, Any]]] = {number: [] for number in shown}
    has_masks = any("segmentation" in result for result in results)
    for result in results:
        if result["image_id"] in shown:
            by_image[result["image_id"]].append(result)

    def pair(rank: str, index: int) -> _Pair:
        scene = scenes.scenes[index]
        found = detected(by_image[scene.image_id], scenes.category_ids)
        return _Pair(rank, scene, float(scores[index]), present(scene, with_masks=has_masks), found)

    sheets = {
        which: [pair(f"{which} {rank}", index) for rank, index in enumerate(chosen, start=1)]
        for which, chosen in (("best", best), ("worst", worst))
    }
    # One colour a class in both pictures, and the colours that differ most for the most frequent.
    labels = [_labels_of(each) for pairs in sheets.values() for each in pairs]
    frequent = np.bincount(np.concatenate([*labels, np.zeros(0, np.int64)]), minlength=len(names))
    order = np.lexsort((np.arange(len(frequent)), -frequent))
    colors = colors_of(order[frequent[order] > 0].tolist())
    num_scored = int(np.isfinite(scores).sum())
    said = f"of {counted(num_scored, 'test image')} by F1 at IoU 0.5 and score {MIN_SCORE:g}"
    return [
        _draw_sheet(
            pairs,
            (names, colors),
            folder / f"{which}_images.png",
            title=f"{title}\nThe {which} {said}: what is there, left, and what was detected, right",
        )
        for which, pairs in sheets.items()
        if pairs
    ]


def _labels_of(pair: _Pair) -> Array:
    return np.concatenate([pair.truth.labels, pair.found.labels]).astype(np.int64)


def _draw_sheet(
    pairs: Sequence[_Pair],
    looks: tuple[Sequence[str], Mapping[int, str]],
    path: Path,
    *,
    title: str,
) -> Path:
    names, colors = looks
    cells = []
    for pair in pairs:
        pixels = sheet.scaled(pair.scene.image())
        for objects, caption in zip((pair.truth, pair.found), _captions(pair), strict=True):
            filled = _fill(pixels, objects, colors)
            cells.append((Panel(filled, pair.scene.size, caption), objects))
    length = 2 * min(_PAIRS_A_ROW, len(pairs))
    rows = [cells[start : start + length] for start in range(0, len(cells), length)]
    with style():
        figure, grid = sheet.lay_out(
            [[panel for panel, _ in row] for row in rows], title=title, apart=2
        )
        for axes_row, row in zip(grid, rows, strict=True):
            for axes, (panel, objects) in zip(axes_row, row, strict=True):
                _outline(axes, panel, objects, looks)
        scores = [pair.score for pair in pairs]
        num_objects, num_found = (
            sum(len(side.boxes) for side in sides)
            for sides in zip(*((pair.truth, pair.found) for pair in pairs), strict=True)
        )
        alt = (
            f"{counted(len(pairs), 'test image')} with F1 {spread(scores)} %, each with its objects"
            f" beside what was detected: {counted(num_objects, 'object')} and "
            f"{counted(num_found, 'detection')}."
        )
        return write(figure, path, title=title, alt=alt, numbers=_numbers(pairs, names))


def _captions(pair: _Pair) -> tuple[str, str]:
    what = f"{pair.rank}: {shorten(Path(pair.scene.path).name, 26)}, F1 {pair.score:.1f} %"
    num_objects, num_found = len(pair.truth.boxes), len(pair.found.boxes)
    weak = f" ({pair.found.num_weak:,} below {MIN_SCORE:g})" if pair.found.num_weak else ""
    found = f"{counted(num_found, 'detection')}{weak}"
    return f"{what}\n{counted(num_objects, 'object')}", f"\n{found}"


def _fill(pixels: Array, objects: Objects, colors: Mapping[int, str]) -> Array:
    """The image with masks over it, translucent, their edges not."""
    if objects.masks is None:
        return pixels
    for label, mask in zip(objects.labels.tolist(), objects.masks, strict=True):
        color, shown = rgb_of(colors[label]), sheet.scaled(mask, smoothly=False)
        pixels = sheet.blend(pixels, shown, color, opacity=_OPACITY)
        pixels = sheet.blend(pixels, sheet.edge_of(shown), color, opacity=1)
    return pixels


def _outline(
    axes: Axes,
    panel: Panel,
    objects: Objects,
    looks: tuple[Sequence[str], Mapping[int, str]],
) -> None:
    names, colors = looks
    own = [colors[label] for label in objects.labels.tolist()]
    for box, color, note in zip(objects.boxes.tolist(), own, objects.notes, strict=True):
        left, top, right, bottom = box
        axes.add_patch(
            Rectangle(
                (left, top),
                *(right - left, bottom - top),
                fill=False,
                edgecolor=color,
                linewidth=1.6,
                linestyle=(0, (3, 2)) if note else "-",
                # Seen on whatever lies below it.
                path_effects=outlined(2.8, ink_on(color)),
                zorder=2,
            )
        )
    if objects.keypoints is not None:
        for points, color in zip(objects.keypoints, own, strict=True):
            there = points[points[:, 2] > 0]
            axes.scatter(
                *(there[:, 0], there[:, 1]),
                s=22,
                c=color,
                edgecolors=ink_on(color),
                linewidths=0.8,
                zorder=3,
            )
    texts = [_text(objects, number, names) for number in range(len(own))]
    num_left_out = sheet.write_names(axes, panel, objects.boxes, texts, own)
    if num_left_out:
        axes.texts[0].set_text(f"{axes.texts[0].get_text()}, {num_left_out} not named")


def _text(objects: Objects, number: int, names: Sequence[str]) -> str:
    name = shorten(names[objects.labels[number]], _NAME_WIDTH)
    if objects.scores is not None:
        return f"{name} {objects.scores[number]:.2f}"
    return f"{name} ({objects.notes[number]})" if objects.notes[number] else name


def _numbers(pairs: Sequence[_Pair], names: Sequence[str]) -> pd.DataFrame:
    rows = [
        {
            "image": pair.rank,
            "image_id": pair.scene.image_id,
            "file": Path(pair.scene.path).name,
            "F1": round(pair.score, 4),
            "side": side,
            "class": names[objects.labels[number]],
            "score": "" if objects.scores is None else round(float(objects.scores[number]), 4),
            "note": objects.notes[number],
        }
        | dict(zip(("left", "top", "right", "bottom"), np.round(box, 2).tolist(), strict=True))
        for pair in pairs
        for side, objects in (("truth", pair.truth), ("detected", pair.found))
        for number, box in enumerate(objects.boxes)
    ]
    columns = ["image", "image_id", "file", "F1", "side", "class", "score", "note"]
    frame: pd.DataFrame = pd.DataFrame(rows, columns=[*columns, "left", "top", "right", "bottom"])
    return frame
