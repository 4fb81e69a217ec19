"""ImageNet and other large sets in miniature, and what all sets of the literature share."""

import json

import numpy as np
import pytest

from moco_eval.data import catalog, facts
from moco_eval.data.catalog import open_images, open_labelled
from moco_eval.errors import DataError, UsageError

# Grey values of the images, in order: training 1, 2, 3; test 21, 22.
TRAIN, TEST = (1, 2, 3), (21, 22)


def values_of(split):
    return [int(np.asarray(image).flat[0]) for image in split.images]


def opened(data):
    """What is in it, in the order in which it is."""
    return (values_of(data.train), list(data.train.labels)), (
        values_of(data.test),
        list(data.test.labels),
    )


def write_imagenet(put):
    for part, grey in (("train", TRAIN), ("val", TEST)):
        for value, wnid in zip(grey, ("n00000009", "n00000002", "n00000009"), strict=False):
            put(f"{part}/{wnid}/{value}.JPEG", value)


def test_imagenet_lies_in_folders_by_wnid(tmp_path, put, published):
    published("imagenet", 3, 2)
    write_imagenet(put)
    data = open_images(f"imagenet:{tmp_path}")
    assert (data.id, data.classes) == ("imagenet", ("n00000002", "n00000009"))
    assert opened(data) == (([2, 1, 3], [0, 1, 1]), ([22, 21], [0, 1]))


def test_imagenet100_is_the_classes_that_a_file_names(tmp_path, put, published):
    published("imagenet100", 2, 1, num_classes=1)
    write_imagenet(put)
    put("classes.txt", "n00000009 great auk\n")
    data = open_images(f"imagenet100:{tmp_path}:{tmp_path}/classes.txt")
    assert (data.id, data.classes) == ("imagenet100", ("n00000009",))
    assert opened(data) == (([1, 3], [0, 0]), ([21], [0]))
    with pytest.raises(DataError, match=r"holds 3 training and 2 test images of 2 classes"):
        open_images(f"imagenet100:{tmp_path}")
    # Where no other classes lie there, no file is needed, and the images are the same.
    for part, value in (("train", 2), ("val", 22)):
        (tmp_path / part / f"n00000002/{value}.JPEG").unlink()
        (tmp_path / part / "n00000002").rmdir()
    assert open_images(f"imagenet100:{tmp_path}").fingerprint == data.fingerprint
    put("classes.txt", "n00000009\nn00000004\n")
    with pytest.raises(DataError, match=r"train lacks 1 of the 2 classes .*: n00000004\."):
        open_images(f"imagenet100:{tmp_path}:{tmp_path}/classes.txt")
    put("classes.txt", "great auk\n")
    with pytest.raises(DataError, match=r"classes\.txt names no class, such as n02869837"):
        open_images(f"imagenet100:{tmp_path}:{tmp_path}/classes.txt")


def test_places205_lists_scenes_in_two_files(tmp_path, put, published):
    published("places205", 3, 2)
    scenes = {1: ("b/bar/indoor", 1), 2: ("a/abbey", 0), 3: ("a/abbey", 0)}
    scenes |= {21: ("b/bar/indoor", 1), 22: ("a/abbey", 0)}
    for part, grey in (("train", TRAIN), ("val", TEST)):
        lines = [f"{scenes[v][0]}/gsun_{v}.jpg {scenes[v][1]}\n" for v in grey]
        put(f"trainvalsplit_places205/{part}_places205.csv", "".join(lines))
        for value in grey:
            folder = f"data/vision/torralba/deeplearning/images256/{scenes[value][0]}"
            put(f"{folder}/gsun_{value}.jpg", value)
    data = open_images(f"places205:{tmp_path}")
    assert data.classes == ("abbey", "bar/indoor")
    assert opened(data) == (([1, 2, 3], [1, 0, 0]), ([21, 22], [1, 0]))


def write_inat(put):
    species = {1: 70, 2: 8, 3: 70, 21: 8, 22: 70}
    for part, grey in (("train", TRAIN), ("val", TEST)):
        names = {v: f"train_val2018/Aves/{species[v]}/{v}.jpg" for v in grey}
        document = {
            "images": [{"id": 100 + v, "file_name": names[v], "width": -9} for v in grey],
            # In an order of their own.
            "annotations": [
                {"id": -9, "image_id": 100 + v, "category_id": species[v]} for v in reversed(grey)
            ],
            "categories": [
                {"id": 70, "name": "Ara macao", "supercategory": "Aves"},
                {"id": 8, "name": "Pica pica", "supercategory": "Aves"},
            ],
        }
        put(f"{part}2018.json", json.dumps(document))
        for value in grey:
            put(names[value], value)


def test_inat2018_annotates_as_coco_does(tmp_path, put, published):
    published("inat2018", 3, 2)
    write_inat(put)
    data = open_images(f"inat2018:{tmp_path}")
    assert data.classes == ("Pica pica", "Ara macao")
    assert opened(data) == (([1, 2, 3], [1, 0, 1]), ([21, 22], [0, 1]))


@pytest.mark.parametrize("name", sorted(facts.DATASETS))
def test_a_set_that_is_not_there_says_what_it_is_and_how_to_get_it(tmp_path, name):
    with pytest.raises(DataError) as caught:
        open_labelled(f"{name}:{tmp_path}/no")
    assert f":{tmp_path}/no cannot be opened: " in str(caught.value)
    known = facts.DATASETS[name]
    if not name.startswith("cifar"):
        assert f"It must hold {known.holds}." in str(caught.value)
    assert known.get.replace("{dir}", f"{tmp_path}/no") in str(caught.value)
    # Asking for a set makes no folder.
    assert not (tmp_path / "no").exists()


def test_lists_that_contradict_each_other_say_so(tmp_path, put, published):
    published("inat2018", 3, 2)
    write_inat(put)
    document = json.loads((tmp_path / "val2018.json").read_text())
    document["annotations"].pop()
    put("val2018.json", json.dumps(document))
    with pytest.raises(DataError, match="one of its lists names 121, which another one lacks"):
        open_images(f"inat2018:{tmp_path}")


def test_more_than_a_folder_is_refused():
    with pytest.raises(UsageError, match="pets:a:b is not written as pets:DIR"):
        open_images("pets:a:b")


def test_every_known_set_can_be_opened_and_is_told_of():
    told = catalog.describe()
    assert len(told) == len(catalog.DATASETS) == 16
    by_name = dict(zip(catalog.DATASETS, told, strict=True))
    assert by_name["aircraft"].splitlines()[:2] == [
        "aircraft:DIR",
        "  FGVC Aircraft: 100 classes, 3,334 training + 3,333 validation and 3,333 test images; "
        "metric mean_per_class",
    ]
    assert "download=True" in by_name["food101"]
    assert "{dir}" not in "".join(told)
