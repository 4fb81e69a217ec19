"""Pictures of what a protocol found: where it errs, how sure it is, what features find alike.

A protocol draws nothing: it leaves arrays in ``Outcome.drawn``, and what they allow is drawn here.
``draw`` is for images with classes, ``draw_scenes`` for objects in them, ``draw_maps`` for classes
of pixels. Each picture is a PNG with a CSV of its numbers under the same name, and with one
sentence for who does not see it, which ``alt_of`` reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moco_eval.pictures import (
    by_class,
    by_size,
    confusion,
    curves,
    feature_map,
    maps,
    nearest,
    overlays,
    precision_recall,
    reliability,
    sensitivity,
)
from moco_eval.pictures.choice import best_and_worst
from moco_eval.pictures.writing import alt_of

__all__ = ["alt_of", "best_and_worst", "draw", "draw_maps", "draw_scenes"]

# Kinds of answers by the suffix of their arrays' names, as of metrics.
_KINDS = {"": "boxes", "_mask": "masks", "_kp": "keypoints"}


def draw(
    drawn: Mapping[str, Any],
    *,
    classes: Sequence[str],
    images: tuple[Sequence[Any], Sequence[Any]] | None = None,
    folder: Path,
    title: str,
) -> list[Path]:
    """Draw every picture that the arrays of a run allow.

    ``per_class.png`` and ``confusion.png`` need ``labels`` with ``logits`` or ``scores``, the first
    may have ``AP_by_class`` instead; ``reliability.png`` needs ``labels`` and ``logits``;
    ``map.png`` needs ``labels`` and ``test_features``; ``neighbours.png`` needs ``labels``,
    ``train_labels``, ``neighbours`` and the images; ``sensitivity.png`` needs ``sensitivity``.
    Labels of several classes an image allow none of those that need labels.

    Args:
        drawn: By name, as numpy arrays or what ``np.asarray`` takes:
            ``logits`` ``(M, C)`` of the test set, whose softmax is the classifier's confidence;
            ``scores`` ``(M, C)`` instead, where it is none, such as those of SVMs;
            ``AP_by_class`` ``(C,)`` in percent, where an image may show several classes;
            ``labels`` ``(M,)`` of the test set, classes from 0;
            ``train_labels`` ``(N,)`` of the training set;
            ``test_features`` ``(M, D)``;
            ``neighbours`` ``(M, k)``: the training images nearest to each test image, nearest
            first, and ``similarities`` ``(M, k)``, how near, which may be absent;
            ``sensitivity``: one mapping a tried setting, with its hyper-parameters, its held-out
            ``top1`` and, for the one that was chosen, ``chosen``. Other names are ignored.
        classes: The classes' names, by label; a class without one is called by its number.
        images: The test and the training images, decoded when indexed; None draws none.
        folder: Where the pictures go; made if it is missing.
        title: What they are pictures of: an encoder, a data set, a protocol.

    Returns:
        The PNGs, in the order in which one would look at them.

    Raises:
        OutputError: If one cannot be written.
    """
    arrays = {name: np.asarray(drawn[name]) for name in _ARRAYS if name in drawn}
    labels = arrays.get("labels", np.zeros(0, np.int64))
    one_a_row = labels.ndim == 1 and labels.size > 0
    made = []
    if "sensitivity" in drawn:
        made.append(sensitivity.draw(drawn["sensitivity"], folder, title=title))
    scores = arrays.get("logits", arrays.get("scores"))
    if one_a_row and scores is not None:
        names = _names(classes, max(scores.shape[1], int(labels.max()) + 1))
        made.append(by_class.draw_accuracy(scores, labels, names, folder, title=title))
        made.append(confusion.draw_answers(scores, labels, names, folder, title=title))
    elif "AP_by_class" in arrays:
        precision = arrays["AP_by_class"]
        names = _names(classes, len(precision))
        measure = ("AP", "Average precision")
        path = folder / "per_class.png"
        made.append(by_class.draw_values(precision, names, path, title=title, measure=measure))
    if one_a_row and "logits" in arrays:
        made.append(reliability.draw(arrays["logits"], labels, folder, title=title))
    if one_a_row and images and {"neighbours", "train_labels"} <= arrays.keys():
        names = _names(classes, int(max(labels.max(), arrays["train_labels"].max())) + 1)
        made.append(nearest.draw(arrays, images, names, folder, title=title))
    if one_a_row and "test_features" in arrays:
        names = _names(classes, int(labels.max()) + 1)
        made.append(feature_map.draw(arrays["test_features"], labels, names, folder, title=title))
    return [path for path in made if path]


def draw_scenes(
    drawn: Mapping[str, Any],
    *,
    classes: Sequence[str],
    scenes: Any,
    results: Sequence[Mapping[str, Any]],
    folder: Path,
    title: str,
) -> list[Path]:
    """Draw every picture that the arrays of a detector's run allow.

    ``best_images.png`` and ``worst_images.png`` need ``F1_by_image``; ``per_class.png``,
    ``precision_recall.png``, ``confusion.png`` and ``AP_by_size.png`` an array each, and
    ``training.png`` needs ``metrics.jsonl`` in ``folder``. Arrays of masks end in ``_mask``, of
    keypoints in ``_kp``, and so do their pictures.

    Args:
        drawn: By name, each of which may be missing or hold no numbers:
            ``AP_by_class`` ``(C,)`` in percent; ``AP_by_size`` ``(3,)`` small, medium, large;
            ``precision`` ``(C, 101)`` on 0-1 at IoU 0.5, over recall;
            ``box_confusion`` ``(C + 1, C + 1)``, rows truth, no object and no detection last;
            ``F1_by_image`` ``(M,)`` in percent, in the order of the scenes.
        classes: The classes' names, by label.
        scenes: The test split, as ``overlays.draw`` reads it; None draws no images.
        results: COCO's results list.
        folder: Where the pictures go, and where the run left ``metrics.jsonl``.
        title: What they are pictures of.

    Returns:
        The PNGs, in the order in which one would look at them.

    Raises:
        DataError: If an image that is shown is damaged.
        OutputError: If a picture cannot be written.
    """
    made: list[Path | None] = []
    if scenes is not None and (scores := _first(drawn, "F1_by_image")):
        made += overlays.draw(scores[0], classes, scenes, results, folder, title=title)
    for suffix, kind in _KINDS.items():
        headed = f"{title}, {kind}" if suffix else title
        if f"AP_by_class{suffix}" in drawn:
            values = np.asarray(drawn[f"AP_by_class{suffix}"], np.float64)
            made.append(
                by_class.draw_values(
                    values,
                    _names(classes, len(values)),
                    folder / f"per_class{suffix}.png",
                    title=headed,
                    measure=("AP", "Average precision"),
                )
            )
        if f"precision{suffix}" in drawn:
            values = np.asarray(drawn[f"precision{suffix}"])
            names = _names(classes, len(values))
            path = folder / f"precision_recall{suffix}.png"
            made.append(precision_recall.draw(values, names, path, title=headed))
    if counts := _first(drawn, "box_confusion"):
        names, path = _names(classes, len(counts[0]) - 1), folder / "confusion.png"
        made.append(confusion.draw_boxes(counts[0], names, path, title=title))
    sizes = {
        kind: np.asarray(drawn[name], np.float64)
        for suffix, kind in _KINDS.items()
        if (name := f"AP_by_size{suffix}") in drawn
    }
    if len(sizes) == 1:
        sizes = {"objects": next(iter(sizes.values()))}
    made.append(by_size.draw(sizes, folder / "AP_by_size.png", title=title))
    made.append(curves.draw(folder / "metrics.jsonl", folder / "training.png", title=title))
    return [path for path in made if path]


def draw_maps(
    drawn: Mapping[str, Any],
    *,
    classes: Sequence[str],
    split: Any,
    folder: Path,
    title: str,
) -> list[Path]:
    """Draw every picture that the arrays of a semantic segmentation allow.

    ``best_images.png`` and ``worst_images.png`` need ``mIoU_by_image``, ``predicted_best`` and
    ``predicted_worst``; ``per_class.png`` needs ``IoU_by_class``, ``confusion.png``
    ``label_confusion``, and ``training.png`` ``metrics.jsonl`` in ``folder``.

    Args:
        drawn: By name: ``label_confusion`` ``(C, C)`` pixels, rows truth; ``IoU_by_class`` ``(C,)``
            in percent; the others as ``maps.draw`` takes them.
        classes: The classes' names, by label.
        split: The test split, as ``maps.draw`` reads it; None draws no images.
        folder: Where the pictures go, and where the run left ``metrics.jsonl``.
        title: What they are pictures of.

    Returns:
        The PNGs, in the order in which one would look at them.

    Raises:
        DataError: If an image that is shown is damaged.
        OutputError: If a picture cannot be written.
    """
    made: list[Path | None] = []
    if split is not None and "mIoU_by_image" in drawn:
        made += maps.draw(drawn, classes, split, folder, title=title)
    if "IoU_by_class" in drawn:
        values = np.asarray(drawn["IoU_by_class"], np.float64)
        path, measure = folder / "per_class.png", ("IoU", "Intersection over union")
        names = _names(classes, len(values))
        made.append(by_class.draw_values(values, names, path, title=title, measure=measure))
    if "label_confusion" in drawn:
        values = np.asarray(drawn["label_confusion"])
        names = _names(classes, len(values))
        made.append(confusion.draw_pixels(values, names, folder / "confusion.png", title=title))
    made.append(curves.draw(folder / "metrics.jsonl", folder / "training.png", title=title))
    return [path for path in made if path]


def _first(drawn: Mapping[str, Any], name: str) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    """This array of boxes, or of masks or keypoints where there is none; alone in a list, or none.

    It is of boxes whichever is scored.
    """
    return [np.asarray(drawn[name + s], np.float64) for s in _KINDS if name + s in drawn][:1]


_ARRAYS = (
    *("logits", "scores", "labels", "train_labels", "AP_by_class"),
    *("test_features", "neighbours", "similarities"),
)


def _names(classes: Sequence[str], at_least: int) -> list[str]:
    return [*classes, *map(str, range(len(classes), at_least))]
