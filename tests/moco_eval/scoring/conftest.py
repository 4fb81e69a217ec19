"""Truth and detections that are made up, by hand or at random, without image files."""

from pathlib import Path

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_mask

from moco_eval.data import coco


def rectangle(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def scene_of(image_id, *objects, size=(100, 100), extra=None, keypoints=None):
    """A scene of objects ``(left, top, right, bottom, label)``, and then crowd or difficult."""
    boxes = np.array([each[:4] for each in objects], np.float32).reshape(-1, 4)
    flags = [each[5] if len(each) > 5 else "" for each in objects]
    return coco.Scene(
        image_id=image_id,
        path=Path(f"{image_id}.png"),
        size=size,
        boxes=boxes,
        labels=np.array([each[4] for each in objects], np.int64),
        segmentations=tuple(rectangle(*map(float, each[:4])) for each in objects),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1).astype(np.float64),
        crowd=np.array([flag == "crowd" for flag in flags], np.bool_),
        difficult=np.array([flag == "difficult" for flag in flags], np.bool_),
        keypoints=keypoints,
        extra=extra or {},
    )


def split_of(*scenes, num_classes=2, num_keypoints=0):
    """A split whose classes 0, 1 ... have the numbers 3, 5 ..."""
    return coco.SceneSplit(
        id="made-up",
        classes=tuple(f"class {label}" for label in range(num_classes)),
        category_ids=tuple(range(3, 3 + 2 * num_classes, 2)),
        scenes=scenes,
        num_dropped=0,
        keypoint_names=tuple(f"point {number}" for number in range(num_keypoints)),
        keypoint_flips=(),
    )


def result_of(image_id, left, top, right, bottom, *, label=0, score=0.9, size=(100, 100)):
    """A detection whose mask fills its box."""
    return {
        "image_id": image_id,
        "category_id": 3 + 2 * label,
        "bbox": [left, top, right - left, bottom - top],
        "score": score,
        "segmentation": run_lengths(rectangle(left, top, right, bottom), size),
    }


def run_lengths(polygons, size):
    runs = coco_mask.segmToRle([list(map(float, each)) for each in polygons], size[1], size[0])
    counts = runs["counts"]
    return {
        "size": list(size),
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }


@pytest.fixture
def make_scene():
    return scene_of


@pytest.fixture
def make_split():
    return split_of


@pytest.fixture
def found():
    return result_of


@pytest.fixture(scope="session")
def random_case():
    """``(num_images, seed) -> split, results``: sizes, crowds, ties and empty images of all kinds.

    Two in three detections are of an object, shifted, most of them with its class; each image has
    up to fourteen. Masks fill their boxes; keypoints are 17.
    """
    return random_split


def random_split(num_images, seed, *, num_classes=20, size=(480, 640), num_keypoints=17):
    draw = np.random.default_rng(seed)
    scenes, results = [], []
    for image_id in range(1, num_images + 1):
        objects = [_box(draw, size) for _ in range(draw.integers(0, 8))]
        labels = draw.integers(0, num_classes, len(objects))
        flags = draw.choice(["", "crowd", "difficult"], len(objects), p=[0.8, 0.12, 0.08])
        points = np.array([_points(draw, box, num_keypoints) for box in objects])
        scenes.append(
            scene_of(
                image_id,
                *(
                    (*box, label, flag)
                    for box, label, flag in zip(objects, labels, flags, strict=True)
                ),
                size=size,
                keypoints=points.reshape(len(objects), num_keypoints, 3),
            )
        )
        for place in range(len(objects) * 2 if draw.random() < 0.9 else 0):
            which, is_right = place // 2, place % 3 > 0
            box, label = _box(draw, size), int(draw.integers(num_classes))
            near = _points(draw, box, num_keypoints)
            if is_right:
                box, near = _shifted(draw, objects[which]), points[which].copy()
                near[:, :2] += draw.normal(0, 0.03 * (box[2] - box[0]), (num_keypoints, 2))
                label = label if draw.random() < 0.1 else int(labels[which])
            result = result_of(image_id, *box.tolist(), label=label, size=size)
            # Two decimals: many detections have the same score.
            result["score"] = round(float(draw.random() ** (0.5 if is_right else 2)), 2)
            results.append(result | {"keypoints": near.reshape(-1).tolist()})
    split = split_of(*scenes, num_classes=num_classes, num_keypoints=num_keypoints)
    return split, results


def _box(draw, size):
    sides = np.exp(draw.uniform(np.log(6), np.log(300), 2))
    left, top = draw.uniform(0, np.array(size[::-1]) - sides)
    return np.round([left, top, left + sides[0], top + sides[1]])


def _shifted(draw, box):
    sides = np.tile(box[2:] - box[:2], 2)
    return (box + 0.06 * sides * draw.normal(0, 1, 4)).astype(np.float32).astype(float)


def _points(draw, box, num_keypoints):
    places = draw.uniform(box[:2], box[2:], (num_keypoints, 2))
    # One object in seven has no visible point.
    visible = draw.integers(0, 3, num_keypoints) * (draw.random() > 1 / 7)
    return np.concatenate([places, visible[:, None]], axis=1) * (visible[:, None] > 0)
