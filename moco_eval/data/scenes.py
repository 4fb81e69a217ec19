"""The embedded detection data: scenes of scikit-learn's handwritten digits.

A digit scene is a textured, noisy canvas with one to four digits of random size and colour. A
scene's digits come from its own split of the digits alone, so that a network that was trained on
the training digits meets new ones in the test scenes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moco_eval.data import coco, digits, fingerprint
from moco_eval.data.masks import encode
from moco_eval.data.scene import SceneData
from moco_eval.errors import DataError, OutputError
from moco_eval.files import atomic_folder, sha256_of

NUM_SCENES = {"train": 300, "test": 100}
SIDE = 160
DIGIT_SIDES = (20, 60)
MAX_DIGITS = 4
# A pixel belongs to a digit where its ink covers this share of it.
INK_THRESHOLD = 0.35


def open_digit_scenes(folder: Path | None) -> SceneData:
    """Read the digit scenes in ``folder``, writing them first if there is no such folder.

    Args:
        folder: None is ``moco-eval/digits-scenes-v1`` in the user's cache.

    Raises:
        DataError: If the folder holds something else, or damaged scenes.
    """
    folder = folder or _default_folder()
    if _is_absent(folder):
        try:
            write_scenes(folder)
        except OutputError:
            # Another process may have been faster; its folder is as whole as ours.
            if _is_absent(folder):
                raise
    try:
        return _read(folder)
    except DataError as error:
        raise DataError(f"{error} Remove {folder} to have the scenes written anew.") from error


def write_scenes(folder: Path) -> None:
    """Write the scenes as COCO data: ``train/*.png``, ``train.json``, and the same for test.

    They are always the same: 300 training and 100 test scenes of 160x160 pixels.

    Raises:
        OutputError: If the folder cannot be written; nothing is left behind.
    """
    inks, labels = digits.load()
    with atomic_folder(folder) as unfinished:
        for split, indices in zip(NUM_SCENES, digits.digit_split(), strict=True):
            document = _write_split(unfinished / split, inks[indices] / 16, labels[indices])
            (unfinished / f"{split}.json").write_text(json.dumps(document))


def _default_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "moco-eval" / "digits-scenes-v1"


def _is_absent(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def _read(folder: Path) -> SceneData:
    splits, hashes = {}, []
    for name, num_scenes in NUM_SCENES.items():
        split = coco.read_split(folder / name, folder / f"{name}.json")
        if split.classes != digits.CLASSES or len(split) != num_scenes:
            raise DataError(
                f"{folder / name}.json holds {len(split)} scenes of {len(split.classes)} classes, "
                f"not the {num_scenes} digit scenes."
            )
        # All pixels are decoded once, so that a damaged image is found before an hour of training.
        pixels = fingerprint.of_pixels((scene.image() for scene in split.scenes), None)
        splits[name] = split
        hashes.append(f"json:{sha256_of(folder / f'{name}.json')[:16]}+{pixels}")
    return SceneData(
        "digits-scenes", digits.CLASSES, splits["train"], splits["test"], "/".join(hashes)
    )


def _write_split(
    folder: Path, inks: NDArray[np.float64], labels: NDArray[np.int64]
) -> dict[str, Any]:
    """Write the images of one split and return its COCO document."""
    # RandomState's stream is frozen: the scenes do not change with NumPy's version.
    draw = np.random.RandomState(len(labels))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    folder.mkdir()
    for number in range(1, NUM_SCENES[folder.name] + 1):
        name = f"{number:06d}.png"
        pixels, objects = _render(draw, inks)
        Image.fromarray(pixels).save(folder / name)
        images.append({"id": number, "file_name": name, "height": SIDE, "width": SIDE})
        for digit, mask in objects:
            left, top, right, bottom = _bounds(mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(labels[digit]) + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": encode(mask),
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(digits.CLASSES, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _render(
    draw: np.random.RandomState, inks: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], list[tuple[int, NDArray[np.bool_]]]]:
    """One scene's pixels, and for each of its digits which one it is and its mask."""
    background = draw.uniform(40, 200, 3)
    texture = np.stack([_resize(draw.normal(0, 25, (6, 6)), SIDE) for _ in range(3)], axis=2)
    canvas = background + texture
    objects: list[tuple[int, NDArray[np.bool_]]] = []
    taken: list[tuple[int, int, int, int]] = []
    for _ in range(draw.randint(1, MAX_DIGITS + 1)):
        placed = _place(draw, inks, taken)
        if placed is None:
            continue
        digit, (left, top), ink = placed
        cover = np.zeros((SIDE, SIDE, 1))
        cover[top : top + len(ink), left : left + len(ink), 0] = ink
        canvas += cover * (_contrasting(draw, background) - canvas)
        mask = cover[..., 0] > INK_THRESHOLD
        objects.append((digit, mask))
        taken.append(_bounds(mask))
    canvas += draw.normal(0, 12, canvas.shape)
    return canvas.clip(0, 255).astype(np.uint8), objects


def _place(
    draw: np.random.RandomState,
    inks: NDArray[np.float64],
    taken: list[tuple[int, int, int, int]],
) -> tuple[int, tuple[int, int], NDArray[np.float64]] | None:
    """A digit, its place (left, top) clear of all ``taken`` boxes, and its ink; None if none fits.

    The ink is ``(side, side)``, the share of each pixel that the digit covers.
    """
    for _ in range(20):
        side = draw.randint(DIGIT_SIDES[0], DIGIT_SIDES[1] + 1)
        left, top = draw.randint(0, SIDE - side + 1, 2)
        digit = int(draw.randint(len(inks)))
        ink = _resize(inks[digit], side).clip(0, 1)
        bounds = _bounds(ink > INK_THRESHOLD)
        moved = (bounds[0] + left, bounds[1] + top, bounds[2] + left, bounds[3] + top)
        if not any(_overlap(moved, other) for other in taken):
            return digit, (left, top), ink
    return None


def _resize(values: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)


def _contrasting(draw: np.random.RandomState, background: NDArray[np.float64]) -> NDArray[Any]:
    while True:
        colour = draw.uniform(0, 255, 3)
        if np.abs(colour - background).mean() > 60:
            return colour


def _bounds(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a mask; right and bottom are the first pixels beyond it."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])
