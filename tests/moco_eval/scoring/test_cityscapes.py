import numpy as np
import pytest
from PIL import Image

from moco_eval.data import masks
from moco_eval.errors import DataError
from moco_eval.scoring import score


def test_an_overlap_of_60_percent_exceeds_two_of_ten_thresholds(make_scene, make_split, found):
    # 540 of 900 pixels: more than 0.5 and 0.55. Upstream's next threshold is 0.6 and a bit.
    split = make_split(make_scene(1, (0, 0, 30, 30, 0)))
    scores = score(split, [found(1, 0, 0, 18, 30)], "segm", "cityscapes")
    # One point at recall 1 and precision 1, the added one at recall 0: all of the area.
    assert scores.metrics == pytest.approx({"AP_mask": 20.0, "AP50_mask": 100.0})
    assert scores.drawn["AP_by_class"] == pytest.approx([20, np.nan], nan_ok=True)
    assert scores.drawn["precision"][0] == pytest.approx(1)


def test_the_curve_is_joined_by_straight_lines(make_scene, make_split, found):
    # Right, wrong, right of two. From the lowest score: recall 1, 1/2, 1/2, 0 and precision 2/3,
    # 1/2, 1 and the added 1. Each precision times half the recall between its neighbours:
    # 2/3 * 1/4 + 1/2 * 1/4 + 1 * 1/4 + 1 * 1/4.
    split = make_split(make_scene(1, (0, 0, 20, 20, 0), (40, 0, 60, 20, 0)))
    results = [
        found(1, 0, 0, 20, 20, score=0.9),
        found(1, 70, 70, 90, 90, score=0.8),
        found(1, 40, 0, 60, 20, score=0.7),
    ]
    scores = score(split, results, "segm", "cityscapes")
    assert scores.metrics["AP_mask"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 1 + 1) / 4)
    curve = scores.drawn["precision"][0]
    assert (curve[0], curve[50], curve[51], curve[100]) == pytest.approx((1, 1, 2 / 3, 2 / 3))


def test_a_second_mask_of_one_object_is_wrong_and_the_better_score_right(
    make_scene, make_split, found
):
    split = make_split(make_scene(1, (0, 0, 20, 20, 0), (40, 0, 60, 20, 0)))
    results = [
        found(1, 0, 0, 20, 19, score=0.8),
        found(1, 0, 0, 20, 20, score=0.9),
        found(1, 40, 0, 60, 20, score=0.7),
    ]
    # The curve of the test above; with the lower score right it would be another.
    metrics = score(split, results, "segm", "cityscapes").metrics
    assert metrics["AP50_mask"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 1 + 1) / 4)


def test_detections_of_one_score_are_one_point_of_the_curve(make_scene, make_split, found):
    split = make_split(make_scene(1, (0, 0, 20, 20, 0)))
    right, wrong = found(1, 0, 0, 20, 20), found(1, 50, 50, 70, 70)
    # Recall 1 and precision 1/2, then the added point: each times half of recall 1.
    for results in ([right, wrong], [wrong, right]):
        metrics = score(split, results, "segm", "cityscapes").metrics
        assert metrics["AP50_mask"] == pytest.approx(75)


def test_groups_small_objects_and_pixels_without_a_class_are_ignored(make_scene, make_split, found):
    right = found(1, 0, 0, 20, 20, score=0.5)
    void = right | found(1, 80, 80, 95, 95)
    scene = make_scene(
        1,
        (0, 0, 20, 20, 0),
        (40, 0, 70, 30, 0, "crowd"),
        # 81 pixels
        (40, 40, 49, 49, 0),
        extra={"void": void["segmentation"]},
    )
    for box in ((40, 0, 55, 30), (40, 40, 49, 49), (80, 80, 95, 95)):
        metrics = score(make_split(scene), [right, found(1, *box)], "segm", "cityscapes").metrics
        assert metrics["AP_mask"] == pytest.approx(100), box
    # Of this one 40 percent lie in the group: wrong. Recall 1, 0, 0 with precision 1/2, 0, 1.
    beside = [right, found(1, 64, 0, 79, 30)]
    metrics = score(make_split(scene), beside, "segm", "cityscapes").metrics
    assert metrics["AP_mask"] == pytest.approx(25)


def test_nothing_found_is_0_and_groups_alone_have_no_ap(make_scene, make_split):
    split = make_split(make_scene(1, (0, 0, 20, 20, 0)))
    assert score(split, [], "segm", "cityscapes").metrics["AP_mask"] == 0
    groups = make_split(make_scene(1, (0, 0, 20, 20, 0, "crowd"), (30, 30, 39, 39, 0)))
    with pytest.raises(DataError, match="no object of 100 pixels"):
        score(groups, [], "segm", "cityscapes")


