"""Segmentation data: numbers stay numbers, pairs fit, layouts are told."""

import dataclasses
import warnings

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from moco_eval.data import catalog, semantic, semantic_sets
from moco_eval.data.scenes import open_digit_scenes
from moco_eval.errors import DataError, UsageError


def save(path, pixels, mode=None, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels) if mode is None else Image.fromarray(pixels).convert(mode)
    if palette is not None:
        image.putpalette(palette)
    image.save(path)
    return path


def numbers(*rows):
    return np.array(rows, dtype=np.uint8)


def colours(height, width):
    return np.random.RandomState(0).randint(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def own(tmp_path):
    """Three training and two test pairs of 4x3 pixels of two classes."""
    (tmp_path / "classes.txt").write_text("sky\nground\n")
    for part, names in (("train", "abc"), ("val", "de")):
        for name in names:
            save(tmp_path / f"{part}/images/{name}.png", colours(3, 4))
            save(tmp_path / f"{part}/masks/{name}.png", numbers(*[[0, 1, 255, 0]] * 3))
    return tmp_path


def test_own_images_and_masks_are_paired_by_name(own):
    save(own / "val/images/deep/f.jpg", colours(3, 4))
    save(own / "val/masks/deep/f.png", numbers(*[[1, 1, 1, 1]] * 3))
    data = catalog.open_semantic(f"masks:{own}")
    assert data.id == f"masks-{own.name}"
    assert data.classes == ("sky", "ground")
    assert (len(data.train), len(data.test)) == (3, 3)
    image, labels = data.train.pair(1)
    assert np.array_equal(np.asarray(image), colours(3, 4))
    assert labels.tolist() == [[0, 1, 255, 0]] * 3
    assert data.test.pair(2)[1].tolist() == [[1, 1, 1, 1]] * 3


def test_a_palettes_colours_mean_nothing(tmp_path):
    # Class 2 is painted as class 1's grey would be, and the palette has a transparent entry.
    rows = numbers([0, 1, 2], [255, 2, 1])
    painted = Image.fromarray(rows, mode="L").convert("P")
    painted.putdata(rows.flatten().tolist())
    painted.putpalette([9, 9, 9, 50, 60, 70, 1, 1, 1] + [0] * 759)
    painted.save(tmp_path / "a.png", transparency=bytes([0, 255, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert semantic.read_mask(tmp_path / "a.png").tolist() == rows.tolist()


def test_masks_of_sixteen_bits_and_of_one_are_numbers_too(tmp_path):
    save(tmp_path / "a.png", np.array([[0, 1], [300, 65535]], dtype=np.uint16))
    assert semantic.read_mask(tmp_path / "a.png").tolist() == [[0, 1], [300, 65535]]
    save(tmp_path / "b.png", np.array([[False, True]]))
    assert semantic.read_mask(tmp_path / "b.png").tolist() == [[0, 1]]


def test_a_mask_of_colours_is_refused(tmp_path):
    save(tmp_path / "a.png", colours(2, 2))
    with pytest.raises(DataError, match=r"a\.png holds colours \(RGB\), expected one number"):
        semantic.read_mask(tmp_path / "a.png")


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "gone"])
def test_a_damaged_mask_is_named(tmp_path, damage):
    path = save(
        tmp_path / "a.png", np.random.RandomState(0).randint(0, 9, (64, 64), dtype=np.uint8)
    )
    content = path.read_bytes()
    path.write_bytes({"cut": content[:300], "empty": b"", "text": b"no image"}.get(damage, b""))
    if damage == "gone":
        path.unlink()
    with pytest.raises(DataError, match=r"a\.png"):
        semantic.read_mask(path)


def test_grey_images_of_any_depth_become_rgb(own):
    # 16 bits: 65535 is white, 32896 is 128.
    grey = np.array([[0, 65535, 32896, 257]] * 3, dtype=np.uint16)
    save(own / "train/images/a.png", grey)
    image, _ = catalog.open_semantic(f"masks:{own}").train.pair(0)
    assert np.asarray(image)[0].tolist() == [[0] * 3, [255] * 3, [128] * 3, [1] * 3]


def test_a_mask_of_another_size_is_refused_at_the_start(own):
    save(own / "train/masks/b.png", numbers([0, 1], [0, 1]))
    with pytest.raises(DataError, match=r"b\.png has 4x3 pixels, but its mask has 2x2"):
        catalog.open_semantic(f"masks:{own}")


def test_numbers_that_are_no_class_are_refused_at_the_start(own):
    save(own / "val/masks/e.png", numbers(*[[0, 2, 255, 7]] * 3))
    with pytest.raises(DataError, match=r"e\.png holds the numbers 2, 7\. Expected 0 to 1 for 2"):
        catalog.open_semantic(f"masks:{own}")


def test_masks_and_images_without_partner_are_refused(own):
    save(own / "val/masks/z.png", numbers([0]))
    with pytest.raises(DataError, match=r"has 1 masks without an image in .*, such as z\.png"):
        catalog.open_semantic(f"masks:{own}")
    (own / "val/masks/z.png").unlink()
    (own / "train/masks/c.png").unlink()
    with pytest.raises(DataError, match=r"1 of the 6 images and masks of its train part .*c\.png"):
        catalog.open_semantic(f"masks:{own}")


def test_two_images_with_one_mask_are_refused(own):
    save(own / "train/images/a.jpg", colours(3, 4))
    with pytest.raises(DataError, match="has 1 images that share their name but for the suffix"):
        catalog.open_semantic(f"masks:{own}")


def test_an_unexpected_tree_is_answered_with_the_expected_one(own):
    (own / "val").rename(own / "test")
    with pytest.raises(DataError) as error:
        catalog.open_semantic(f"masks:{own}")
    assert f"{own}/train/masks/NAME.png     a number for each pixel, 255 for none" in str(
        error.value
    )
    assert str(error.value).endswith(f"Found: {own / 'val'} is not there.")
    (own / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"classes\.txt              one class a line"):
        catalog.open_semantic(f"masks:{own}")


@pytest.mark.parametrize("text", ["", "sky\n", "sky\nsky\n", "\n".join(map(str, range(256)))])
def test_classes_are_named_once_each_and_fit_into_a_mask(own, text):
    (own / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=r"Expected one a line, 2 to 255"):
        catalog.open_semantic(f"masks:{own}")


def test_the_fingerprint_tells_one_mask_from_another(own):
    before = catalog.open_semantic(f"masks:{own}").fingerprint
    assert catalog.open_semantic(f"masks:{own}").fingerprint == before
    save(own / "val/masks/d.png", numbers(*[[0, 1, 0, 1]] * 3))
    assert catalog.open_semantic(f"masks:{own}").fingerprint != before


def test_an_unknown_kind_is_answered_with_the_known_ones():
    with pytest.raises(UsageError, match=r"Did you mean 'masks'\? Known: cityscapes, digits-scen"):
        catalog.open_semantic("mask:x")
    with pytest.raises(UsageError, match=r"'voc-aug:' names no folder"):
        catalog.open_semantic("voc-aug:")


def test_scenes_become_the_background_and_their_objects(tmp_path):
    scenes = open_digit_scenes(tmp_path / "scenes")
    data = semantic.of_scenes(scenes)
    assert data.classes[:3] == ("background", "zero", "one")
    assert (len(data.train), len(data.test)) == (300, 100)
    assert data.fingerprint == scenes.fingerprint
    _, labels = data.test.pair(3)
    scene = scenes.test.scenes[3]
    # Every pixel of a digit is its class and one; no two digits overlap.
    expected = np.zeros((160, 160), dtype=int)
    for label, mask in zip(scene.labels, scene.masks(), strict=True):
        expected += mask * (label + 1)
    assert expected.max() > 0
    assert np.array_equal(labels, expected)


def lay_out_voc(root, *, train, val, augmented):
    """A devkit whose masks of class 3 have an outline without class, as VOC's have."""
    for name in {*train, *val, *augmented}:
        save(root / f"JPEGImages/{name}.jpg", colours(4, 5))
    for name in (*train, *val):
        save(root / f"SegmentationClass/{name}.png", numbers(*[[0, 255, 3, 255, 0]] * 4))
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"{name}\n" for name in train))
    (lists / "val.txt").write_text("".join(f"{name}\n" for name in val))


