"""Scenes from COCO's json format."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco_eval.data import fingerprint
from moco_eval.data.scene import Scene, SceneData, SceneSplit, of_splits
from moco_eval.errors import DataError, UsageError
from moco_eval.files import sha256_of

# IMAGES:JSON holds out one image in this many for testing.
HOLD_OUT = 5
# What LVIS says of an image besides, for its scoring.
EXTRA = ("neg_category_ids", "not_exhaustive_category_ids")


def open_coco(rest: str) -> SceneData:
    """Open ``TRAIN_IMAGES:TRAIN_JSON:TEST_IMAGES:TEST_JSON``, or ``IMAGES:JSON``.

    With two parts, a fifth of the images is held out for testing: always the same ones, for a
    hash of the file name decides.

    Raises:
        UsageError: If there are neither two parts nor four.
        DataError: If a part is missing, no COCO json, or the splits hold different classes.
    """
    parts = [Path(part) for part in rest.split(":")]
    if len(parts) not in (2, 4) or not all(rest.split(":")):
        raise UsageError(
            f"'coco:{rest}' names {len(parts)} paths. Expected coco:IMAGES:JSON or "
            "coco:TRAIN_IMAGES:TRAIN_JSON:TEST_IMAGES:TEST_JSON."
        )
    train = read_split(parts[0], parts[1])
    if len(parts) == 4:
        return of_splits(f"coco-{train.id}", train, read_split(parts[2], parts[3]))
    kept, held_out = (
        dataclasses.replace(split, fingerprint=_fingerprint(split, *parts))
        for split in _hold_out(train)
    )
    return of_splits(f"coco-{train.id}", kept, held_out)


def read_split(images: Path, annotations: Path) -> SceneSplit:
    """Read one COCO json and check it against the images' folder.

    Boxes are clipped to their image; one of which nothing is left is dropped and counted.
    Category numbers may have gaps: labels are contiguous, in the order of the numbers.

    Raises:
        DataError: If the json is missing, of another layout or without objects, or an image that
            it names is not in ``images``.
    """
    document = _read_document(annotations)
    try:
        split = _parse(document, images, annotations)
        return dataclasses.replace(split, fingerprint=_fingerprint(split, images, annotations))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{annotations} is not COCO's layout ({type(error).__name__}: {error}). An image "
            "needs id, file_name, height, width; an annotation image_id, category_id, bbox of 4."
        ) from error


def _read_document(annotations: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(annotations.read_bytes())
    except OSError as error:
        raise DataError(f"{annotations} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise DataError(f"{annotations} is no json: {error}.") from error
    expected = ("images", "annotations", "categories")
    if not isinstance(document, dict) or any(key not in document for key in expected):
        found = ", ".join(map(str, list(document)[:6])) if isinstance(document, dict) else "a list"
        raise DataError(
            f"{annotations} is not COCO's layout: expected a dictionary with "
            f"{', '.join(expected)}, found {found}."
        )
    return document


def _parse(document: Mapping[str, Any], images: Path, annotations: Path) -> SceneSplit:
    categories = sorted(document["categories"], key=lambda category: int(category["id"]))
    labels = {int(category["id"]): label for label, category in enumerate(categories)}
    _refuse_twice(annotations, "category", [int(each["id"]) for each in categories])
    _refuse_twice(annotations, "image", [int(each["id"]) for each in document["images"]])
    by_image: dict[int, list[Any]] = {int(image["id"]): [] for image in document["images"]}
    for found in document["annotations"]:
        image, category = int(found["image_id"]), int(found["category_id"])
        if image not in by_image or category not in labels:
            raise DataError(
                f"{annotations}: annotation {found.get('id')} is of image {image} and "
                f"category {category}, which the json does not list both."
            )
        by_image[image].append(found)
    names = _keypoint_names(categories)
    scenes = tuple(
        _scene(image, by_image[int(image["id"])], labels, images, num_keypoints=len(names))
        for image in document["images"]
    )
    _require_files(annotations, images, scenes)
    num_kept = sum(len(scene.labels) for scene in scenes)
    if num_kept == 0:
        raise DataError(f"{annotations} holds no objects in its {len(scenes)} images.")
    return SceneSplit(
        annotations.stem,
        tuple(str(category["name"]) for category in categories),
        tuple(labels),
        scenes,
        len(document["annotations"]) - num_kept,
        keypoint_names=names,
        keypoint_flips=_flips(names),
        frequencies=tuple(str(each["frequency"]) for each in categories if "frequency" in each),
        licences=tuple(str(each.get("name", "")) for each in document.get("licenses") or ()),
    )


def _refuse_twice(annotations: Path, what: str, numbers: list[int]) -> None:
    if len(set(numbers)) < len(numbers):
        twice = next(number for number, count in Counter(numbers).items() if count > 1)
        raise DataError(f"{annotations} has two entries of {what} {twice}. Ids must be unique.")


def _require_files(annotations: Path, images: Path, scenes: Sequence[Scene]) -> None:
    """Find all images by listing their folders: a stat of each takes long on a network disk."""
    present = {
        folder: {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        for folder in {scene.path.parent for scene in scenes}
    }
    missing = [scene.path for scene in scenes if scene.path.name not in present[scene.path.parent]]
    if missing:
        raise DataError(
            f"{annotations} names {len(scenes)} images, of which {len(missing)} are missing, "
            f"such as {missing[0]}. Is {images} the folder of these images?"
        )


def _keypoint_names(categories: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Of the first category that has keypoints; all that have any must have the same."""
    lists = {tuple(map(str, each["keypoints"])) for each in categories if each.get("keypoints")}
    if len(lists) > 1:
        raise ValueError(f"categories with different keypoints: {sorted(map(len, lists))} of each")
    return next(iter(lists), ())


