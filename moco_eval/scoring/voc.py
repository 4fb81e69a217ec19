"""PASCAL VOC's average precision of boxes, as Detectron2 and the papers that use it report it.

Everingham et al., IJCV 2010, section 4.2 (2007: the mean of 11 precisions), and IJCV 2015, section
3.5 (2012: the area). As Detectron2's PascalVOCDetectionEvaluator reads the devkit: boxes end at the
pixel that they name, a found box is compared with the one true box of its class that it overlaps
most, and scores count with three decimals, coordinates with one. AP is the mean over IoU 0.5 to
0.95, which the devkit does not have.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from moco_eval.data.scene import SceneSplit
from moco_eval.errors import DataError
from moco_eval.scoring.results import Boxes, true_boxes
from moco_eval.scoring.scores import Scores

Floats = NDArray[np.float64]
Year = Literal["voc07", "voc12"]

THRESHOLDS = np.arange(50, 100, 5) / 100
# 0.1 has no exact binary form: a recall of exactly 0.3 is below the fourth of these, upstream too.
ELEVEN_RECALLS = np.arange(0.0, 1.1, 0.1)
RECALLS = np.linspace(0, 1, 101)


def score(split: SceneSplit, found: Boxes, year: Year) -> Scores:
    """AP, AP50 and AP75 of ``found``; what is difficult is neither missed nor wrongly found.

    Unlike upstream: detections of equal scores keep their order, so that numbers are the same on
    every machine; a class that the truth does not show does not count, instead of making all nan.

    Raises:
        DataError: If nothing in the truth counts.
    """
    true, found = _as_devkit(true_boxes(split)), _as_devkit(found)
    num_classes = len(split.classes)
    ap = np.full((num_classes, len(THRESHOLDS)), np.nan)
    curves = np.full((num_classes, len(RECALLS)), np.nan)
    for label in range(num_classes):
        ranked = found[found.labels == label]
        ranked = ranked[np.argsort(-ranked.scores, kind="stable")]
        own = true[true.labels == label]
        num_true = int((~own.ignored).sum())
        if not num_true:
            continue
        nearest, overlap = _nearest(own, ranked)
        for place, threshold in enumerate(THRESHOLDS.tolist()):
            recall, precision = _curve(own, nearest, overlap > threshold)
            ap[label, place] = _average(recall, precision, year)
            if place == 0:
                curves[label] = _best_from(RECALLS, recall, precision)
    if np.isnan(ap).all():
        raise DataError(f"{split.id} holds no object that counts: none, or all are difficult.")
    means = 100 * np.nanmean(ap, axis=0)
    metrics = {"AP": float(means.mean()), "AP50": float(means[0]), "AP75": float(means[5])}
    drawn = {
        "AP_by_class": 100 * ap.mean(axis=1),
        "precision": curves,
        # The devkit does not tell small objects from large ones.
        "AP_by_size": np.full(3, np.nan),
    }
    points = "mean of 11 precisions" if year == "voc07" else "area under the precision"
    return Scores(metrics, drawn, {"scoring": f"PASCAL VOC 20{year[3:]}, {points}"})


def _as_devkit(boxes: Boxes) -> Boxes:
    """Pixels from 1, the last one included, rounded as Detectron2 writes them."""
    corners = boxes.corners.astype(np.float32) + np.array([1, 1, 0, 0], np.float32)
    return Boxes(
        boxes.scenes,
        boxes.labels,
        corners.astype(np.float64).round(1),
        boxes.scores.round(3),
        boxes.ignored,
    )


def _nearest(true: Boxes, found: Boxes) -> tuple[NDArray[np.int64], Floats]:
    """The true box of its scene that each found box overlaps most, and by how much.

    Where a scene has none, the overlap is -inf.
    """
    nearest = np.zeros(len(found), dtype=np.int64)
    overlap = np.full(len(found), -np.inf)
    starts = np.searchsorted(true.scenes, found.scenes, side="left")
    ends = np.searchsorted(true.scenes, found.scenes, side="right")
    # Round by round with the first, the second ... true box of the scene; the first wins a tie.
    for turn in range(int((ends - starts).max(initial=0))):
        members = np.flatnonzero(starts + turn < ends)
        ones = starts[members] + turn
        iou = _overlap(found.corners[members], true.corners[ones])
        better = iou > overlap[members]
        nearest[members[better]] = ones[better]
        overlap[members[better]] = iou[better]
    return nearest, overlap


def _overlap(first: Floats, second: Floats) -> Floats:
    """Intersection over union of each pair, boxes one pixel wider and higher than they say."""
    upper, lower = np.minimum(first[:, 2:], second[:, 2:]), np.maximum(first[:, :2], second[:, :2])
    common = (upper - lower + 1).clip(0).prod(axis=1)
    areas = [(boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1) for boxes in (first, second)]
    overlap: Floats = common / (areas[0] + areas[1] - common)
    return overlap


def _curve(
    true: Boxes, nearest: NDArray[np.int64], overlaps: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Recall and precision after each found box, in order of the scores.

    The first that overlaps a true box enough is right, a second one is wrong; one whose nearest
    is difficult is neither.
    """
    is_difficult = overlaps & true.ignored[nearest]
    right = np.zeros(len(nearest), dtype=np.bool_)
    candidates = np.flatnonzero(overlaps & ~is_difficult)
    right[candidates[np.unique(nearest[candidates], return_index=True)[1]]] = True
    num_right, num_wrong = right.cumsum(), (~right & ~is_difficult).cumsum()
    recall = num_right / float((~true.ignored).sum())
    # The first found may be difficult: nothing right of nothing.
    precision = num_right / np.maximum(num_right + num_wrong, np.finfo(np.float64).eps)
    return recall, precision


def _average(recall: Floats, precision: Floats, year: Year) -> float:
    if year == "voc07":
        return float((_best_from(ELEVEN_RECALLS, recall, precision) / 11).sum())
    steps = np.diff(recall, prepend=0.0)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((steps * envelope).sum())


def _best_from(recalls: Floats, recall: Floats, precision: Floats) -> Floats:
    """The greatest precision of all that reach each of ``recalls``; 0 where none does."""
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    best: Floats = envelope[np.searchsorted(recall, recalls, side="left")]
    return best
