"""Cityscapes' average precision of masks.

Cordts et al., arXiv:1604.01685, section 4.2; mcordts/cityscapesScripts, cityscapesscripts/
evaluation/evalInstanceLevelSemanticLabeling.py. Unlike COCO's it counts all detections of an image,
leaves out objects of less than 100 pixels, and ignores what lies in groups, in small objects and
on pixels without a class; precision and recall are joined by straight lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco_eval.data.scene import Scene, SceneSplit
from moco_eval.errors import DataError
from moco_eval.scoring.results import Result
from moco_eval.scoring.scores import Scores

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# The same numbers as upstream's, to the last bit: an overlap must exceed them.
THRESHOLDS = np.arange(0.5, 1.0, 0.05)
MIN_PIXELS = 100
RECALLS = np.linspace(0, 1, 101)
# What a scene says of pixels without a class: run lengths, under this name in ``Scene.extra``.
VOID = "void"


@dataclass(frozen=True, eq=False)
class _Class:
    """How the masks of one class that were found in one image go with the true ones.

    Attributes:
        scores: ``(n,)`` of what is found.
        overlaps: ``(n, m)`` intersection over union with each true mask that counts: no group, and
            large enough.
        ignorable: ``(n,)`` the share of each found mask that lies where nothing counts.
    """

    scores: Floats
    overlaps: Floats
    ignorable: Floats


def score(split: SceneSplit, results: Sequence[Result]) -> Scores:
    """``AP_mask`` and ``AP50_mask``, means over the classes that the truth shows.

    A scene's crowds are its groups, and its ``extra["void"]`` the run lengths of its pixels without
    a class; where a scene says nothing of them, all its pixels count.

    Raises:
        DataError: If nothing in the truth counts.
    """
    by_image: dict[int, list[Result]] = {scene.image_id: [] for scene in split.scenes}
    for each in results:
        by_image[each["image_id"]].append(each)
    matched: list[list[_Class]] = [[] for _ in split.classes]
    for scene in split.scenes:
        for label, one in _match(scene, by_image[scene.image_id], split.category_ids):
            matched[label].append(one)
    ap = np.full((len(split.classes), len(THRESHOLDS)), np.nan)
    curves = np.full((len(split.classes), len(RECALLS)), np.nan)
    for label, images in enumerate(matched):
        if not any(image.overlaps.shape[1] for image in images):
            continue
        for place, threshold in enumerate(THRESHOLDS.tolist()):
            recall, precision = _curve(images, threshold)
            ap[label, place] = _area(recall, precision)
            if place == 0:
                curves[label] = _best_from(recall, precision)
    if np.isnan(ap).all():
        raise DataError(f"{split.id} holds no object of {MIN_PIXELS} pixels that is no group.")
    metrics = {
        "AP_mask": 100 * float(np.nanmean(ap)),
        "AP50_mask": 100 * float(np.nanmean(ap[:, 0])),
    }
    drawn = {
        "AP_by_class": 100 * ap.mean(axis=1),
        "precision": curves,
        # Cityscapes does not tell small objects from large ones.
        "AP_by_size": np.full(3, np.nan),
    }
    return Scores(metrics, drawn, {"scoring_mask": "Cityscapes"})


def _match(
    scene: Scene, results: Sequence[Result], category_ids: Sequence[int]
) -> list[tuple[int, _Class]]:
    """Each class that is in the scene or was found there."""
    from faster_coco_eval.core import mask as coco_mask

    height, width = scene.size
    true = [coco_mask.segmToRle(each, width, height) for each in scene.segmentations]
    # What has no pixel was not found.
    results = [each for each in results if coco_mask.area(each["segmentation"])]
    found = [each["segmentation"] for each in results]
    labels = np.array([category_ids.index(each["category_id"]) for each in results], dtype=int)
    scores = np.array([each["score"] for each in results], dtype=np.float64)
    void = [scene.extra[VOID]] if VOID in scene.extra else []
    in_void = _common(found, void).sum(axis=1)
    matched = []
    for label in np.union1d(labels, scene.labels).tolist():
        ours, theirs = np.flatnonzero(labels == label), np.flatnonzero(scene.labels == label)
        masks, truths = [found[i] for i in ours], [true[i] for i in theirs]
        common = _common(masks, truths)
        areas, true_areas = _areas(masks), _areas(truths)
        groups, small = scene.crowd[theirs], true_areas < MIN_PIXELS
        # Upstream counts what lies in a small group twice.
        ignorable = in_void[ours] + common @ groups + common @ small
        overlaps = common / (areas[:, None] + true_areas - common)
        one = _Class(scores[ours], overlaps[:, ~groups & ~small], ignorable / areas)
        matched.append((label, one))
    return matched


def _areas(masks: list[Any]) -> Floats:
    from faster_coco_eval.core import mask as coco_mask

    return np.array(coco_mask.area(masks), dtype=np.float64) if masks else np.zeros(0)


def _common(found: list[Any], true: list[Any]) -> Floats:
    """Pixels that each found mask has in common with each true one, ``(n, m)``."""
    from faster_coco_eval.core import mask as coco_mask

    if not found or not true:
        return np.zeros((len(found), len(true)))
    # With what COCO calls a crowd, the union is the found mask.
    shares = np.asarray(coco_mask.iou(found, true, [1] * len(true)))
    common: Floats = np.rint(shares * _areas(found)[:, None])
    return common


def _curve(images: Sequence[_Class], threshold: float) -> tuple[Floats, Floats]:
    """Recall and precision from the lowest score to the highest, then recall 0 and precision 1."""
    parts = [_judge(image, threshold) for image in images]
    scores, right = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(scores, kind="stable")
    scores, right = scores[order], right[order]
    # Detections of one score are one point of the curve: of all that score so or higher.
    starts = np.unique(scores, return_index=True)[1]
    num_right = right[::-1].cumsum()[::-1][starts]
    num_true = sum(image.overlaps.shape[1] for image in images)
    recall = np.append(num_right / num_true, 0.0)
    precision = np.append(num_right / (len(scores) - starts), 1.0)
    return recall, precision


def _judge(image: _Class, threshold: float) -> tuple[Floats, Bools]:
    """The scores of what was found and counts, and whether it is right."""
    hits = image.overlaps > threshold
    # True masks do not overlap, and the threshold is a half or more: one true mask at most.
    right = np.zeros(len(hits), dtype=np.bool_)
    if hits.size:
        best = np.where(hits, image.scores[:, None], -np.inf).argmax(axis=0)
        right[best[hits.any(axis=0)]] = True
    # A second mask of an object is wrong wherever it lies; one that finds nothing, where it counts.
    kept = hits.any(axis=1) | (image.ignorable <= threshold)
    return image.scores[kept], right[kept]


def _area(recall: Floats, precision: Floats) -> float:
    """Each precision times half the recall between its two neighbours."""
    padded = np.concatenate([recall[:1], recall, [0.0]])
    return float(precision @ (padded[:-2] - padded[2:]) / 2)


def _best_from(recall: Floats, precision: Floats) -> Floats:
    """The greatest precision of all that reach each of ``RECALLS``; 0 where none does."""
    # The last point of the curve was added to it: nothing has that precision.
    rising, envelope = recall[-2::-1], np.maximum.accumulate(precision[:-1])[::-1]
    best: Floats = np.append(envelope, 0.0)[np.searchsorted(rising, RECALLS, side="left")]
    return best
