import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from moco_eval.errors import DataError, DivergedError
from moco_eval.scoring import coco, score

FIELDS = {"bbox": ("bbox",), "segm": ("segmentation",), "keypoints": ("keypoints", "bbox")}


def test_a_box_that_overlaps_by_60_percent_counts_at_three_of_ten_thresholds(
    make_scene, make_split, found
):
    # 60 of 100 pixels: IoU 0.6 is enough at 0.5, 0.55 and 0.6, not at 0.65 to 0.95.
    split = make_split(make_scene(1, (0, 0, 10, 10, 0)))
    scores = score(split, [found(1, 0, 0, 6, 10)], "bbox")
    # All objects are small: the others have no AP to tell.
    assert scores.metrics == pytest.approx({"AP": 30.0, "AP50": 100.0, "AP75": 0.0, "APs": 30.0})
    assert next(iter(scores.metrics)) == "AP"
    assert scores.drawn["AP_by_class"] == pytest.approx([30, np.nan], nan_ok=True)
    assert scores.drawn["AP_by_size"] == pytest.approx([30, np.nan, np.nan], nan_ok=True)


def test_all_found_is_100_and_nothing_found_is_0(make_scene, make_split, found):
    split = make_split(make_scene(1, (0, 0, 10, 10, 0), (50, 50, 90, 90, 1)), make_scene(2))
    perfect = [found(1, 0, 0, 10, 10), found(1, 50, 50, 90, 90, label=1)]
    for kind, suffix in (("bbox", ""), ("segm", "_mask")):
        names = [f"{name}{suffix}" for name in ("AP", "AP50", "AP75", "APs", "APm")]
        everything = score(split, perfect, kind)
        assert everything.metrics == pytest.approx(dict.fromkeys(names, 100.0))
        nothing = score(split, [], kind)
        assert nothing.metrics == dict.fromkeys(names, 0.0)
        assert nothing.drawn["precision"].tolist() == [[0.0] * 101] * 2


def test_what_is_found_in_a_crowd_is_neither_right_nor_wrong(make_scene, make_split, found):
    split = make_split(make_scene(1, (0, 0, 10, 10, 0), (40, 40, 90, 90, 0, "crowd")))
    in_crowd = [found(1, 45, 45, 50, 50, score=0.99), found(1, 0, 0, 10, 10, score=0.5)]
    assert score(split, in_crowd, "bbox").metrics["AP"] == pytest.approx(100)


def test_precision_is_drawn_by_recall_at_an_overlap_of_a_half(make_scene, make_split, found):
    # Found in order: right, wrong, right of two. The second reaches recall 1 with 2 of 3 right.
    split = make_split(make_scene(1, (0, 0, 10, 10, 1), (40, 40, 60, 60, 1)))
    results = [
        found(1, 0, 0, 10, 10, label=1, score=0.9),
        found(1, 70, 70, 80, 80, label=1, score=0.8),
        found(1, 40, 40, 60, 60, label=1, score=0.7),
    ]
    precision = score(split, results, "bbox").drawn["precision"]
    assert precision.shape == (2, 101)
    assert np.isnan(precision[0]).all()
    assert precision[1, :51] == pytest.approx(1)
    assert precision[1, 51:] == pytest.approx(2 / 3)


def test_of_masks_the_mask_decides_about_size_and_overlap(make_scene, make_split, found):
    split = make_split(make_scene(1, (0, 0, 40, 40, 0)))
    # The box is right; the mask fills a quarter of it.
    result = found(1, 0, 0, 20, 20) | {"bbox": [0, 0, 40, 40]}
    assert score(split, [result], "bbox").metrics["AP"] == pytest.approx(100)
    assert score(split, [result], "segm").metrics["AP_mask"] == 0


def pycocotools(truth, results, kind):
    kept = ("image_id", "category_id", "score", *FIELDS[kind])
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = truth
        reference.createIndex()
        plain = [{name: each[name] for name in kept} for each in results]
        scorer = COCOeval(reference, reference.loadRes(plain), kind)
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    return scorer


@pytest.fixture(scope="module")
def many(random_case):
    """600 images of 20 classes."""
    return random_case(600, seed=1)


