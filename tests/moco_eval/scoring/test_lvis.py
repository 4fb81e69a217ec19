import dataclasses

import numpy as np
import pytest

from moco_eval.errors import DataError
from moco_eval.scoring import coco, score

FREQUENCIES = ("r", "c", "f")


@pytest.fixture
def make_lvis(make_split):
    """A split whose classes are rare, common, frequent, rare ..."""

    def make(*scenes, num_classes=3):
        frequencies = tuple(FREQUENCIES[label % 3] for label in range(num_classes))
        split = make_split(*scenes, num_classes=num_classes)
        return dataclasses.replace(split, frequencies=frequencies)

    return make


def test_only_what_annotators_looked_for_counts(make_scene, make_lvis, found):
    split = make_lvis(
        make_scene(1, (0, 0, 10, 10, 0)),
        # Class 0 was looked for and is not there; class 1 was not looked for.
        make_scene(2, extra={"neg_category_ids": [3], "not_exhaustive_category_ids": []}),
        make_scene(3, (0, 0, 10, 10, 1)),
        # Nobody looked for anything.
        make_scene(4),
    )
    results = [
        found(1, 0, 0, 10, 10, score=0.5),
        found(2, 0, 0, 10, 10, score=0.9),
        found(2, 0, 0, 10, 10, label=1, score=0.9),
        found(3, 0, 0, 10, 10, label=1, score=0.5),
        found(4, 0, 0, 10, 10, score=0.9),
    ]
    metrics = score(split, results, "bbox", "lvis").metrics
    # Class 0: a wrong one before the right one. Class 1: the right one alone. Class 2: not there.
    assert metrics == pytest.approx(
        {"AP": 75, "AP50": 75, "AP75": 75, "APs": 75, "APr": 50, "APc": 100}
    )
    masks = score(split, results, "segm", "lvis").metrics
    assert (masks["AP_mask"], masks["APr_mask"]) == pytest.approx((75, 50))


def test_where_a_class_is_not_marked_throughout_nothing_of_it_is_wrong(
    make_scene, make_lvis, found
):
    marked = {"neg_category_ids": [], "not_exhaustive_category_ids": [3]}
    split = make_lvis(make_scene(1, (0, 0, 10, 10, 0), extra=marked))
    results = [found(1, 50, 50, 60, 60, score=0.9), found(1, 0, 0, 10, 10, score=0.5)]
    assert score(split, results, "bbox", "lvis").metrics["AP"] == pytest.approx(100)


def test_the_best_of_all_classes_of_an_image_count(make_scene, make_lvis, found):
    split = make_lvis(make_scene(1, (0, 0, 10, 10, 0), (50, 50, 60, 60, 1)))
    results = [
        found(1, 50, 50, 60, 60, label=1, score=0.4),
        *[found(1, 50, 50, 60, 60, label=2, score=0.6)] * 2,
        found(1, 0, 0, 10, 10, score=0.5),
    ]
    three = score(split, results, "bbox", "lvis", max_detections=3).metrics
    assert (three["APr"], three["APc"]) == (pytest.approx(100), 0)
    four = score(split, results, "bbox", "lvis", max_detections=4).metrics
    assert (four["APr"], four["APc"]) == pytest.approx((100, 100))


def test_classes_without_a_frequency_are_not_lvis(make_scene, make_split):
    split = make_split(make_scene(1, (0, 0, 10, 10, 0)))
    with pytest.raises(DataError, match="frequency of r, c or f; found None"):
        score(split, [], "bbox", "lvis")


@pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning")
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_it_is_what_lvis_own_package_computes(random_case, make_lvis, monkeypatch, kind):
    lvis = pytest.importorskip("lvis", reason="lvis is no requirement: it wants another OpenCV")
    # It is of 2020, before NumPy dropped the name.
    monkeypatch.setattr(np, "float", float, raising=False)
    plain, results = random_case(150, seed=5, num_classes=9)
    monkeypatch.setattr(coco, "MAX_CELLS", 600)
    draw = np.random.default_rng(6)
    for scene in plain.scenes:
        scene.crowd[:] = False
        others = draw.permutation(plain.category_ids).tolist()
        own = {plain.category_ids[label] for label in scene.labels}
        looked_for = [number for number in others[:3] if number not in own]
        marked = {"neg_category_ids": looked_for, "not_exhaustive_category_ids": others[6:]}
        object.__setattr__(scene, "extra", marked)
    split = make_lvis(*plain.scenes, num_classes=9)
    ours = score(split, results, kind, "lvis", max_detections=10).metrics

    kept = ("image_id", "category_id", "score", *coco._FIELDS[kind])
    reference = lvis.LVIS.__new__(lvis.LVIS)
    reference.dataset = split.truth()
    reference.logger = lvis.lvis.logging.getLogger("lvis")
    reference._create_index()
    told = [{name: each[name] for name in kept} for each in results]
    scorer = lvis.LVISEval(reference, lvis.LVISResults(reference, told, max_dets=10), kind)
    scorer.run()
    theirs = [100 * scorer.get_results()[name.removesuffix("_mask")] for name in ours]
    assert len(ours) == 9
    assert list(ours.values()) == pytest.approx(theirs, abs=1e-9)
    assert 10 < theirs[0] < 90