@pytest.fixture
def few_published(monkeypatch):
    def few(kind, num_train, num_test):
        small = dataclasses.replace(
            semantic_sets.PUBLISHED[kind], num_train=num_train, num_test=num_test
        )
        monkeypatch.setitem(semantic_sets.PUBLISHED, kind, small)

    return few


@pytest.mark.parametrize("name", ["train_aug.txt", "trainaug.txt"])
@pytest.mark.parametrize("line", ["{}\n", "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png\n"])
def test_voc_is_read_with_its_augmented_masks(tmp_path, few_published, name, line):
    root = tmp_path / "VOCdevkit/VOC2012"
    lay_out_voc(root, train=["t1"], val=["v1", "v2"], augmented=["t1", "s1", "s2"])
    for each in ("t1", "s1", "s2"):
        save(root / f"SegmentationClassAug/{each}.png", numbers(*[[0, 20, 20, 20, 0]] * 4))
    listed = "".join(line.format(each) for each in ("t1", "s1", "s2"))
    (root / "ImageSets/Segmentation" / name).write_text(listed)
    few_published("voc-aug", 3, 2)
    for given in (tmp_path, root.parent, root):
        data = catalog.open_semantic(f"voc-aug:{given}")
        assert len(data.classes) == 21
        assert (data.classes[0], data.classes[3], data.classes[20]) == (
            *("background", "bird", "tvmonitor"),
        )
        assert [item.path.stem for item in data.train.items] == ["t1", "s1", "s2"]
        assert data.train.pair(0)[1].tolist() == [[0, 20, 20, 20, 0]] * 4
        # Of the test images the official masks count.
        assert data.test.pair(1)[1].tolist() == [[0, 255, 3, 255, 0]] * 4


