import itertools

import numpy as np
import pytest
import torch

from moco_eval.errors import DataError
from moco_eval.scoring import score


def test_two_of_three_found_by_hand(make_scene, make_split, found):
    # Right, wrong, right: recall 1/3, 1/3, 2/3 with precision 1, 1/2, 2/3.
    split = make_split(
        make_scene(1, (0, 0, 10, 10, 0), (20, 0, 30, 10, 0)),
        make_scene(2, (0, 0, 10, 10, 0)),
    )
    results = [
        found(1, 0, 0, 10, 10, score=0.9),
        found(1, 50, 50, 60, 60, score=0.8),
        found(2, 0, 0, 10, 10, score=0.7),
    ]
    area = score(split, results, "bbox", "voc12")
    # A third at 1 and a third at 2/3, at every overlap; class 1 is not in the truth.
    assert area.metrics == pytest.approx(dict.fromkeys(("AP", "AP50", "AP75"), 100 * 5 / 9))
    points = score(split, results, "bbox", "voc07")
    # Recalls 0 to 0.3 at 1, 0.4 to 0.6 at 2/3, the others at 0.
    assert points.metrics["AP"] == pytest.approx(100 * (4 + 3 * 2 / 3) / 11)
    assert points.drawn["AP_by_class"] == pytest.approx([600 / 11, np.nan], nan_ok=True)
    curve = points.drawn["precision"][0]
    assert curve[:34] == pytest.approx(1)
    assert curve[34:67] == pytest.approx(2 / 3)
    assert curve[67:] == pytest.approx(0)
    assert points.details["scoring"] == "PASCAL VOC 2007, mean of 11 precisions"


def test_boxes_end_at_the_pixel_that_they_name(make_scene, make_split, found):
    split = make_split(make_scene(1, (0, 0, 10, 10, 0)))
    # The devkit's 1 to 10 is ten pixels, as ours of 0 to 10: IoU 50/100, and it must exceed 1/2.
    assert score(split, [found(1, 0, 0, 5, 10)], "bbox", "voc12").metrics["AP50"] == 0
    assert score(split, [found(1, 0, 0, 5.06, 10)], "bbox", "voc12").metrics["AP50"] == 100
    # Coordinates count with one decimal.
    assert score(split, [found(1, 0, 0, 5.04, 10)], "bbox", "voc12").metrics["AP50"] == 0


def test_scores_count_with_three_decimals(make_scene, make_split, found):
    split = make_split(make_scene(1, (0, 0, 10, 10, 0)))
    right, wrong = found(1, 0, 0, 10, 10, score=0.8004), found(1, 50, 50, 60, 60, score=0.8001)
    # Alike, they are ranked as they come: the wrong one first halves all precision.
    assert score(split, [wrong, right], "bbox", "voc12").metrics["AP"] == pytest.approx(50)
    assert score(split, [right, wrong], "bbox", "voc12").metrics["AP"] == pytest.approx(100)


def test_what_is_difficult_is_neither_missed_nor_wrongly_found(make_scene, make_split, found):
    split = make_split(make_scene(1, (0, 0, 10, 10, 0), (40, 40, 90, 90, 0, "difficult")))
    first = [found(1, 40, 40, 90, 90, score=0.9), found(1, 40, 40, 88, 90, score=0.8)]
    for year in ("voc07", "voc12"):
        scores = score(split, [*first, found(1, 0, 0, 10, 10, score=0.5)], "bbox", year)
        assert scores.metrics["AP"] == pytest.approx(100)


def test_a_second_box_of_one_object_is_wrong(make_scene, make_split, found):
    split = make_split(make_scene(1, (0, 0, 10, 10, 0), (50, 50, 70, 70, 0)))
    results = [
        found(1, 0, 0, 10, 10, score=0.9),
        found(1, 0, 0, 10, 10, score=0.8),
        found(1, 50, 50, 70, 70, score=0.7),
    ]
    # Half at precision 1, half at 2/3.
    assert score(split, results, "bbox", "voc12").metrics["AP"] == pytest.approx(100 * 5 / 6)


