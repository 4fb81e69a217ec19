import time

import numpy as np
import pytest

from moco_eval.scoring import agreement, score
from moco_eval.scoring.results import Boxes, found_boxes, true_boxes


def compared(split, results):
    return agreement.compare(
        true_boxes(split),
        found_boxes(split, results),
        num_scenes=len(split),
        num_classes=len(split.classes),
    )


def test_boxes_by_hand(make_scene, make_split, found):
    split = make_split(
        # One is found, one is taken for class 1, one is missed.
        make_scene(1, (0, 0, 10, 10, 0), (20, 0, 30, 10, 0), (40, 0, 50, 10, 1)),
        # Nothing is there; one that scores enough is found, and one that does not.
        make_scene(2),
        make_scene(3, (0, 0, 10, 10, 1)),
        make_scene(4),
    )
    results = [
        found(1, 0, 0, 10, 10),
        found(1, 20, 0, 30, 10, label=1),
        found(2, 0, 0, 10, 10, label=1, score=0.5),
        found(2, 50, 50, 60, 60, score=0.49),
        found(3, 0, 0, 10, 10, label=1),
    ]
    ours = compared(split, results)
    assert ours.box_confusion.tolist() == [[1, 1, 0], [0, 1, 1], [0, 1, 0]]
    # One right, of 3 true and 2 found; none; all; nothing is there and nothing found.
    assert ours.F1_by_image == pytest.approx([40, 0, 100, np.nan], nan_ok=True)


def test_a_true_box_is_found_once_by_the_highest_score(make_scene, make_split, found):
    split = make_split(make_scene(1, (0, 0, 10, 10, 0), (0, 0, 10, 14, 0)))
    # The first overlaps the smaller box by 6/10 and the larger by 6/14, the second both, the
    # smaller more: with the higher score it takes that one, and leaves the first nothing.
    results = [found(1, 0, 0, 10, 6, score=0.6), found(1, 0, 0, 10, 11, score=0.7)]
    ours = compared(split, results)
    assert ours.box_confusion.tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert ours.F1_by_image == pytest.approx([50])


def test_of_two_true_boxes_the_one_that_is_overlapped_more_is_taken(make_scene, make_split, found):
    split = make_split(make_scene(1, (0, 0, 10, 10, 0), (0, 0, 10, 14, 1)))
    # IoU 10/13 and 13/14; in a class of its own it takes neither.
    split = make_split(*split.scenes, num_classes=3)
    ours = compared(split, [found(1, 0, 0, 10, 13, label=2)])
    assert ours.box_confusion[1, 2] == 1
    assert ours.box_confusion[0, 3] == 1


def test_a_box_of_another_class_takes_only_what_its_own_class_leaves(make_scene, make_split, found):
    split = make_split(make_scene(1, (0, 0, 10, 10, 0)))
    results = [found(1, 0, 0, 10, 10, label=1, score=0.9), found(1, 0, 0, 10, 9, score=0.6)]
    ours = compared(split, results)
    assert ours.box_confusion.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_what_lies_in_a_crowd_or_something_difficult_of_its_class_does_not_count(
    make_scene, make_split, found
):
    split = make_split(
        make_scene(1, (0, 0, 50, 50, 0, "crowd"), (60, 60, 90, 90, 1, "difficult")),
    )
    inside = [found(1, 5, 5, 10, 10), found(1, 45, 0, 55, 10), found(1, 60, 60, 90, 90, label=1)]
    ours = compared(split, inside)
    assert ours.box_confusion.sum() == 0
    assert np.isnan(ours.F1_by_image).all()
    # Six tenths outside; another class.
    outside = [found(1, 46, 0, 56, 10), found(1, 5, 5, 10, 10, label=1)]
    ours = compared(split, outside)
    assert ours.box_confusion.tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 0]]


def one_by_one(split, results):
    """The same by loops over images and boxes; as an oracle."""
    size = len(split.classes)
    confusion = np.zeros((size + 1, size + 1), dtype=int)
    all_f1 = []
    for scene in split.scenes:
        own = [each for each in results if each["image_id"] == scene.image_id]
        own = sorted((each for each in own if each["score"] >= 0.5), key=lambda r: -r["score"])
        labels = [split.category_ids.index(each["category_id"]) for each in own]
        corners = [np.add(each["bbox"], [0, 0, *each["bbox"][:2]]) for each in own]
        truth = scene.boxes.astype(float)
        ignored = scene.crowd | scene.difficult
        match = {}
        for same in (True, False):
            for d, (box, label) in enumerate(zip(corners, labels, strict=True)):
                best, taken = 0.5, None
                for t in range(len(truth)):
                    is_free = t not in match.values() and not ignored[t]
                    is_own = scene.labels[t] == label or not same
                    overlap = iou(box, truth[t])
                    if d not in match and is_free and is_own and overlap >= best:
                        taken = t if taken is None or overlap > best else taken
                        best = overlap
                if taken is not None:
                    match[d] = taken
        in_crowd = [
            any(
                ignored[t] and scene.labels[t] == label and iou(box, truth[t], first=True) >= 0.5
                for t in range(len(truth))
            )
            for box, label in zip(corners, labels, strict=True)
        ]
        for d, label in enumerate(labels):
            if d in match or not in_crowd[d]:
                confusion[scene.labels[match[d]] if d in match else size, label] += 1
        missed = [t for t in range(len(truth)) if not ignored[t] and t not in match.values()]
        for t in missed:
            confusion[scene.labels[t], size] += 1
        right = sum(scene.labels[t] == labels[d] for d, t in match.items())
        num_found = sum(d in match or not in_crowd[d] for d in range(len(own)))
        total = num_found + int((~ignored).sum())
        all_f1.append(200 * right / total if total else np.nan)
    return confusion, all_f1


def iou(a, b, *, first=False):
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    common, areas = np.prod(sides), [np.prod(box[2:] - box[:2]) for box in (a, b)]
    return common / (areas[0] if first else sum(areas) - common)


def test_it_is_what_loops_over_boxes_find(random_case, monkeypatch):
    split, results = random_case(150, seed=2, num_classes=3)
    expected = one_by_one(split, results)
    # In many parts, as a large set is compared.
    monkeypatch.setattr(agreement, "MAX_PAIRS", 50)
    ours = compared(split, results)
    assert ours.box_confusion.tolist() == expected[0].tolist()
    assert ours.F1_by_image == pytest.approx(expected[1], nan_ok=True)
    assert np.trace(ours.box_confusion) > 100
    drawn = score(split, results, "bbox").drawn
    assert drawn["box_confusion"].tolist() == expected[0].tolist()
    assert drawn["F1_by_image"] == pytest.approx(expected[1], nan_ok=True)


def test_five_thousand_images_of_a_hundred_boxes_take_seconds():
    draw = np.random.default_rng(0)

    def boxes(each):
        corners = draw.uniform(0, 500, (5000 * each, 4))
        corners[:, 2:] = corners[:, :2] + draw.uniform(10, 150, (5000 * each, 2))
        scenes = np.repeat(np.arange(5000), each)
        labels = draw.integers(0, 80, len(scenes))
        ignored = np.zeros(len(scenes), bool)
        return Boxes(scenes, labels, corners, draw.random(len(scenes)), ignored)

    true, found = boxes(20), boxes(100)
    begun = time.monotonic()
    agreement.compare(true, found, num_scenes=5000, num_classes=80)
    assert time.monotonic() - begun < 30