@pytest.mark.parametrize("kind", ["bbox", "segm", "keypoints"])
def test_all_numbers_are_those_of_pycocotools(many, kind):
    split, results = many
    assert sum(not len(scene.labels) for scene in split.scenes) > 20
    assert len({each["score"] for each in results}) < len(results) / 20
    before = [dict(each) for each in results]
    ours = score(split, results, kind)
    assert results == before, "what is scored is written into"

    scorer = pycocotools(split.truth(), results, kind)
    suffix = {"bbox": "", "segm": "_mask", "keypoints": "_kp"}[kind]
    numbers = [*ours.metrics.values(), *ours.details[f"recall{suffix}"].values()]
    assert len(numbers) == (10 if kind == "keypoints" else 12)
    assert numbers == pytest.approx(100 * scorer.stats, abs=1e-9)
    assert 10 < numbers[0] < 90
    precision = scorer.eval["precision"][..., 0, -1]
    assert ours.drawn["AP_by_class"] == pytest.approx(100 * precision.mean(axis=(0, 1)), abs=1e-9)
    assert ours.drawn["precision"] == pytest.approx(precision[0].T, abs=1e-12)


@pytest.mark.parametrize("kind", ["bbox", "keypoints"])
def test_classes_in_parts_score_as_all_at_once(random_case, monkeypatch, kind):
    split, results = random_case(30, seed=7, num_classes=5)
    whole = score(split, results, kind)
    # Two classes at a time.
    monkeypatch.setattr(coco, "MAX_CELLS", 60)
    parts = score(split, results, kind)
    assert parts.metrics == whole.metrics
    assert parts.details == whole.details
    for name, drawn in whole.drawn.items():
        np.testing.assert_array_equal(parts.drawn[name], drawn)


def test_keypoints_of_another_number_than_a_persons_are_all_as_exact(make_scene, make_split):
    # sigma s = 0.0636, area 400: exp(-d^2 / (2 * 400 * (2s)^2)) is 0.5 at d = 3.0.
    points = np.array([[[10, 10, 2], [20, 20, 2]]], float)
    split = make_split(make_scene(1, (5, 5, 25, 25, 0), keypoints=points), num_keypoints=2)

    def at(distance):
        keypoints = [10 + distance, 10, 1, 20, 20 + distance, 1]
        result = {"image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 20], "score": 0.9}
        return score(split, [result | {"keypoints": keypoints}], "keypoints")

    exact = 0.0636 * 2 * np.sqrt(2 * 400 * np.log(2))
    assert 2.9 < exact < 3.1
    assert at(exact * 0.99).metrics["AP50_kp"] == pytest.approx(100)
    assert at(exact * 1.01).metrics["AP50_kp"] == 0
    assert "not COCO's points" in at(0).details["keypoint_sigmas"]


def test_only_the_best_detections_of_an_image_and_class_count(make_scene, make_split, found):
    split = make_split(make_scene(1, (0, 0, 10, 10, 0)))
    wrong = [found(1, 50, 50, 60, 60, score=0.9)] * 3
    results = [*wrong, found(1, 0, 0, 10, 10, score=0.5)]
    # Of 4 the last is right: precision 1/4 everywhere.
    assert score(split, results, "bbox", max_detections=4).metrics["AP"] == pytest.approx(25)
    assert score(split, results, "bbox", max_detections=3).metrics["AP"] == 0


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("score", float("nan"), "A score of 1 of 2 detections"),
        ("bbox", [0, 0, float("inf"), 1], "A box of 1 of 2 detections"),
        ("keypoints", [0, float("nan"), 1], "A keypoint of 1 of 2 detections"),
    ],
)
def test_numbers_that_are_none_are_refused_by_name(
    make_scene, make_split, found, field, value, words
):
    split = make_split(make_scene(1, (0, 0, 10, 10, 0)), make_scene(7))
    good = found(1, 0, 0, 10, 10) | {"keypoints": [0, 0, 1]}
    bad = found(7, 0, 0, 10, 10) | {"keypoints": [0, 0, 1], field: value}
    with pytest.raises(DivergedError, match=rf"{words}.*first in 7\.png \(image 7\)"):
        score(split, [good, bad], "bbox")


def test_a_truth_of_crowds_alone_has_no_ap(make_scene, make_split):
    split = make_split(make_scene(1, (0, 0, 10, 10, 0, "crowd")))
    with pytest.raises(DataError, match="made-up holds no object that counts in the AP of bbox"):
        score(split, [], "bbox")


def test_a_truth_without_masks_or_keypoints_is_refused(make_scene, make_split, found):
    scene = make_scene(1, (0, 0, 10, 10, 0), (0, 0, 9, 9, 0))
    object.__setattr__(scene, "segmentations", (scene.segmentations[0], None))
    split, result = make_split(scene), found(1, 0, 0, 10, 10)
    with pytest.raises(DataError, match=r"An object in 1\.png has no segmentation"):
        score(split, [result], "segm")
    with pytest.raises(DataError, match=r"The objects in 1\.png have no keypoints"):
        score(split, [result | {"keypoints": [0, 0, 1]}], "keypoints")
