import contextlib
import io

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from moco_eval.data import masks
from moco_eval.engines.average_precision import as_results, average_precision
from moco_eval.engines.examples import Detections


def truth_of(*boxes, crowd=()):
    return {
        "images": [{"id": 1, "file_name": "1.png", "width": 100, "height": 100}],
        "categories": [{"id": 3, "name": "early"}],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": 3,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": int(number - 1 in crowd),
            }
            for number, box in enumerate(boxes, start=1)
        ],
    }


def found(box, score=0.9):
    return {"image_id": 1, "category_id": 3, "bbox": list(box), "score": score}


def test_a_box_that_overlaps_by_60_percent_counts_at_three_of_ten_thresholds():
    # 60 of 100 pixels: IoU 0.6 is enough at 0.5, 0.55 and 0.6, not at 0.65 to 0.95.
    scores = average_precision(truth_of((0, 0, 10, 10)), [found((0, 0, 6, 10))], "bbox")
    assert scores == pytest.approx({"AP": 30.0, "AP50": 100.0, "AP75": 0.0})


def test_all_found_is_100_and_nothing_found_is_0():
    truth = truth_of((0, 0, 10, 10), (50, 50, 20, 20))
    perfect = [found((0, 0, 10, 10)), found((50, 50, 20, 20))]
    assert average_precision(truth, perfect, "bbox")["AP"] == pytest.approx(100)
    for kind in ("bbox", "segm"):
        assert average_precision(truth, [], kind) == {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}


def test_what_is_found_in_a_crowd_is_neither_right_nor_wrong():
    truth = truth_of((0, 0, 10, 10), (40, 40, 50, 50), crowd={1})
    in_crowd = [found((45, 45, 5, 5), score=0.99), found((0, 0, 10, 10), score=0.5)]
    assert average_precision(truth, in_crowd, "bbox")["AP"] == pytest.approx(100)


def random_case(seed):
    """Twelve images of five classes with crowds, and jittered, mislabelled and false detections."""
    draw = np.random.RandomState(seed)
    images = [{"id": n, "file_name": f"{n}.png", "width": 80, "height": 60} for n in range(1, 13)]
    annotations, results = [], []
    for image in images:
        for _ in range(draw.randint(1, 6)):
            left, top = draw.randint(0, 50), draw.randint(0, 30)
            width, height = draw.randint(4, 28), draw.randint(4, 28)
            category = int(draw.randint(1, 6))
            box = [left, top, width, height]
            mask = np.zeros((60, 80), bool)
            mask[top : top + height, left : left + width] = True
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": [int(side) for side in box],
                    "area": int(mask.sum()),
                    "iscrowd": int(draw.rand() < 0.15),
                    "segmentation": masks.encode(mask),
                }
            )
            for _ in range(draw.randint(0, 4)):
                shift = draw.randint(-3, 4, 2)
                moved = np.roll(mask, shift, (0, 1))
                results.append(
                    {
                        "image_id": image["id"],
                        "category_id": category if draw.rand() < 0.8 else 1,
                        "bbox": [
                            float(left + shift[1]),
                            float(top + shift[0]),
                            *map(float, box[2:]),
                        ],
                        "score": float(draw.rand()),
                        "segmentation": masks.encode(moved),
                    }
                )
    categories = [{"id": n, "name": str(n)} for n in range(1, 6)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_it_is_what_pycocotools_computes(kind):
    truth, results = random_case(seed=1)
    assert any(each["iscrowd"] for each in truth["annotations"])
    ours = average_precision(truth, results, kind)
    kept = ("bbox",) if kind == "bbox" else ("segmentation",)
    plain = [
        {key: each[key] for key in ("image_id", "category_id", "score", *kept)} for each in results
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = truth
        reference.createIndex()
        scorer = COCOeval(reference, reference.loadRes(plain), kind)
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    expected = 100 * scorer.stats[:3]
    assert 5 < expected[0] < 95
    assert list(ours.values()) == pytest.approx(expected, abs=1e-9)


def test_results_carry_the_json_own_numbers_and_boxes_by_width_and_height(tiny_data):
    mask = torch.zeros(1, 48, 64, dtype=torch.bool)
    mask[0, 2:4, 1:6] = True
    detections = Detections(
        boxes=torch.tensor([[1.0, 2.0, 6.0, 4.0]]),
        scores=torch.tensor([0.5]),
        labels=torch.tensor([1]),
        masks=mask,
    )
    [result] = as_results(5, detections, tiny_data.test)
    # Label 1 is the json's category 7.
    assert (result["image_id"], result["category_id"], result["score"]) == (5, 7, 0.5)
    assert result["bbox"] == [1, 2, 5, 2]
    assert masks.decode(result["segmentation"], (48, 64)).sum() == 10
