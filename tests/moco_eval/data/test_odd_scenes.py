"""COCO files as people have them: each is read right, or refused with what to look at."""

import json

import numpy as np
import pytest
from PIL import Image

from moco_eval.data.coco import read_split
from moco_eval.data.scene import of_splits
from moco_eval.errors import DataError


@pytest.fixture
def edited(coco_folder):
    """Read the folder's json after a change to it."""

    def edited(change):
        path = coco_folder / "all.json"
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))
        return read_split(coco_folder / "images", path)

    return edited


def test_numbers_written_as_text_are_numbers(edited):
    def quote(document):
        for image in document["images"]:
            image["id"] = str(image["id"])
        for found in document["annotations"]:
            found["image_id"] = str(found["image_id"])
            found["category_id"] = str(found["category_id"])
        for category in document["categories"]:
            category["id"] = str(category["id"])

    split = edited(quote)
    assert split.category_ids == (3, 7)
    assert [scene.image_id for scene in split.scenes] == list(range(1, 11))
    assert all(len(scene.labels) == 2 for scene in split.scenes)


@pytest.mark.parametrize(("part", "said"), [("images", "image 2"), ("categories", "category 7")])
def test_a_number_that_is_taken_twice_is_refused(edited, part, said):
    def repeat(document):
        entries = document[part]
        if part == "images":
            entries[4]["id"] = 2
        else:
            entries.append({"id": 7, "name": "again"})

    with pytest.raises(DataError, match=f"two entries of {said}. Ids must be unique"):
        edited(repeat)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd"])
def test_a_name_that_leads_out_of_the_folder_is_refused(edited, name):
    with pytest.raises(DataError, match="leads out of"):
        edited(lambda document: document["images"][0].update(file_name=name))


def test_images_may_lie_in_folders_of_their_own(edited, coco_folder):
    inner = coco_folder / "images" / "2024" / "may"
    inner.mkdir(parents=True)
    (coco_folder / "images" / "1.png").rename(inner / "1.png")
    split = edited(lambda document: document["images"][0].update(file_name="2024/may/1.png"))
    assert split.scenes[0].image().size == (64, 48)


def test_missing_images_are_counted_and_one_is_named(edited, coco_folder):
    for number in (3, 5):
        (coco_folder / "images" / f"{number}.png").unlink()
    with pytest.raises(DataError, match=r"names 10 images, of which 2 are missing.*3\.png"):
        edited(lambda _: None)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_box_that_is_no_number_is_refused(edited, value):
    with pytest.raises(DataError, match=r"A box of 1\.png is not finite"):
        edited(lambda document: document["annotations"][0].update(bbox=[1, 2, value, 4]))


def test_a_box_of_negative_size_is_dropped_and_counted(edited):
    split = edited(lambda document: document["annotations"][0].update(bbox=[30, 20, -10, 5]))
    assert split.num_dropped == 1
    assert split.scenes[0].labels.tolist() == [1]


def test_keypoints_of_another_number_are_refused(edited):
    def add(document):
        document["categories"][0]["keypoints"] = ["left_tip", "right_tip"]
        document["annotations"][0]["keypoints"] = [1, 2, 2]

    with pytest.raises(DataError, match="3 numbers of keypoints, expected 3 x 2"):
        edited(add)


def test_an_object_without_keypoints_among_those_that_have_some_has_zeros(edited):
    def add(document):
        document["categories"][0]["keypoints"] = ["left_tip", "right_tip"]
        document["annotations"][0]["keypoints"] = [5, 6, 2, 7, 8, 1]

    split = edited(add)
    assert split.keypoint_flips == ((0, 1),)
    assert split.scenes[0].keypoints.tolist() == [
        [[5, 6, 2], [7, 8, 1]],
        [[0, 0, 0], [0, 0, 0]],
    ]


def test_polygons_and_run_lengths_mix_in_one_file(edited):
    from moco_eval.data.masks import encode

    drawn = np.zeros((48, 64), dtype=np.bool_)
    drawn[5:29, 5:25] = True
    split = edited(lambda document: document["annotations"][0].update(segmentation=encode(drawn)))
    first, second = split.scenes[0].masks()
    assert (first == drawn).all()
    # A polygon still: 36..52 by 11..31.
    assert second[11:31, 36:52].all()
    assert second.sum() == 16 * 20


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.full((48, 64), 90, np.uint8), (90, 90, 90)),
        # 16 bits: 90 of 255 is 23130 of 65535.
        (np.full((48, 64), 23130, np.uint16), (90, 90, 90)),
        (np.full((48, 64, 4), 90, np.uint8), (90, 90, 90)),
    ],
    ids=["grey", "16 bits", "with alpha"],
)
def test_images_of_other_kinds_become_rgb_without_being_clipped(
    edited, coco_folder, pixels, expected
):
    Image.fromarray(pixels).save(coco_folder / "images" / "1.png")
    image = edited(lambda _: None).scenes[0].image()
    assert image.mode == "RGB"
    assert image.getpixel((20, 20)) == expected


def test_a_palette_becomes_its_colours(edited, coco_folder):
    image = Image.new("P", (64, 48), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.save(coco_folder / "images" / "1.png")
    assert edited(lambda _: None).scenes[0].image().getpixel((0, 0)) == (10, 200, 30)


def test_a_truncated_image_is_named(edited, coco_folder):
    path = coco_folder / "images" / "1.png"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"1\.png"):
        edited(lambda _: None).scenes[0].image()


def test_crowds_are_described_and_classes_with_few_objects_named(edited):
    def crowd(document):
        document["annotations"][0]["iscrowd"] = 1
        document["annotations"][1]["bbox"] = [90, 5, 3, 3]

    split = edited(crowd)
    told = of_splits("mine", split, split).describe()[0]
    # 20 annotations: one is a crowd, one lies outside; of category 3 eight are left.
    assert told == (
        "train: 10 images, 18 objects, 1 crowds, 1 outside their image; 2 classes, the rarest: "
        "early 8, late 10."
    )
