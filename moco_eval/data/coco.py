"""Detection data in COCO's json format: scenes with boxes, classes and masks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moco_eval.data import fingerprint
from moco_eval.data.images import open_image
from moco_eval.data.masks import decode
from moco_eval.errors import DataError, UsageError
from moco_eval.files import sha256_of

# IMAGES:JSON holds out one image in this many for testing.
HOLD_OUT = 5
# What LVIS says of an image besides, for its scoring.
EXTRA = ("neg_category_ids", "not_exhaustive_category_ids")
# Whose average precision the field reports on a data set.
Scoring = Literal["coco", "voc07", "voc12", "lvis", "cityscapes"]


@dataclass(frozen=True, eq=False)
class Scene:
    """One image and what is in it.

    Attributes:
        image_id: As in the json.
        path: The image file.
        size: Its height and width, in pixels.
        boxes: ``(n, 4)`` float32, left, top, right, bottom, in pixels and within the image.
        labels: ``(n,)`` int64, contiguous from 0.
        segmentations: Polygons or run lengths as in the json; None where there is none.
        areas: ``(n,)`` in pixels, as annotated: COCO tells small objects from large ones by it.
        crowd: ``(n,)`` bool, regions of many objects: never trained on, ignored by AP.
        keypoints: ``(n, K, 3)`` float32: x, y and visibility, 0 to 2; None where there are none.
        difficult: ``(n,)`` bool, VOC's: trained on, ignored by its AP; none where left out.
        extra: What the json says of the image besides, such as LVIS's ``neg_category_ids``.
    """

    image_id: int
    path: Path
    size: tuple[int, int]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    segmentations: tuple[Any, ...]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    keypoints: NDArray[np.float32] | None = None
    difficult: NDArray[np.bool_] = None  # type: ignore[assignment]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.difficult is None:
            object.__setattr__(self, "difficult", np.zeros(len(self.labels), dtype=np.bool_))

    def image(self) -> Image.Image:
        """The decoded image, RGB.

        Raises:
            DataError: If the file is damaged or of another size than the json says.
        """
        image = open_image(self.path).convert("RGB")
        height, width = self.size
        if image.size != (width, height):
            raise DataError(
                f"{self.path} is {image.width}x{image.height}, but its annotations are for "
                f"{width}x{height}."
            )
        return image

    def masks(self) -> NDArray[np.bool_]:
        """Pixel masks ``(n, height, width)`` of all objects.

        Raises:
            DataError: If an object has no segmentation, or one that cannot be decoded.
        """
        masks = np.zeros((len(self.labels), *self.size), dtype=np.bool_)
        for mask, segmentation in zip(masks, self.segmentations, strict=True):
            if not segmentation:
                raise DataError(
                    f"An object in {self.path} has no segmentation. Its masks can neither be "
                    "trained nor scored; its boxes can: moco-eval detect."
                )
            try:
                mask[:] = decode(segmentation, self.size)
            except DataError as error:
                raise DataError(f"{self.path}: {error}") from error
        return masks


@dataclass(frozen=True, eq=False)
class SceneSplit:
    """One part of a detection data set.

    Attributes:
        id: The json's name, without its suffix.
        classes: By label.
        category_ids: The json's number of each class.
        scenes: In the json's order; scenes without objects included.
        num_dropped: Objects left out because nothing of their box lies within the image.
        keypoint_names: Of each object, where it has keypoints.
        keypoint_flips: Pairs of them that a mirror exchanges.
        frequencies: LVIS's ``r``, ``c`` or ``f`` of each class.
        licences: Of the images, as the json names them.
        fingerprint: Of the json, and of the images' names and sizes.
    """

    id: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    scenes: tuple[Scene, ...]
    num_dropped: int
    keypoint_names: tuple[str, ...] = ()
    keypoint_flips: tuple[tuple[int, int], ...] = ()
    frequencies: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.scenes)

    def truth(self) -> dict[str, Any]:
        """The split as a COCO document, with the json's own image and category numbers."""
        images = [
            {
                "id": scene.image_id,
                "file_name": scene.path.name,
                "height": scene.size[0],
                "width": scene.size[1],
                **scene.extra,
            }
            for scene in self.scenes
        ]
        categories: list[dict[str, Any]] = [
            {"id": number, "name": name}
            for number, name in zip(self.category_ids, self.classes, strict=True)
        ]
        for category, frequency in zip(categories, self.frequencies, strict=False):
            category["frequency"] = frequency
        objects = [found for scene in self.scenes for found in self._annotations(scene)]
        numbered = [{"id": number, **found} for number, found in enumerate(objects, start=1)]
        return {"images": images, "categories": categories, "annotations": numbered}

    def _annotations(self, scene: Scene) -> list[dict[str, Any]]:
        corners = scene.boxes.astype(np.float64)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        return [
            {
                "image_id": scene.image_id,
                "category_id": self.category_ids[scene.labels[index]],
                "bbox": boxes[index].tolist(),
                "area": float(scene.areas[index]),
                "iscrowd": int(scene.crowd[index]),
                "segmentation": scene.segmentations[index] or [],
                **self._annotated_keypoints(scene, index),
            }
            for index in range(len(scene.labels))
        ]

    def _annotated_keypoints(self, scene: Scene, index: int) -> dict[str, Any]:
        if scene.keypoints is None:
            return {}
        points = scene.keypoints[index]
        return {
            "keypoints": points.astype(np.float64).flatten().tolist(),
            "num_keypoints": int((points[:, 2] > 0).sum()),
        }


@dataclass(frozen=True, eq=False)
class SceneData:
    """A detection data set: what ``detect`` and ``segment`` take."""

    id: str
    classes: tuple[str, ...]
    train: SceneSplit
    test: SceneSplit
    fingerprint: str
    scoring: Scoring = "coco"

    def describe(self) -> list[str]:
        """What is in it, in lines that people read: counts, rare classes, licences."""
        lines = []
        for name, split in (("train", self.train), ("test", self.test)):
            counts = np.zeros(len(self.classes), dtype=np.int64)
            for scene in split.scenes:
                counts += np.bincount(scene.labels[~scene.crowd], minlength=len(counts))
            num_crowds = sum(int(scene.crowd.sum()) for scene in split.scenes)
            told = f"{name}: {len(split):,} images, {counts.sum():,} objects"
            told += f", {num_crowds:,} crowds" if num_crowds else ""
            told += f", {split.num_dropped:,} outside their image" if split.num_dropped else ""
            few = [f"{self.classes[i]} {counts[i]}" for i in np.argsort(counts, kind="stable")[:3]]
            lines.append(f"{told}; {len(self.classes)} classes, the rarest: {', '.join(few)}.")
        licences = sorted({*self.train.licences, *self.test.licences})
        return [*lines, f"Licences of the images: {'; '.join(licences)}."] if licences else lines


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


def of_splits(
    name: str, train: SceneSplit, test: SceneSplit, *, scoring: Scoring = "coco"
) -> SceneData:
    """A data set of two splits.

    Raises:
        DataError: If they hold different classes, or nothing to score.
    """
    if train.classes != test.classes:
        raise DataError(
            f"{train.id} and {test.id} hold different classes, or in another order: "
            f"{', '.join(train.classes[:6])} ... against {', '.join(test.classes[:6])} ..."
        )
    hashes = f"{train.fingerprint}/{test.fingerprint}"
    return SceneData(name, train.classes, train, test, hashes, scoring)


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
