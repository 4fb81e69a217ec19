"""What a detector found, as COCO's results list and as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco_eval.data.masks import encode
from moco_eval.data.scene import SceneSplit
from moco_eval.errors import DivergedError

Result = dict[str, Any]


class Detections(Protocol):
    """What is found in one image: an engine's ``Detections``."""

    @property
    def boxes(self) -> Tensor:
        """``(n, 4)`` left, top, right, bottom, in pixels of the image file."""

    @property
    def scores(self) -> Tensor:
        """``(n,)`` from 0 to 1."""

    @property
    def labels(self) -> Tensor:
        """``(n,)`` from 0."""

    @property
    def masks(self) -> Tensor | None:
        """``(n, height, width)`` bool."""

    @property
    def keypoints(self) -> Tensor | None:
        """``(n, K, 3)`` x, y and score, from the pixels' edges as boxes are."""


def as_results(image_id: int, detections: Detections, split: SceneSplit) -> list[Result]:
    """One image's detections as COCO's results list, with the json's own numbers."""
    boxes = detections.boxes.double()
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)
    results: list[Result] = [
        {
            "image_id": image_id,
            "category_id": split.category_ids[label],
            "bbox": box,
            "score": score,
        }
        for label, box, score in zip(
            detections.labels.tolist(), boxes.tolist(), detections.scores.tolist(), strict=True
        )
    ]
    if detections.masks is not None:
        for result, mask in zip(results, detections.masks.cpu().numpy(), strict=True):
            result["segmentation"] = encode(mask)
    if detections.keypoints is not None:
        # COCO counts keypoints in whole pixels, boxes and masks from the pixels' edges.
        points = detections.keypoints.double() - torch.tensor([0.5, 0.5, 0.0]).to(boxes)
        for result, keypoints in zip(results, points.flatten(1).tolist(), strict=True):
            result["keypoints"] = keypoints
    return results


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of many images, in one array each.

    Attributes:
        scenes: ``(n,)``, each box's scene by its place in the split.
        labels: ``(n,)`` from 0.
        corners: ``(n, 4)`` float64, left, top, right, bottom.
        scores: ``(n,)`` of what is found; of the truth all 1.
        ignored: ``(n,)`` bool, of the truth crowds and what is difficult.
    """

    scenes: NDArray[np.int64]
    labels: NDArray[np.int64]
    corners: NDArray[np.float64]
    scores: NDArray[np.float64]
    ignored: NDArray[np.bool_]

    def __getitem__(self, chosen: NDArray[Any]) -> Boxes:
        return Boxes(
            self.scenes[chosen],
            self.labels[chosen],
            self.corners[chosen],
            self.scores[chosen],
            self.ignored[chosen],
        )

    def __len__(self) -> int:
        return len(self.scenes)


def true_boxes(split: SceneSplit) -> Boxes:
    """All boxes of a split, scene by scene."""
    scenes = split.scenes
    counts = [len(scene.labels) for scene in scenes]
    total = sum(counts)
    return Boxes(
        np.repeat(np.arange(len(scenes)), counts),
        np.concatenate([scene.labels for scene in scenes]).astype(np.int64),
        np.concatenate([scene.boxes for scene in scenes]).astype(np.float64).reshape(total, 4),
        np.ones(total),
        np.concatenate([scene.crowd | scene.difficult for scene in scenes]),
    )


def found_boxes(split: SceneSplit, results: Sequence[Mapping[str, Any]]) -> Boxes:
    """The boxes of COCO's results list, scene by scene.

    Raises:
        DivergedError: If a score, a box or a keypoint is no finite number.
    """
    places = {scene.image_id: place for place, scene in enumerate(split.scenes)}
    labels = {number: label for label, number in enumerate(split.category_ids)}
    total = len(results)
    corners = np.array([each["bbox"] for each in results], dtype=np.float64).reshape(total, 4)
    corners[:, 2:] += corners[:, :2]
    boxes = Boxes(
        np.array([places[each["image_id"]] for each in results], dtype=np.int64),
        np.array([labels[each["category_id"]] for each in results], dtype=np.int64),
        corners,
        np.array([each["score"] for each in results], dtype=np.float64),
        np.zeros(total, dtype=np.bool_),
    )
    _refuse_not_finite(split, results, boxes)
    return boxes[np.argsort(boxes.scenes, kind="stable")]


def _refuse_not_finite(
    split: SceneSplit, results: Sequence[Mapping[str, Any]], boxes: Boxes
) -> None:
    points = [each["keypoints"] for each in results if "keypoints" in each]
    finite = {"score": np.isfinite(boxes.scores), "box": np.isfinite(boxes.corners).all(axis=1)}
    if points:
        finite["keypoint"] = np.isfinite(np.array(points, dtype=np.float64)).all(axis=1)
    for name, good in finite.items():
        if good.all():
            continue
        first = int(np.argmin(good))
        scene = split.scenes[boxes.scenes[first]]
        raise DivergedError(
            f"A {name} of {int((~good).sum())} of {len(results)} detections is not finite, first "
            f"in {scene.path.name} (image {scene.image_id}): score {boxes.scores[first]}, box "
            f"{results[first]['bbox']}. The detector has diverged: try a smaller learning rate, "
            "--set lr=..."
        )
