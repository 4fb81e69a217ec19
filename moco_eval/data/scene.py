"""A scene and what is in it: boxes, classes, masks, keypoints, whatever file told of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moco_eval.data.images import open_image
from moco_eval.data.masks import decode
from moco_eval.errors import DataError

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
