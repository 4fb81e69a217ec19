"""Detection sets in their published layouts, and what is said when one is not."""

import numpy as np
import pytest
from dense_layouts import BOXES, allow_miniatures, write_set
from PIL import Image

from moco_eval.data import scene_sets
from moco_eval.data.catalog import open_scenes
from moco_eval.data.scene_sets import SCENE_SETS
from moco_eval.errors import DataError, UsageError


@pytest.fixture
def opened(tmp_path, monkeypatch):
    monkeypatch.setenv("MOCO_EVAL_CACHE", str(tmp_path / "cache"))
    allow_miniatures(monkeypatch)

    def opened(name):
        return open_scenes(write_set(name, tmp_path / "data"))

    return opened


@pytest.mark.parametrize("name", SCENE_SETS)
def test_each_set_opens_from_its_own_layout(opened, name):
    data = opened(name)
    assert data.id == name
    for scene in (*data.train.scenes, *data.test.scenes):
        assert scene.image().size == (64, 48)
        # Every box of the layouts, whichever class it has there.
        assert {tuple(box) for box in scene.boxes.tolist()} >= set(BOXES)
    assert data.fingerprint == open_scenes(f"{name}:{data_folder(data)}").fingerprint
    assert data.describe()[0].startswith(f"train: {len(data.train)} images, ")


def data_folder(data):
    path = data.train.scenes[0].path
    return next(parent for parent in path.parents if parent.name == "data")


@pytest.mark.parametrize("name", SCENE_SETS)
def test_a_set_that_is_missing_shows_the_expected_tree(tmp_path, name):
    with pytest.raises(DataError) as caught:
        open_scenes(f"{name}:{tmp_path}")
    text = str(caught.value)
    assert f"{name}:{tmp_path} is not laid out as expected" in text
    assert "is missing." in text
    assert all(line.replace("DIR", str(tmp_path)) in text for line in tree_of(name))
    assert SCENE_SETS[name].get in text


def tree_of(name):
    return SCENE_SETS[name].tree.splitlines()


def test_a_set_of_another_size_is_refused_with_both_numbers(tmp_path):
    spec = write_set("voc07", tmp_path)
    with pytest.raises(DataError, match="holds 2 training images; it is published with 5,011"):
        open_scenes(spec)


def test_a_set_without_a_folder_is_refused():
    with pytest.raises(UsageError, match="It is written: voc07:DIR"):
        open_scenes("voc07")


def test_vocs_boxes_begin_at_zero_and_difficult_objects_are_marked(opened):
    data = opened("voc07+12")
    # 2007 first, then 2012, each image with a number of its own.
    assert [scene.path.stem for scene in data.train.scenes] == [
        *("000001", "000002", "2008_000001", "2008_000002")
    ]
    assert [scene.image_id for scene in data.train.scenes] == [1, 2, 3, 4]
    scene = data.test.scenes[0]
    assert [data.classes[label] for label in scene.labels] == ["dog", "cat"]
    assert scene.boxes.tolist() == [[4, 5, 24, 29], [36, 10, 60, 40]]
    assert scene.difficult.tolist() == [False, True]
    assert data.scoring == "voc07"


def test_vocdevkit_itself_is_the_same_data(opened, tmp_path):
    data = opened("voc07")
    inner = open_scenes(f"voc07:{tmp_path / 'data' / 'VOCdevkit'}")
    assert inner.fingerprint == data.fingerprint
    # An annotation that changed its length is other data.
    path = tmp_path / "data/VOCdevkit/VOC2007/Annotations/000001.xml"
    path.write_text(path.read_text() + " ")
    assert open_scenes(f"voc07:{tmp_path / 'data'}").fingerprint != data.fingerprint


def test_an_annotation_that_is_not_vocs_is_named(opened, tmp_path):
    opened("voc07")
    path = tmp_path / "data/VOCdevkit/VOC2007/Annotations/000001.xml"
    text = path.read_text()
    for broken in (text.replace("<xmin>5</xmin>", ""), text.replace("dog", "wolf"), text[:40]):
        path.write_text(broken)
        with pytest.raises(DataError, match=r"000001\.xml is no annotation of VOC's"):
            open_scenes(f"voc07:{tmp_path / 'data'}")


def test_keypoints_are_read_with_the_pairs_that_a_mirror_exchanges(opened):
    data = opened("coco2017-keypoints")
    assert data.train.keypoint_names == ("nose", "left_eye", "right_eye", "left_hip", "right_hip")
    assert data.train.keypoint_flips == ((1, 2), (3, 4))
    scene = data.train.scenes[0]
    assert scene.keypoints.shape == (2, 5, 3)
    assert scene.keypoints[0, 1].tolist() == [7, 9, 2]
    found = data.train.truth()["annotations"][0]
    assert found["num_keypoints"] == 5
    assert found["keypoints"][3:6] == [7, 9, 2]


def test_licences_are_told(opened):
    assert opened("coco2017").describe()[-1] == "Licences of the images: CC BY 2.0."


def test_lvis_keeps_what_its_scoring_asks_for(opened):
    data = opened("lvis-v0.5")
    assert data.scoring == "lvis"
    truth = data.test.truth()
    assert [category["frequency"] for category in truth["categories"]] == ["r", "f", "c"]
    assert truth["images"][0]["neg_category_ids"] == [2]
    # Of the address the folder counts: LVIS's own validation images are of COCO's train2017.
    assert data.test.scenes[0].path.parts[-2:] == ("train2017", "000000000003.jpg")


def test_cityscapes_objects_groups_and_void(opened, monkeypatch):
    data = opened("cityscapes")
    scene = data.train.scenes[0]
    names = [data.classes[label] for label in scene.labels]
    # In the order of the map's numbers: the group, 24; the person, 24000; the car, 26001.
    assert names == ["person", "person", "car"]
    assert scene.crowd.tolist() == [True, False, False]
    assert scene.boxes.tolist() == [[2, 42, 12, 46], [36, 10, 60, 40], [4, 5, 24, 29]]
    assert scene.areas.tolist() == [40, 24 * 30, 20 * 24]
    person, car = scene.masks()[1:]
    assert person[10:40, 36:60].all()
    assert person.sum() == 24 * 30
    assert car[5:29, 4:24].all()
    # The four rows of the sky without the class are void, and nothing else is.
    from moco_eval.data.masks import decode

    void = decode(scene.extra["void"], scene.size)
    assert void[:4].all()
    assert not void[4:].any()


def test_a_map_of_colours_is_no_map_of_objects(opened, tmp_path):
    data = opened("cityscapes")
    image = data.train.scenes[0].path
    path = next((tmp_path / "data/gtFine/train/ulm").iterdir())
    Image.open(image).convert("RGB").save(path)
    with pytest.raises(DataError, match="is no map of numbers"):
        open_scenes(f"cityscapes:{tmp_path / 'data'}")


def test_published_numbers_have_a_source():
    for name, published in scene_sets.SCENE_SETS.items():
        assert published.source, name
        assert np.all([published.num_train, published.num_test, published.num_classes]), name
