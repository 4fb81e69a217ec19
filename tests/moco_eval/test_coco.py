import json

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_mask
from PIL import Image

from moco_eval.data import masks
from moco_eval.data.coco import open_coco, read_split
from moco_eval.errors import DataError, UsageError


def edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def read(folder):
    return read_split(folder / "images", folder / "all.json")


def test_category_numbers_with_gaps_become_labels_in_their_order(coco_folder):
    split = read(coco_folder)
    # Numbers 3 and 7, listed as 7, 3.
    assert split.classes == ("early", "late")
    assert split.category_ids == (3, 7)
    assert split.scenes[0].labels.tolist() == [0, 1]
    assert [found["category_id"] for found in split.truth()["annotations"][:2]] == [3, 7]


def test_boxes_are_clipped_and_those_outside_dropped_and_counted(coco_folder):
    def move(document):
        # Images are 64 wide and 48 high.
        document["annotations"][0]["bbox"] = [50, -5, 30, 15]  # clipped: 50..64, 0..10
        document["annotations"][1]["bbox"] = [70, 5, 10, 10]  # outside
        document["annotations"][2]["bbox"] = [5, 5, 0, 10]  # without width

    edit(coco_folder / "all.json", move)
    split = read(coco_folder)
    assert split.num_dropped == 2
    assert split.scenes[0].boxes[0].tolist() == [50, 0, 64, 10]
    # Image 2 lost its early object (annotation 2) and keeps the late one.
    assert split.scenes[1].labels.tolist() == [1]
    assert len(split.scenes[1].segmentations) == 1


def test_polygons_and_both_kinds_of_run_lengths_give_the_same_mask():
    expected = np.zeros((6, 8), dtype=bool)
    expected[1:4, 2:7] = True
    # Column by column: 2 empty columns of 6 and one pixel, then 3 set, 3 not ..., 1 column of 6.
    counts = [13, 3, 3, 3, 3, 3, 3, 3, 3, 3, 8]
    assert sum(counts) == 48
    kinds = [
        [[2, 1, 7, 1, 7, 4, 2, 4]],
        {"size": [6, 8], "counts": counts},
        masks.encode(expected),
        coco_mask.frPyObjects({"size": [6, 8], "counts": counts}, 6, 8),
    ]
    for segmentation in kinds:
        assert np.array_equal(masks.decode(segmentation, (6, 8)), expected)
    assert json.loads(json.dumps(masks.encode(expected)))["size"] == [6, 8]


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ({"size": [9, 9], "counts": [81]}, "for [9, 9] pixels"),
        ([[1, 1, 5]], "three points"),
        ({"counts": [48]}, "size"),
        ("polygon", "neither polygons nor run lengths"),
    ],
)
def test_a_segmentation_that_cannot_be_decoded_is_refused(segmentation, said):
    with pytest.raises(DataError, match="neither polygons nor run lengths") as refused:
        masks.decode(segmentation, (6, 8))
    assert said in str(refused.value)


def test_an_object_without_segmentation_has_a_box_but_no_mask(coco_folder):
    edit(coco_folder / "all.json", lambda document: document["annotations"][0].pop("segmentation"))
    scene = read(coco_folder).scenes[0]
    assert len(scene.boxes) == 2
    with pytest.raises(DataError, match=r"1\.png has no segmentation"):
        scene.masks()


def test_a_mask_lies_where_its_polygon_does(coco_folder):
    # The first object: left 5, top 5, 20 wide, 24 high.
    mask = read(coco_folder).scenes[0].masks()[0]
    assert mask.sum() == 20 * 24
    assert mask[5:29, 5:25].all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.pop("images"), "expected a dictionary with images, annotations, categories"),
        (lambda d: d["annotations"].clear(), "holds no objects in its 10 images"),
        (lambda d: d["annotations"][4].update(category_id=5), "category 5"),
        (lambda d: d["annotations"][4].update(image_id=99), "image 99"),
        (lambda d: [a.update(bbox=[1, 2, 3]) for a in d["annotations"]], "bbox of 4"),
        (lambda d: d["annotations"][4].pop("bbox"), "KeyError: 'bbox'"),
        (lambda d: d["annotations"][4].update(bbox=[1, 1, float("nan"), 3]), "not finite"),
        (lambda d: d["images"][1].pop("height"), "KeyError: 'height'"),
        (lambda d: d["images"][1].update(file_name="gone.png"), "1 are missing, such as"),
    ],
)
def test_a_json_that_is_not_what_it_should_be_is_refused(coco_folder, change, said):
    edit(coco_folder / "all.json", change)
    with pytest.raises(DataError) as refused:
        read(coco_folder)
    assert said in str(refused.value)


def test_a_file_that_is_no_json_is_refused(coco_folder):
    (coco_folder / "all.json").write_text("[1, 2]")
    with pytest.raises(DataError, match="found a list"):
        read(coco_folder)
    (coco_folder / "all.json").write_text("images, boxes")
    with pytest.raises(DataError, match="is no json"):
        read(coco_folder)
    (coco_folder / "all.json").unlink()
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read(coco_folder)


def test_an_image_of_another_size_than_annotated_is_refused(coco_folder):
    Image.new("RGB", (48, 64)).save(coco_folder / "images" / "1.png")
    with pytest.raises(DataError, match=r"1\.png is 48x64, but its annotations are for 64x48"):
        read(coco_folder).scenes[0].image()


def test_a_fifth_of_the_images_is_held_out_whatever_else_is_there(coco_folder):
    spec = f"{coco_folder / 'images'}:{coco_folder / 'all.json'}"
    data = open_coco(spec)
    train = {scene.image_id for scene in data.train.scenes}
    test = {scene.image_id for scene in data.test.scenes}
    assert train | test == set(range(1, 11))
    assert not train & test
    gone = min(train)
    edit(
        coco_folder / "all.json",
        lambda d: d.update(
            images=[image for image in d["images"] if image["id"] != gone],
            annotations=[each for each in d["annotations"] if each["image_id"] != gone],
        ),
    )
    fewer = open_coco(spec)
    assert {scene.image_id for scene in fewer.train.scenes} == train - {gone}
    assert {scene.image_id for scene in fewer.test.scenes} == test
    assert fewer.fingerprint != data.fingerprint


def test_the_fingerprint_sees_images_and_annotations(coco_folder):
    half = f"{coco_folder / 'images'}:{coco_folder / 'all.json'}"
    first = open_coco(f"{half}:{half}").fingerprint
    assert open_coco(f"{half}:{half}").fingerprint == first
    edit(coco_folder / "all.json", lambda d: d["annotations"][0].update(bbox=[5, 5, 21, 24]))
    second = open_coco(f"{half}:{half}").fingerprint
    Image.new("RGB", (64, 48)).save(coco_folder / "images" / "1.png")
    third = open_coco(f"{half}:{half}").fingerprint
    assert len({first, second, third}) == 3


def test_a_specification_of_three_paths_is_refused(coco_folder):
    with pytest.raises(UsageError, match=r"names 3 paths\. Expected coco:IMAGES:JSON or"):
        open_coco("a:b:c")
    with pytest.raises(UsageError):
        open_coco("a:")


def test_splits_of_different_classes_are_refused(coco_folder):
    other = coco_folder / "other.json"
    other.write_text((coco_folder / "all.json").read_text().replace("late", "later"))
    images = coco_folder / "images"
    with pytest.raises(DataError, match=r"early, late \.\.\. against early, later \.\.\."):
        open_coco(f"{images}:{coco_folder / 'all.json'}:{images}:{other}")
