"""COCO's average precision, by faster-coco-eval, for both engines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from moco_eval.data.coco import SceneSplit
from moco_eval.data.masks import encode
from moco_eval.engines.examples import Detections

NAMES = ("AP", "AP50", "AP75")


def as_results(image_id: int, found: Detections, split: SceneSplit) -> list[dict[str, Any]]:
    """One image's detections as COCO's results list, with the json's own numbers."""
    boxes = found.boxes.double()
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)
    results: list[dict[str, Any]] = [
        {
            "image_id": image_id,
            "category_id": split.category_ids[label],
            "bbox": box,
            "score": score,
        }
        for label, box, score in zip(
            found.labels.tolist(), boxes.tolist(), found.scores.tolist(), strict=True
        )
    ]
    if found.masks is not None:
        for result, mask in zip(results, found.masks.numpy(), strict=True):
            result["segmentation"] = encode(mask)
    return results


def average_precision(
    truth: dict[str, Any], results: Sequence[dict[str, Any]], kind: Literal["bbox", "segm"]
) -> dict[str, float]:
    """AP, AP50 and AP75 of ``results``, in percent.

    Args:
        truth: A COCO document, such as ``SceneSplit.truth()``. Crowd regions are ignored.
        results: COCO's results list, at most 100 of an image count.
        kind: Whether boxes or masks must overlap.

    Raises:
        KeyError: If masks are asked for and a result has no ``segmentation``.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    if kind == "segm":
        # Without its box, a result's size is its mask's.
        results = [
            {key: result[key] for key in ("image_id", "category_id", "score", "segmentation")}
            for result in results
        ]
    reference = COCO(truth)
    scorer = COCOeval_faster(reference, reference.loadRes(list(results)), iouType=kind)
    scorer.evaluate()
    scorer.accumulate()
    scorer.summarize()
    return {name: 100 * float(value) for name, value in zip(NAMES, scorer.stats[:3], strict=True)}