def test_voc_is_joined_with_sbds_own_archive(tmp_path, few_published):
    root = tmp_path / "VOCdevkit/VOC2012"
    # SBD has t1, s1 and s2, and v1, which VOC tests on.
    lay_out_voc(root, train=["t0", "t1"], val=["v1"], augmented=["s1", "s2"])
    sbd = tmp_path / "benchmark_RELEASE/dataset"
    (sbd / "cls").mkdir(parents=True)
    for name in ("t1", "s1", "s2", "v1"):
        mask = numbers(*[[0, 7, 7, 7, 0]] * 4)
        savemat(sbd / f"cls/{name}.mat", {"GTcls": {"Segmentation": mask}})
    (sbd / "train.txt").write_text("t1\ns1\nv1\n")
    (sbd / "val.txt").write_text("s2\n")
    few_published("voc-aug", 4, 1)
    data = catalog.open_semantic(f"voc-aug:{tmp_path}")
    assert [item.path.stem for item in data.train.items] == ["t0", "t1", "s1", "s2"]
    # VOC's own mask where there is one, else SBD's.
    assert data.train.pair(1)[1].tolist() == [[0, 255, 3, 255, 0]] * 4
    assert data.train.pair(2)[1].tolist() == [[0, 7, 7, 7, 0]] * 4
    (sbd / "cls/s1.mat").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"s1\.mat is none of SBD's class masks"):
        catalog.open_semantic(f"voc-aug:{tmp_path}")


def test_voc_without_additional_masks_is_told_what_is_needed(tmp_path):
    with pytest.raises(DataError, match=r"or SBD's own archive"):
        catalog.open_semantic(f"voc-aug:{tmp_path}")
    lay_out_voc(tmp_path / "VOC2012", train=["t1"], val=["v1"], augmented=[])
    with pytest.raises(DataError, match=r"SegmentationClassAug/\*\.png(?s:.*)Found: .*JPEGImages"):
        catalog.open_semantic(f"voc-aug:{tmp_path}")


def test_a_part_of_voc_is_not_taken_for_it(tmp_path):
    lay_out_voc(tmp_path, train=["t1"], val=["v1"], augmented=[])
    save(tmp_path / "SegmentationClassAug/t1.png", numbers(*[[0] * 5] * 4))
    (tmp_path / "ImageSets/Segmentation/train_aug.txt").write_text("t1\n")
    with pytest.raises(DataError, match=r"1 training and 1 test images; .* with 10,582 and 1,449"):
        catalog.open_semantic(f"voc-aug:{tmp_path}")


def lay_out_cityscapes(root, ending, pixels):
    for part, city, count in (("train", "aachen", 2), ("val", "lindau", 1)):
        for number in range(count):
            stem = f"{city}_{number:06d}_000019"
            save(root / f"leftImg8bit/{part}/{city}/{stem}_leftImg8bit.png", colours(2, 4))
            save(root / f"gtFine/{part}/{city}/{stem}_gtFine_{ending}.png", pixels)


def test_cityscapes_ids_become_its_19_classes(tmp_path, few_published):
    # Ids 7 road, 26 car and 33 bicycle are classes 0, 13 and 18; 0 unlabeled, 1 ego vehicle, 4
    # static, 14 guard rail, 29 caravan and 255 are none.
    rows = numbers([7, 26, 33, 0], [1, 14, 29, 255])
    lay_out_cityscapes(tmp_path, "labelIds", rows)
    few_published("cityscapes", 2, 1)
    data = catalog.open_semantic(f"cityscapes:{tmp_path}")
    assert (data.classes[0], data.classes[13], data.classes[18]) == ("road", "car", "bicycle")
    assert len(data.classes) == 19
    assert data.test.pair(0)[1].tolist() == [[0, 13, 18, 255], [255] * 4]


def test_cityscapes_own_training_ids_stay_as_they_are(tmp_path, few_published):
    rows = numbers([7, 18, 0, 255], [0, 0, 0, 0])
    lay_out_cityscapes(tmp_path / "cityscapes", "labelTrainIds", rows)
    few_published("cityscapes", 2, 1)
    data = catalog.open_semantic(f"cityscapes:{tmp_path}")
    assert data.train.pair(0)[1].tolist() == rows.tolist()


def test_cityscapes_is_whole_or_refused(tmp_path, few_published):
    with pytest.raises(DataError, match=r"leftImg8bit/\{train,val\}/CITY"):
        catalog.open_semantic(f"cityscapes:{tmp_path}")
    lay_out_cityscapes(tmp_path, "labelIds", numbers([7] * 4, [7] * 4))
    with pytest.raises(DataError, match=r"published with 2,975 and 500"):
        catalog.open_semantic(f"cityscapes:{tmp_path}")
    few_published("cityscapes", 2, 1)
    (tmp_path / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(DataError, match=r"1 of the 2 images and masks of its test part"):
        catalog.open_semantic(f"cityscapes:{tmp_path}")
