import json
import shutil

import numpy as np
import pytest
from PIL import Image

from moco_eval.data import digits
from moco_eval.data.scenes import open_digit_scenes, write_scenes
from moco_eval.errors import DataError, OutputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "digits"
    write_scenes(folder)
    return folder


@pytest.fixture(scope="module")
def data(folder):
    return open_digit_scenes(folder)


def test_there_are_300_and_100_scenes_of_one_to_four_digits(data):
    assert (len(data.train), len(data.test)) == (300, 100)
    assert data.classes == digits.CLASSES
    counts = {len(scene.labels) for split in (data.train, data.test) for scene in split.scenes}
    assert counts == {1, 2, 3, 4}
    assert {scene.image().size for scene in data.test.scenes} == {(160, 160)}


def test_a_box_is_what_its_mask_covers_and_boxes_do_not_touch_each_other(data):
    for scene in data.test.scenes:
        covered = np.zeros((160, 160), int)
        for mask, (left, top, right, bottom) in zip(
            scene.masks(), scene.boxes.astype(int), strict=True
        ):
            rows, columns = np.nonzero(mask)
            assert (columns.min(), rows.min()) == (left, top)
            assert (columns.max() + 1, rows.max() + 1) == (right, bottom)
            assert max(right - left, bottom - top) <= 60
            covered[top:bottom, left:right] += 1
        assert covered.max() == 1


def test_a_test_scene_shows_a_test_digit_of_its_class(data):
    # The largest object: only a digit of the test split, resized, has exactly this mask.
    scene = max(data.test.scenes, key=lambda scene: scene.areas.max())
    index = scene.areas.argmax()
    left, top, right, bottom = scene.boxes[index].astype(int)
    shape = scene.masks()[index][top:bottom, left:right]
    inks, labels = digits.load()
    matches = set()
    for digit in np.flatnonzero(labels == scene.labels[index]):
        image = Image.fromarray((inks[digit] / 16).astype(np.float32))
        for side in range(max(shape.shape), 61):
            mask = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)) > 0.35
            mask = mask[mask.any(1)][:, mask.any(0)]
            if mask.shape == shape.shape and (mask == shape).all():
                matches.add(int(digit))
    assert matches
    assert matches <= set(digits.digit_split()[1].tolist())


def test_digits_differ_in_colour_from_what_is_around_them(data):
    for scene in data.train.scenes[:40]:
        pixels, masks = np.asarray(scene.image(), dtype=float), scene.masks()
        for mask, (left, top, right, bottom) in zip(masks, scene.boxes.astype(int), strict=True):
            around = np.zeros_like(mask)
            around[max(top - 4, 0) : bottom + 4, max(left - 4, 0) : right + 4] = True
            around &= ~masks.any(0)
            # 60 apart where ink is full; its soft edge and the canvas's texture take some of it.
            assert np.abs(pixels[mask].mean(0) - pixels[around].mean(0)).mean() > 25


def test_the_folder_is_written_once_and_read_as_coco_data_afterwards(data, folder):
    written = (folder / "train.json").stat().st_mtime_ns
    assert open_digit_scenes(folder).fingerprint == data.fingerprint
    assert (folder / "train.json").stat().st_mtime_ns == written


def test_without_a_folder_the_scenes_lie_in_the_cache(data, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shutil.copytree(folder, tmp_path / "moco-eval" / "digits-scenes-v1")
    assert open_digit_scenes(None).fingerprint == data.fingerprint


def test_a_damaged_folder_is_refused_with_the_way_out(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    image = copy / "test" / "000007.png"
    image.write_bytes(image.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"000007\.png.*Remove .*copy to have the scenes written"):
        open_digit_scenes(copy)
    (copy / "test.json").unlink()
    with pytest.raises(DataError, match=r"test\.json cannot be read.*Remove .*copy"):
        open_digit_scenes(copy)


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("chapter 1")
    with pytest.raises(DataError, match=r"train\.json cannot be read"):
        open_digit_scenes(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_fewer_scenes_are_refused(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    document = json.loads((copy / "train.json").read_text())
    gone = document["images"].pop()["id"]
    document["annotations"] = [e for e in document["annotations"] if e["image_id"] != gone]
    (copy / "train.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="holds 299 scenes of 10 classes, not the 300 digit"):
        open_digit_scenes(copy)


def test_scenes_of_other_classes_are_refused(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    text = (copy / "train.json").read_text()
    (copy / "train.json").write_text(text.replace('"zero"', '"null"'))
    with pytest.raises(DataError, match="not the 300 digit scenes"):
        open_digit_scenes(copy)


def test_an_unwritable_place_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        open_digit_scenes(tmp_path / "file" / "scenes")
