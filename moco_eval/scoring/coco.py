"""COCO's average precision of boxes, masks and keypoints, and LVIS's, by faster-coco-eval.

cocodataset/cocoapi, PythonAPI/pycocotools/cocoeval.py; Gupta et al., arXiv:1908.03195, section 3.1
and lvis-dataset/lvis-api, lvis/eval.py. Precision is read off at 101 recalls and averaged over
IoU 0.5 to 0.95 and over the classes that the truth shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from moco_eval.data.scene import SceneSplit
from moco_eval.errors import DataError
from moco_eval.scoring.results import Result
from moco_eval.scoring.scores import Scores

Kind = Literal["bbox", "segm", "keypoints"]
Array = NDArray[np.float64]

SUFFIX = {"bbox": "", "segm": "_mask", "keypoints": "_kp"}
# Where a result has both, its size is its mask's; of keypoints Detectron2 keeps the box's.
_FIELDS = {"bbox": ("bbox",), "segm": ("segmentation",), "keypoints": ("keypoints", "bbox")}
SIZES = ("small", "medium", "large")
FREQUENCIES = ("r", "c", "f")
MAX_KEYPOINT_DETECTIONS = 20
# COCO has sigmas for the 17 points of a person; points of anything else get their mean.
NUM_COCO_KEYPOINTS = 17
OTHER_SIGMA = 0.0636
# So many pairs of an image and a class are scored at once, in some 600 MB.
MAX_CELLS = 1 << 19


@dataclass(frozen=True, eq=False)
class _Curves:
    """What the evaluator counted; -1 where the truth has nothing of a class and size.

    Attributes:
        precision: ``(T, R, C, A)`` by IoU, recall, class and size.
        recall: ``(T, C, A, D)``; D by the number of detections that count.
    """

    precision: Array
    recall: Array


def score(split: SceneSplit, results: Sequence[Result], kind: Kind, max_detections: int) -> Scores:
    """AP, AP50, AP75, and AP by the size of objects.

    A metric is left out where the truth has nothing to measure it on, such as large objects.

    Raises:
        DataError: If the truth has nothing that counts.
    """
    truth = split.truth()
    details: dict[str, Any] = {f"scoring{SUFFIX[kind]}": "COCO"}
    sigmas = None
    if kind == "keypoints":
        num_keypoints = len(split.keypoint_names)
        max_detections = MAX_KEYPOINT_DETECTIONS
        if num_keypoints != NUM_COCO_KEYPOINTS:
            sigmas = [OTHER_SIGMA] * num_keypoints
            details["keypoint_sigmas"] = f"{OTHER_SIGMA} for all {num_keypoints}: not COCO's points"
    fewer = [] if kind == "keypoints" else [count for count in (1, 10) if count < max_detections]
    counts = [*fewer, max_detections]
    curves = _evaluate(truth, results, kind, counts, sigmas=sigmas)
    details[f"recall{SUFFIX[kind]}"] = _recalls(curves, kind, counts)
    return Scores(_metrics(curves, kind, split), _drawn(curves, kind), details)


def score_lvis(
    split: SceneSplit, results: Sequence[Result], kind: Kind, max_detections: int
) -> Scores:
    """As COCO's, but of what an image's annotators looked for, and by how rare a class is.

    Detections of a class that is neither in an image nor among its ``neg_category_ids`` do not
    count; where a class is among its ``not_exhaustive_category_ids``, those that match nothing do
    not. An image's ``max_detections`` are its best of all classes.

    Raises:
        DataError: If the truth has nothing that counts, or its classes have no frequency.
    """
    truth = split.truth()
    groups = [each.get("frequency") for each in truth["categories"]]
    if not set(groups) <= set(FREQUENCIES):
        raise DataError(
            f"{split.id} is scored as LVIS, whose categories each have a frequency of r, c or f; "
            f"found {', '.join(sorted({str(group) for group in groups}))}."
        )
    judged = {(each["image_id"], each["category_id"]) for each in truth["annotations"]}
    for image in truth["images"]:
        judged |= {(image["id"], number) for number in image.get("neg_category_ids", ())}
    # The library leaves the others out too, but fails at an image whose detections are all such.
    best = _best_of_each_image(results, max_detections)
    kept = [each for each in best if (each["image_id"], each["category_id"]) in judged]
    curves = _evaluate(truth, kept, kind, [max_detections], lvis_style=True)
    metrics = _metrics(curves, kind, split)
    for group in FREQUENCIES:
        members = [place for place, each in enumerate(groups) if each == group]
        metrics[f"AP{group}{SUFFIX[kind]}"] = _percent(curves.precision[:, :, members, 0])
    details = {f"scoring{SUFFIX[kind]}": "LVIS"}
    return Scores(_known(metrics), _drawn(curves, kind), details)


def _best_of_each_image(results: Sequence[Result], max_detections: int) -> list[Result]:
    ranked = sorted(results, key=lambda each: (each["image_id"], -each["score"]))
    by_image = groupby(ranked, key=lambda each: each["image_id"])
    return [each for _, found in by_image for each in list(found)[:max_detections]]


def _evaluate(
    truth: dict[str, Any],
    results: Sequence[Result],
    kind: Kind,
    counts: list[int],
    *,
    sigmas: list[float] | None = None,
    lvis_style: bool = False,
) -> _Curves:
    from faster_coco_eval import COCO, COCOeval_faster

    fields = ("image_id", "category_id", "score", *_FIELDS[kind])
    # The library writes into what it is given.
    found = [{name: each[name] for name in fields if name in each} for each in results]
    reference = COCO(truth)
    detections = reference.loadRes(found)
    classes = [each["id"] for each in truth["categories"]]
    assert classes == sorted(classes), "classes are in order of their numbers"
    # The library has a list for each image and class; LVIS's would not fit into memory at once.
    step = max(1, MAX_CELLS // len(truth["images"]))
    parts = []
    for start in range(0, len(classes), step):
        scorer = COCOeval_faster(
            reference, detections, iouType=kind, kpt_oks_sigmas=sigmas, lvis_style=lvis_style
        )
        scorer.params.maxDets = counts
        scorer.params.catIds = classes[start : start + step]
        scorer.evaluate()
        scorer.accumulate()
        parts.append((scorer.eval["precision"][..., -1], scorer.eval["recall"]))
    precision, recall = zip(*parts, strict=True)
    return _Curves(np.concatenate(precision, axis=2), np.concatenate(recall, axis=1))


def _metrics(curves: _Curves, kind: Kind, split: SceneSplit) -> dict[str, float]:
    at_50, at_75 = curves.precision[0, :, :, 0], curves.precision[5, :, :, 0]
    values = {
        "AP": _percent(curves.precision[..., 0]),
        "AP50": _percent(at_50),
        "AP75": _percent(at_75),
        **{
            f"AP{size[0]}": value
            for size, value in zip(SIZES, _by_size(curves, kind).tolist(), strict=True)
        },
    }
    if np.isnan(values["AP"]):
        raise DataError(f"{split.id} holds no object that counts in the AP of {kind}.")
    return _known({f"{name}{SUFFIX[kind]}": value for name, value in values.items()})


def _drawn(curves: _Curves, kind: Kind) -> dict[str, NDArray[Any]]:
    precision = np.where(curves.precision < 0, np.nan, curves.precision)
    return {
        # Of one class either all or none is known.
        "AP_by_class": 100 * precision[..., 0].mean(axis=(0, 1)),
        "precision": precision[0, :, :, 0].T,
        "AP_by_size": _by_size(curves, kind),
    }


def _recalls(curves: _Curves, kind: Kind, counts: Sequence[int]) -> dict[str, float]:
    """COCO's average recalls, by how many detections count and by size."""
    values = {"AR": curves.recall[:, :, 0, -1]}
    if kind == "keypoints":
        values |= {"AR50": curves.recall[0, :, 0, -1], "AR75": curves.recall[5, :, 0, -1]}
    else:
        values = {f"AR{count}": curves.recall[:, :, 0, d] for d, count in enumerate(counts)}
    for size, name in enumerate(_sizes(kind), start=1):
        values[f"AR{name[0]}"] = curves.recall[:, :, size, -1]
    return _known({name: _percent(each) for name, each in values.items()})


def _sizes(kind: Kind) -> tuple[str, ...]:
    """Of keypoints none is small."""
    return SIZES[1:] if kind == "keypoints" else SIZES


def _by_size(curves: _Curves, kind: Kind) -> Array:
    by_size = [_percent(curves.precision[..., a]) for a in range(1, curves.precision.shape[3])]
    return np.array([np.nan] * (len(SIZES) - len(_sizes(kind))) + by_size)


def _percent(values: Array) -> float:
    known = values[values > -1]
    return 100 * float(known.mean()) if len(known) else float("nan")


def _known(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not np.isnan(value)}
