"""Measure scoring against pycocotools, on made-up data of COCO's size.

python tools/bench_scoring.py [--images 5000] [--kinds bbox segm] [--json FILE]

As in val2017 an image has 80 classes' seven objects on average, and a hundred detections, a tenth
of them near an object. Both score the same results list in turn, in the process's own time, threads
included, so that a busy machine tells the same. Ours draws curves and confusion besides.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from moco_eval.data.scene import Scene, SceneSplit
from moco_eval.scoring import Kind, score
from moco_eval.scoring.coco import SUFFIX

SIZE = (480, 640)
NUM_CLASSES = 80
NUM_DETECTIONS = 100
MEAN_OBJECTS = 7
CORNERS = 24
FIELDS = {"bbox": "bbox", "segm": "segmentation"}


def make_up(num_images: int) -> tuple[SceneSplit, list[dict[str, Any]]]:
    """A split and what a fair detector would find in it."""
    draw = np.random.default_rng(0)
    scenes, results = [], []
    for number in range(1, num_images + 1):
        boxes = make_up_boxes(draw, int(draw.poisson(MEAN_OBJECTS)))
        labels = draw.integers(0, NUM_CLASSES, len(boxes))
        scenes.append(
            Scene(
                image_id=number,
                path=Path(f"{number}.jpg"),
                size=SIZE,
                boxes=boxes.astype(np.float32),
                labels=labels,
                segmentations=tuple([ellipse(box)] for box in boxes),
                areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * np.pi / 4,
                crowd=draw.random(len(boxes)) < 0.01,
            )
        )
        found = make_up_boxes(draw, NUM_DETECTIONS)
        classes = draw.integers(0, NUM_CLASSES, NUM_DETECTIONS)
        near = min(len(boxes), NUM_DETECTIONS // 10)
        sides = np.tile(boxes[:near, 2:] - boxes[:near, :2], 2)
        found[:near] = boxes[:near] + 0.05 * sides * draw.standard_normal((near, 4))
        classes[:near] = labels[:near]
        scores = draw.random(NUM_DETECTIONS) ** 3
        scores[:near] **= 1 / 6
        results += [
            {
                "image_id": number,
                "category_id": int(label) + 1,
                "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                "score": certainty,
                "segmentation": run_lengths(ellipse(box)),
            }
            for box, label, certainty in zip(
                found.tolist(), classes.tolist(), scores.tolist(), strict=True
            )
        ]
    names = tuple(f"class {number}" for number in range(1, NUM_CLASSES + 1))
    split = SceneSplit("made-up", names, tuple(range(1, NUM_CLASSES + 1)), tuple(scenes), 0)
    return split, results


def make_up_boxes(draw: np.random.Generator, number: int) -> Any:
    """Boxes ``(number, 4)`` of 8 to 300 pixels a side, left, top, right, bottom."""
    sides = np.exp(draw.uniform(np.log(8), np.log(300), (number, 2)))
    corners = draw.random((number, 2)) * (np.array(SIZE[::-1]) - sides)
    return np.concatenate([corners, corners + sides], axis=1)


def ellipse(box: Any) -> list[float]:
    """A polygon in a box."""
    turns = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    centre, radii = np.add(box[:2], box[2:]) / 2, np.subtract(box[2:], box[:2]) / 2
    points = centre + radii * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    return [float(each) for each in points.reshape(-1)]


def run_lengths(polygon: list[float]) -> dict[str, Any]:
    """A mask as results hold it."""
    counts = coco_mask.segmToRle([polygon], SIZE[1], SIZE[0])["counts"]
    return {
        "size": list(SIZE),
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }


def score_with_pycocotools(split: SceneSplit, results: list[Any], kind: Kind) -> float:
    """AP in percent."""
    kept = ("image_id", "category_id", "score", FIELDS[kind])
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = split.truth()
        reference.createIndex()
        told = [{name: each[name] for name in kept} for each in results]
        scorer = COCOeval(reference, reference.loadRes(told), kind)
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    return 100 * float(scorer.stats[0])


def timed(action: Callable[[], float]) -> tuple[float, float]:
    """What ``action`` returns, and the process's seconds in it."""
    begun_s = time.process_time()
    value = action()
    return value, time.process_time() - begun_s


def main() -> None:
    """Measure, print and, if asked, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--kinds", nargs="+", default=["bbox", "segm"], choices=list(FIELDS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    split, results = make_up(options.images)
    numbers: dict[str, Any] = {"images": options.images, "detections": len(results)}
    for kind in options.kinds:
        name = f"AP{SUFFIX[kind]}"
        begun_s = time.monotonic()
        ours, ours_s = timed(lambda kind=kind, name=name: score(split, results, kind).metrics[name])
        wall_s = time.monotonic() - begun_s
        theirs, theirs_s = timed(lambda kind=kind: score_with_pycocotools(split, results, kind))
        numbers[kind] = {
            "difference": abs(ours - theirs),
            "ours_s": round(ours_s, 1),
            "pycocotools_s": round(theirs_s, 1),
            "ratio": round(theirs_s / ours_s, 2),
        }
        print(
            f"{kind}: {name} {ours:.4f}, pycocotools {theirs:.4f}; {ours_s:.1f} s "
            f"({wall_s:.1f} s on the clock) against {theirs_s:.1f} s: {theirs_s / ours_s:.1f} "
            "times as fast"
        )
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