def test_nothing_found_is_0_and_nothing_that_counts_has_no_ap(make_scene, make_split):
    split = make_split(make_scene(1, (0, 0, 10, 10, 0)))
    for year in ("voc07", "voc12"):
        assert score(split, [], "bbox", year).metrics == dict.fromkeys(("AP", "AP50", "AP75"), 0.0)
    hopeless = make_split(make_scene(1, (0, 0, 10, 10, 0, "difficult")))
    with pytest.raises(DataError, match="all are difficult"):
        score(hopeless, [], "bbox", "voc07")


def write_devkit(folder, split):
    """PASCAL VOC's layout; pixels are counted from 1 and boxes end at the one that they name."""
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    names = [f"{scene.image_id:06}" for scene in split.scenes]
    (folder / "ImageSets/Main/test.txt").write_text("\n".join(names))
    for name, scene in zip(names, split.scenes, strict=True):
        objects = "".join(
            f"<object><name>{split.classes[label]}</name><pose/><truncated>0</truncated>"
            f"<difficult>{int(difficult)}</difficult><bndbox><xmin>{left + 1}</xmin>"
            f"<ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
            for label, difficult, (left, top, right, bottom) in zip(
                scene.labels, scene.difficult, scene.boxes.astype(int), strict=True
            )
        )
        text = f"<annotation>{objects}</annotation>"
        (folder / "Annotations" / f"{name}.xml").write_text(text)


def detectron2_scores(folder, split, results, year):
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import PascalVOCDetectionEvaluator
    from detectron2.structures import Boxes, Instances

    name = f"made-up-{folder.name}-{year}"
    MetadataCatalog.get(name).set(
        dirname=str(folder), split="test", year=year, thing_classes=list(split.classes)
    )
    evaluator = PascalVOCDetectionEvaluator(name)
    evaluator.reset()
    for image_id, found in itertools.groupby(results, key=lambda each: each["image_id"]):
        own = list(found)
        instances = Instances((480, 640))
        corners = np.array([each["bbox"] for each in own])
        corners[:, 2:] += corners[:, :2]
        instances.pred_boxes = Boxes(torch.tensor(corners, dtype=torch.float32))
        instances.scores = torch.tensor([each["score"] for each in own])
        labels = [split.category_ids.index(each["category_id"]) for each in own]
        instances.pred_classes = torch.tensor(labels)
        evaluator.process([{"image_id": f"{image_id:06}"}], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


class StableNumpy:
    """numpy whose argsort leaves what is equal in its order."""

    def __getattr__(self, name):
        return getattr(np, name)

    def argsort(self, values):
        return np.argsort(values, kind="stable")


@pytest.mark.detectron2
@pytest.mark.parametrize("year", [2007, 2012])
def test_it_is_what_detectron2_computes(random_case, tmp_path, monkeypatch, year):
    from detectron2.evaluation import pascal_voc_evaluation

    split, results = random_case(200, seed=3, num_classes=6)
    write_devkit(tmp_path, split)
    # Many scores are equal, of which its sort makes an order that differs between machines.
    monkeypatch.setattr(pascal_voc_evaluation, "np", StableNumpy())
    # The devkit has no crowds; to it they are objects.
    for scene in split.scenes:
        scene.crowd[:] = False
    ours = score(split, results, "bbox", f"voc{year % 100:02}")
    theirs = detectron2_scores(tmp_path, split, results, year)
    assert ours.metrics == pytest.approx(theirs, abs=1e-9)
    assert 10 < ours.metrics["AP"] < 90


@pytest.mark.detectron2
def test_without_equal_scores_it_is_detectron2s_own_number(random_case, tmp_path):
    split, results = random_case(200, seed=4, num_classes=6)
    write_devkit(tmp_path, split)
    for scene in split.scenes:
        scene.crowd[:] = False
    order = np.random.default_rng(0).permutation(999)
    places = dict.fromkeys(split.category_ids, 0)
    for each in results:
        each["score"] = float(np.float32(order[places[each["category_id"]]] / 1000))
        places[each["category_id"]] += 1
    ours = score(split, results, "bbox", "voc07").metrics
    assert ours == pytest.approx(detectron2_scores(tmp_path, split, results, 2007), abs=1e-9)