def _flips(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Pairs whose names differ by ``left`` and ``right`` alone."""
    places = {name: place for place, name in enumerate(names)}
    mirrored = {name: name.replace("left", "right") for name in names if "left" in name}
    return tuple(
        (places[name], places[other]) for name, other in mirrored.items() if other in places
    )


def _path_of(image: Mapping[str, Any], folder: Path) -> Path:
    """Where an image lies: LVIS names the folder in its address alone, as ``train2017``."""
    name = image.get("file_name")
    if name is None or (str(name).startswith("COCO_") and "coco_url" in image):
        name = "/".join(str(image["coco_url"]).split("/")[-2:])
    path = Path(str(name))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"file_name '{name}' leads out of {folder}")
    return folder / path


def _scene(
    image: Mapping[str, Any],
    found: Sequence[Mapping[str, Any]],
    labels: Mapping[int, int],
    folder: Path,
    *,
    num_keypoints: int,
) -> Scene:
    height, width = int(image["height"]), int(image["width"])
    boxes = np.array([each["bbox"] for each in found], dtype=np.float64).reshape(len(found), 4)
    if not np.isfinite(boxes).all():
        raise DataError(f"A box of {image['file_name']} is not finite: {boxes.tolist()}.")
    boxes[:, 2:] += boxes[:, :2]
    boxes = boxes.clip(0, [width, height, width, height])
    kept = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
    found = [each for each, keep in zip(found, kept.tolist(), strict=True) if keep]
    boxes = boxes[kept]
    extents = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return Scene(
        image_id=int(image["id"]),
        path=_path_of(image, folder),
        size=(height, width),
        boxes=boxes.astype(np.float32),
        labels=np.array([labels[int(each["category_id"])] for each in found], dtype=np.int64),
        segmentations=tuple(each.get("segmentation") for each in found),
        areas=np.array(
            [each.get("area", extent) for each, extent in zip(found, extents, strict=True)],
            dtype=np.float64,
        ),
        crowd=np.array([bool(each.get("iscrowd", 0)) for each in found], dtype=np.bool_),
        keypoints=_keypoints(found, num_keypoints) if num_keypoints else None,
        extra={key: image[key] for key in EXTRA if key in image},
    )


def _keypoints(found: Sequence[Mapping[str, Any]], count: int) -> NDArray[np.float32]:
    """``(n, count, 3)``; zeros where an object has none."""
    rows = [each.get("keypoints") or [0] * (3 * count) for each in found]
    strange = next((row for row in rows if len(row) != 3 * count), None)
    if strange is not None:
        raise ValueError(f"{len(strange)} numbers of keypoints, expected 3 x {count}")
    keypoints = np.array(rows, dtype=np.float32).reshape(len(found), count, 3)
    if not np.isfinite(keypoints).all():
        raise ValueError("a keypoint is not finite")
    return keypoints


def _fingerprint(split: SceneSplit, images: Path, annotations: Path) -> str:
    names = fingerprint.of_files([scene.path for scene in split.scenes], None, images)
    return f"json:{sha256_of(annotations)[:16]}+{names}"


def _hold_out(split: SceneSplit) -> tuple[SceneSplit, SceneSplit]:
    train = tuple(scene for scene in split.scenes if not _is_held_out(scene.path.name))
    test = tuple(scene for scene in split.scenes if _is_held_out(scene.path.name))
    for name, scenes in (("training", train), ("testing", test)):
        if not any(len(scene.labels) for scene in scenes):
            raise DataError(
                f"{split.id} has {len(split)} images, too few to hold out one in {HOLD_OUT}: no "
                f"object is left for {name}. Name both splits: "
                "coco:TRAIN_IMAGES:TRAIN_JSON:TEST_IMAGES:TEST_JSON."
            )
    return dataclasses.replace(split, scenes=train), dataclasses.replace(split, scenes=test)


def _is_held_out(file_name: str) -> bool:
    digest = hashlib.blake2b(file_name.encode(), digest_size=8, key=b"test").digest()
    return int.from_bytes(digest, "big") % HOLD_OUT == 0
