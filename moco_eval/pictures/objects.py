"""What is in an image and what was detected in it, as pictures show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# What counts as an answer: F1 is taken at this score.
MIN_SCORE = 0.5


@dataclass(frozen=True, eq=False)
class Objects:
    """What is in one image, or was detected in it; the most important first.

    Attributes:
        boxes: ``(n, 4)`` left, top, right, bottom in pixels.
        labels: ``(n,)``.
        scores: ``(n,)``; None of what is there.
        notes: ``(n,)``: what is special about each, such as a crowd; mostly empty.
        masks: ``(n, H, W)`` bool, or None.
        keypoints: ``(n, K, 3)``: x, y and whether it is there, or None.
        num_weak: Detections that were left out as their scores are too low.
    """

    boxes: Array
    labels: Array
    scores: Array | None
    notes: tuple[str, ...]
    masks: Array | None
    keypoints: Array | None
    num_weak: int = 0


def present(scene: Any, *, with_masks: bool) -> Objects:
    """What is in a scene, the largest first.

    Args:
        scene: As of ``draw``.
        with_masks: Whether masks are wanted; without one of them there are none.
    """
    boxes = np.asarray(scene.boxes, np.float64).reshape(-1, 4)
    order = np.argsort(-(boxes[:, 2:] - boxes[:, :2]).prod(axis=1), kind="stable")
    keypoints = getattr(scene, "keypoints", None)
    masks = scene.masks() if with_masks and all(scene.segmentations) else None
    return Objects(
        boxes[order],
        np.asarray(scene.labels)[order],
        None,
        tuple(notes_on(scene)[order].tolist()),
        None if masks is None else masks[order],
        None if keypoints is None else np.asarray(keypoints)[order],
    )


def notes_on(scene: Any) -> Array:
    """What is special about each object, as scores pass it over; mostly empty."""
    difficult = getattr(scene, "difficult", np.zeros_like(scene.crowd))
    return np.where(scene.crowd, "crowd", np.where(difficult, "difficult", ""))


def detected(results: Sequence[Mapping[str, Any]], category_ids: Sequence[int]) -> Objects:
    """What was detected in one image with a score of at least 0.5, the surest first."""
    label_of = {number: label for label, number in enumerate(category_ids)}
    kept = [result for result in results if result["score"] >= MIN_SCORE]
    # Stable: of as sure ones the earlier comes first.
    kept.sort(key=lambda result: -result["score"])
    boxes = np.array([result["bbox"] for result in kept], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    has_masks = kept and all("segmentation" in result for result in kept)
    has_keypoints = kept and all("keypoints" in result for result in kept)
    return Objects(
        boxes,
        np.array([label_of[result["category_id"]] for result in kept], np.int64),
        np.array([result["score"] for result in kept], np.float64),
        ("",) * len(kept),
        np.stack([_decode(result["segmentation"]) for result in kept]) if has_masks else None,
        np.array([result["keypoints"] for result in kept], np.float64).reshape(len(kept), -1, 3)
        if has_keypoints
        else None,
        num_weak=len(results) - len(kept),
    )


def _decode(runs: Mapping[str, Any]) -> Array:
    from faster_coco_eval.core import mask as coco_mask

    mask: Array = coco_mask.decode(dict(runs)).astype(bool)
    return mask
