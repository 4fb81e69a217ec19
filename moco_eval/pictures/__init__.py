"""Pictures of what a protocol found: where a probe errs, how sure it is, what features find alike.

A protocol draws nothing: it leaves arrays in ``Outcome.drawn``, and what they allow is drawn here.
Each picture is a PNG with a CSV of its numbers under the same name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moco_eval.pictures import by_class, feature_map, nearest, reliability, sensitivity


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
        made.append(by_class.draw_confusion(scores, labels, names, folder, title=title))
    elif "AP_by_class" in arrays:
        precision = arrays["AP_by_class"]
        names = _names(classes, len(precision))
        made.append(by_class.draw_precision(precision, names, folder, title=title))
    if one_a_row and "logits" in arrays:
        made.append(reliability.draw(arrays["logits"], labels, folder, title=title))
    if one_a_row and images and {"neighbours", "train_labels"} <= arrays.keys():
        names = _names(classes, int(max(labels.max(), arrays["train_labels"].max())) + 1)
        made.append(nearest.draw(arrays, images, names, folder, title=title))
    if one_a_row and "test_features" in arrays:
        names = _names(classes, int(labels.max()) + 1)
        made.append(feature_map.draw(arrays["test_features"], labels, names, folder, title=title))
    return [path for path in made if path]


_ARRAYS = (
    *("logits", "scores", "labels", "train_labels", "AP_by_class"),
    *("test_features", "neighbours", "similarities"),
)


def _names(classes: Sequence[str], at_least: int) -> list[str]:
    return [*classes, *map(str, range(len(classes), at_least))]
