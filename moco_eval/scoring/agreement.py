"""Which boxes are taken for which: for pictures, at one IoU and one score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moco_eval.scoring.results import Boxes

MIN_IOU = 0.5
MIN_SCORE = 0.5
# So many pairs of boxes are compared at once, in some 200 MB.
MAX_PAIRS = 1 << 20

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Agreement:
    """How found boxes go with true ones.

    Attributes:
        box_confusion: ``(C + 1, C + 1)`` int64 boxes, rows truth, columns found; the last are the
            background: true boxes that nothing found, and found ones where nothing is.
        F1_by_image: ``(M,)`` in percent; nan where there is nothing and nothing was found.
    """

    box_confusion: Ints
    F1_by_image: Floats


def compare(true: Boxes, found: Boxes, *, num_scenes: int, num_classes: int) -> Agreement:
    """Match what is found to the truth, each to one at most, the highest scores first.

    A found box takes the true one that it overlaps most, by half or more; first those of its own
    class, then what is left of any. What lies by half in a crowd of its class, or in something
    difficult of it, counts neither way unless it has a match.

    Args:
        true: The truth, scene by scene.
        found: What is found, scene by scene; what scores below ``MIN_SCORE`` does not count.
        num_scenes: M.
        num_classes: C.
    """
    found = found[found.scores >= MIN_SCORE]
    found = found[np.lexsort((-found.scores, found.scenes))]
    counted, crowds = true[~true.ignored], true[true.ignored]
    takers, taken = _match(counted, found)
    in_crowd = np.zeros(len(found), dtype=np.bool_)
    in_crowd[_pairs(crowds, found, of_found=True, same_class=True)[0]] = True
    is_taker = np.isin(np.arange(len(found)), takers)
    is_taken = np.isin(np.arange(len(counted)), taken)
    wrong, missed = found[~is_taker & ~in_crowd], counted[~is_taken]

    # Pairs of classes; the background's number comes after theirs.
    ours = [counted.labels[taken], missed.labels, np.full(len(wrong), num_classes)]
    theirs = [found.labels[takers], np.full(len(missed), num_classes), wrong.labels]
    size = num_classes + 1
    cells = np.concatenate(ours) * size + np.concatenate(theirs)
    confusion = np.bincount(cells, minlength=size**2).reshape(size, size)

    # Twice the right ones, by all that are true and all that are found.
    right = counted.scenes[taken][counted.labels[taken] == found.labels[takers]]
    hits, num_missed, num_wrong, num_matched = (
        np.bincount(scenes, minlength=num_scenes)
        for scenes in (right, missed.scenes, wrong.scenes, counted.scenes[taken])
    )
    total = num_missed + num_wrong + 2 * num_matched
    f1 = np.divide(200 * hits, total, out=np.full(num_scenes, np.nan), where=total > 0)
    return Agreement(confusion, f1)


def _match(true: Boxes, found: Boxes) -> tuple[Ints, Ints]:
    """Indices of the found boxes that have a true one, and of those, in the same order."""
    takers, taken, iou = _pairs(true, found)
    other_class = true.labels[taken] != found.labels[takers]
    # Within a scene the order is that of the scores; scenes do not meet.
    order = np.lexsort((-iou, takers, other_class))
    free_found, free_true = np.ones(len(found), np.bool_), np.ones(len(true), np.bool_)
    kept = []
    for place in order.tolist():
        taker, one = takers[place], taken[place]
        if free_found[taker] and free_true[one]:
            free_found[taker] = free_true[one] = False
            kept.append(place)
    return takers[kept], taken[kept]


def _pairs(
    true: Boxes, found: Boxes, *, of_found: bool = False, same_class: bool = False
) -> tuple[Ints, Ints, Floats]:
    """The pairs that overlap enough: found, true, and how much.

    Args:
        true: Scene by scene.
        found: Scene by scene.
        of_found: Measure the overlap by the found box's area instead of both boxes' union.
        same_class: Only pairs of one class.
    """
    starts = np.searchsorted(true.scenes, found.scenes, side="left")
    counts = np.searchsorted(true.scenes, found.scenes, side="right") - starts
    num_parts = 1 + int(counts.sum()) // MAX_PAIRS
    parts: list[tuple[Ints, Ints, Floats]] = []
    for own in np.array_split(np.arange(len(found)), num_parts):
        # Each found box of the part with every true box of its scene.
        takers = np.repeat(own, counts[own])
        before = np.repeat(np.cumsum(counts[own]) - counts[own], counts[own])
        taken = np.repeat(starts[own], counts[own]) + np.arange(len(takers)) - before
        if same_class:
            same = found.labels[takers] == true.labels[taken]
            takers, taken = takers[same], taken[same]
        overlap = _overlap(found.corners[takers], true.corners[taken], of_first=of_found)
        enough = overlap >= MIN_IOU
        parts.append((takers[enough], taken[enough], overlap[enough]))
    takers, taken, overlap = (np.concatenate(column) for column in zip(*parts, strict=True))
    return takers, taken, overlap


def _overlap(first: Floats, second: Floats, *, of_first: bool) -> Floats:
    """What each pair of boxes has in common, by their union or by the first one's area."""
    sides = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    common = sides.clip(0).prod(axis=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    whole = areas[0] if of_first else areas[0] + areas[1] - common
    overlap: Floats = np.divide(common, whole, out=np.zeros_like(common), where=whole > 0)
    return overlap
