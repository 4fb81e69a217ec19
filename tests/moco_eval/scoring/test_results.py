from types import SimpleNamespace

import torch

from moco_eval.data import masks
from moco_eval.scoring import as_results
from moco_eval.scoring.results import found_boxes, true_boxes


def test_results_carry_the_json_own_numbers_and_boxes_by_width_and_height(make_scene, make_split):
    mask = torch.zeros(1, 48, 64, dtype=torch.bool)
    mask[0, 2:4, 1:6] = True
    detections = SimpleNamespace(
        boxes=torch.tensor([[1.0, 2.0, 6.0, 4.0]]),
        scores=torch.tensor([0.5]),
        labels=torch.tensor([1]),
        masks=mask,
        keypoints=torch.tensor([[[1.5, 2.0, 0.25], [3.0, 4.0, 0.5]]]),
    )
    [result] = as_results(5, detections, make_split(make_scene(5)))
    # Label 1 is the json's category 5.
    assert (result["image_id"], result["category_id"], result["score"]) == (5, 5, 0.5)
    assert result["bbox"] == [1, 2, 5, 2]
    assert masks.decode(result["segmentation"], (48, 64)).sum() == 10
    # The middle of COCO's first pixel is 0.
    assert result["keypoints"] == [1.0, 1.5, 0.25, 2.5, 3.5, 0.5]


def test_what_has_neither_masks_nor_keypoints_says_nothing_of_them(make_scene, make_split):
    detections = SimpleNamespace(
        boxes=torch.zeros(1, 4),
        scores=torch.ones(1),
        labels=torch.zeros(1, dtype=torch.int64),
        masks=None,
        keypoints=None,
    )
    [result] = as_results(1, detections, make_split(make_scene(1)))
    assert set(result) == {"image_id", "category_id", "bbox", "score"}


def test_results_of_any_order_come_scene_by_scene(make_scene, make_split, found):
    split = make_split(make_scene(7, (1, 2, 3, 4, 1, "crowd")), make_scene(4, (0, 0, 9, 9, 0)))
    boxes = found_boxes(split, [found(4, 0, 0, 2, 2), found(7, 1, 1, 5, 6, label=1, score=0.25)])
    assert boxes.scenes.tolist() == [0, 1]
    assert boxes.corners.tolist() == [[1, 1, 5, 6], [0, 0, 2, 2]]
    assert (boxes.labels.tolist(), boxes.scores.tolist()) == ([1, 0], [0.25, 0.9])
    truth = true_boxes(split)
    assert truth.corners.tolist() == [[1, 2, 3, 4], [0, 0, 9, 9]]
    assert truth.ignored.tolist() == [True, False]