def test_of_boxes_coco_s_numbers_are_given(make_scene, make_split, found):
    split = make_split(make_scene(1, (0, 0, 20, 20, 0)))
    scores = score(split, [found(1, 0, 0, 20, 20)], "bbox", "cityscapes")
    assert scores.details["scoring"] == "COCO"
    assert scores.metrics["AP"] == pytest.approx(100)


# Cityscapes' numbers of person and car; 4 is static, without a class, and 7 the road.
NUMBERS = (24, 26)
SIZE = (90, 160)


def random_street(draw, image_id, make_scene, find):
    """A map of instance numbers, its scene, and masks found in it."""
    ids = np.full(SIZE, 7, np.int32)
    for number in range(14):
        height, width = draw.integers(6, 40, 2)
        top, left = draw.integers(0, 80), draw.integers(0, 150)
        label = draw.choice(NUMBERS)
        own = draw.choice([label * 1000 + number, label, 4], p=[0.7, 0.15, 0.15])
        ids[top : top + height, left : left + width] = own
    instances = [each for each in np.unique(ids).tolist() if each not in (4, 7)]
    objects = []
    for each in instances:
        rows, columns = np.nonzero(ids == each)
        label = NUMBERS.index(each if each < 1000 else each // 1000)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        objects.append((*box, label, "crowd" if each < 1000 else ""))
    void = masks.encode(ids == 4)
    scene = make_scene(image_id, *objects, size=SIZE, extra={"void": void})
    whole = tuple(masks.encode(ids == each) for each in instances)
    object.__setattr__(scene, "segmentations", whole)
    found = []
    for _ in range(12):
        which = draw.integers(-2, len(instances))
        mask = ids == (instances[which] if which >= 0 else 4)
        mask = np.roll(mask, draw.integers(-2, 3, 2), (0, 1)) & (draw.random(SIZE) < 0.97)
        label = draw.integers(2) if which < 0 or draw.random() < 0.1 else objects[which][4]
        result = find(image_id, 0, 0, 1, 1, label=label, score=round(draw.random(), 2))
        found.append(result | {"segmentation": masks.encode(mask)})
    return ids, scene, found


def test_it_is_what_cityscapes_own_program_computes(
    make_scene, make_split, found, tmp_path, monkeypatch
):
    # It is of an older NumPy.
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    program = pytest.importorskip(
        "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling",
        reason="cityscapesscripts is not installed",
    )
    draw = np.random.default_rng(1)
    scenes, results, truths, answers = [], [], [], []
    for image_id in range(1, 41):
        ids, scene, own = random_street(draw, image_id, make_scene, found)
        scenes.append(scene)
        results += own
        truths.append(str(tmp_path / f"{image_id}_gtFine_instanceIds.png"))
        Image.fromarray(ids.astype(np.uint16)).save(truths[-1])
        lines = []
        for number, each in enumerate(own):
            mask = masks.decode(each["segmentation"], SIZE)
            Image.fromarray(mask.astype(np.uint8)).save(tmp_path / f"{image_id}_{number}.png")
            label = NUMBERS[(each["category_id"] - 3) // 2]
            lines.append(f"{image_id}_{number}.png {label} {each['score']}\n")
        answers.append(str(tmp_path / f"{image_id}.txt"))
        (tmp_path / f"{image_id}.txt").write_text("".join(lines))
    # Nor can it write its numbers with a newer one.
    monkeypatch.setattr(program, "writeDict2JSON", lambda *_: None)
    arguments = program.args
    monkeypatch.setattr(arguments, "predictionPath", str(tmp_path))
    monkeypatch.setattr(arguments, "gtInstancesFile", str(tmp_path / "instances.json"))
    monkeypatch.setattr(arguments, "JSONOutput", False)
    monkeypatch.setattr(arguments, "quiet", True)
    theirs = program.evaluateImgLists(answers, truths, arguments)["averages"]

    ours = score(make_split(*scenes), results, "segm", "cityscapes")
    expected = [100 * theirs["allAp"], 100 * theirs["allAp50%"]]
    assert list(ours.metrics.values()) == pytest.approx(expected, abs=1e-9)
    by_class = [100 * theirs["classes"][name]["ap"] for name in ("person", "car")]
    assert ours.drawn["AP_by_class"] == pytest.approx(by_class, abs=1e-9)
    assert 10 < expected[0] < 90
