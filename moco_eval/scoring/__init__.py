"""How good detections, masks, keypoints and label maps are: the numbers that papers report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from moco_eval.data.scene import SceneSplit
from moco_eval.errors import DataError
from moco_eval.scoring import agreement, cityscapes, coco, voc
from moco_eval.scoring.coco import Kind
from moco_eval.scoring.results import Result, as_results, found_boxes, true_boxes
from moco_eval.scoring.scores import Scores

__all__ = ["Kind", "Result", "Scores", "Scoring", "as_results", "score"]

Scoring = Literal["coco", "voc07", "voc12", "lvis", "cityscapes"]


def score(
    split: SceneSplit,
    results: Sequence[Result],
    kind: Kind,
    scoring: Scoring = "coco",
    *,
    max_detections: int = 100,
) -> Scores:
    """How well ``results`` find the objects of ``split``.

    VOC's own numbers are of boxes, Cityscapes' of masks; of anything else in their data sets COCO's
    are given, and of keypoints always.

    Args:
        split: The truth.
        results: COCO's results list, as ``as_results`` makes it.
        kind: What must overlap: boxes, masks (in metrics ``_mask``) or keypoints (``_kp``).
        scoring: Whose numbers.
        max_detections: So many of an image count, of each class; with ``lvis`` of all classes
            together. VOC and Cityscapes count all, COCO's keypoints 20.

    Returns:
        ``AP`` first, then what its authors report besides. Drawn: ``AP_by_class`` ``(C,)``,
        ``precision`` ``(C, 101)`` on 0-1 at IoU 0.5 and recalls of 0 to 1, ``AP_by_size`` of small,
        medium and large objects, nan where there are none; ``box_confusion`` and ``F1_by_image`` as
        in ``agreement.py``. COCO's average recalls are among the details.

    Raises:
        DataError: If the truth has nothing that counts, or an object of it no mask or keypoints.
        DivergedError: If a score, a box or a keypoint is no finite number.
    """
    _require_truth(split, kind)
    found = found_boxes(split, results)
    if kind == "bbox" and scoring in ("voc07", "voc12"):
        scores = voc.score(split, found, scoring)
    elif kind == "segm" and scoring == "cityscapes":
        scores = cityscapes.score(split, results)
    elif kind != "keypoints" and scoring == "lvis":
        scores = coco.score_lvis(split, results, kind, max_detections)
    else:
        scores = coco.score(split, results, kind, max_detections)
    compared = agreement.compare(
        true_boxes(split), found, num_scenes=len(split), num_classes=len(split.classes)
    )
    pictured = {"box_confusion": compared.box_confusion, "F1_by_image": compared.F1_by_image}
    return replace(scores, drawn={**scores.drawn, **pictured})


def _require_truth(split: SceneSplit, kind: Kind) -> None:
    for scene in split.scenes:
        if kind == "segm" and not all(scene.segmentations):
            raise DataError(
                f"An object in {scene.path} has no segmentation. Its masks cannot be scored; its "
                "boxes can: moco-eval detect."
            )
        if kind == "keypoints" and scene.keypoints is None and len(scene.labels):
            raise DataError(f"The objects in {scene.path} have no keypoints to score against.")
