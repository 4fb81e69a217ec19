"""The sets of the transfer suite in miniature, laid out as their authors or torchvision do."""

import hashlib
import json
import pickle

import numpy as np
import pytest
from scipy.io import savemat

from moco_eval.data import catalog, layouts
from moco_eval.data.catalog import MultiLabelData, open_images, open_labelled
from moco_eval.data.decoding import DamagedImageError
from moco_eval.data.selection import selection_slice
from moco_eval.errors import DataError, UsageError

# Grey values of the images, in order: training 1, 2, 3; validation 11, 12; test 21, 22.
TRAIN, VAL, TEST = (1, 2, 3), (11, 12), (21, 22)


def values_of(split):
    return [int(np.asarray(image).flat[0]) for image in split.images]


def opened(data):
    """What is in it, in the order in which it is."""
    return (values_of(data.train), list(data.train.labels)), (
        values_of(data.test),
        list(data.test.labels),
    )


def test_food101_lists_its_images_in_json(tmp_path, put, published):
    published("food101", 3, 2)
    # The order of the classes is the alphabet's, of the images the file's.
    for part, grey in (("train", TRAIN), ("test", TEST)):
        names = {
            "pizza": [f"pizza/{v}" for v in grey[:1]],
            "apple": [f"apple/{v}" for v in grey[1:]],
        }
        put(f"food-101/meta/{part}.json", json.dumps(names))
        for value, name in zip(grey, names["pizza"] + names["apple"], strict=True):
            put(f"food-101/images/{name}.jpg", value)
    data = open_images(f"food101:{tmp_path}")
    assert (data.id, data.classes, data.metric, data.held_out) == (
        "food101",
        ("apple", "pizza"),
        "top1",
        None,
    )
    assert opened(data) == (([1, 2, 3], [1, 0, 0]), ([21, 22], [1, 0]))
    assert data.train.images.name_of(1) == f"{tmp_path}/food-101/images/apple/2.jpg"


@pytest.mark.parametrize(
    ("name", "folder", "key"),
    [
        ("cifar10", "cifar-10-batches-py", "labels"),
        ("cifar100", "cifar-100-python", "fine_labels"),
    ],
)
def test_cifar_is_read_from_its_pickles(tmp_path, published, monkeypatch, name, folder, key):
    from torchvision.datasets import cifar

    # The checksums are those of the whole set.
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)
    num_batches = 5 if name == "cifar10" else 1
    published(name, num_batches, 2)
    (tmp_path / folder).mkdir()

    def write(file, content):
        (tmp_path / folder / file).write_bytes(pickle.dumps(content))

    names = [f"data_batch_{n}" for n in range(1, 6)] if name == "cifar10" else ["train"]
    for number, file in enumerate(names):
        pixels = np.full((1, 3072), number + 1, np.uint8)
        write(file, {"data": pixels, key: [number % 2], "coarse_labels": [-9]})
    pixels = np.repeat(np.array(TEST, np.uint8)[:, None], 3072, axis=1)
    write("test_batch" if name == "cifar10" else "test", {"data": pixels, key: [0, 0]})
    kinds = ["ant", "bee"]
    write("batches.meta" if name == "cifar10" else "meta", {"label_names": kinds})
    if name == "cifar100":
        write("meta", {"fine_label_names": kinds, "coarse_label_names": ["-9"]})
    data = open_images(f"{name}:{tmp_path}")
    assert (data.id, data.classes, data.held_out) == (name, ("ant", "bee"), None)
    assert opened(data) == (
        ([1, 2, 3, 4, 5][:num_batches], [0, 1, 0, 1, 0][:num_batches]),
        ([21, 22], [0, 0]),
    )


def test_birdsnap_keeps_its_test_images_out_of_training(tmp_path, put, published):
    published("birdsnap", 3, 2)
    header = "id\tcommon\tscientific\tdir\n"
    put(
        "birdsnap/species.txt",
        f"{header}1\tBlue Jay\tC. cristata\tBlue_Jay\n2\tSaw-whet\tA. a.\tSaw\n",
    )
    rows = [(21, "Blue_Jay", 1), (1, "Saw", 2), (2, "Blue_Jay", 1), (22, "Saw", 2), (3, "Saw", 2)]
    listed = "".join(f"http://x\t0\t{kind}/{v}.jpg\t{n}\t1.5\n" for v, kind, n in rows)
    put("birdsnap/images.txt", f"url\tmd5\tpath\tspecies_id\tbb_x1\n{listed}")
    put("birdsnap/test_images.txt", "path\nSaw/22.jpg\nBlue_Jay/21.jpg\n")
    for value, kind, _ in rows:
        put(f"birdsnap/download/images/{kind}/{value}.jpg", value)
    data = open_images(f"birdsnap:{tmp_path}")
    assert data.classes == ("Blue Jay", "Saw-whet")
    assert opened(data) == (([1, 2, 3], [1, 0, 1]), ([21, 22], [0, 1]))


@pytest.mark.parametrize("place", ["SUN397", "SUN397/Partitions", "Partitions", "."])
def test_sun397_takes_the_first_of_its_ten_splits(tmp_path, put, published, place):
    published("sun397", 3, 2)
    scenes = {
        1: "a/abbey",
        2: "v/volcano/indoor",
        3: "a/abbey",
        21: "v/volcano/indoor",
        22: "a/abbey",
    }
    for value, scene in scenes.items():
        put(f"SUN397/{scene}/sun_{value}.jpg", value)
    for part, grey in (("Training", TRAIN), ("Testing", TEST)):
        put(f"{place}/{part}_01.txt", "".join(f"/{scenes[v]}/sun_{v}.jpg\r\n" for v in grey))
        put(f"{place}/{part}_02.txt", "/a/abbey/sun_-9.jpg\n")
    data = open_images(f"sun397:{tmp_path}")
    assert data.classes == ("a/abbey", "v/volcano/indoor")
    assert opened(data) == (([1, 2, 3], [0, 1, 0]), ([21, 22], [1, 0]))


def write_cars(root, put):
    def annotations(rows):
        kinds = [("bbox_x1", object), ("class", object), ("fname", object)]
        return {"annotations": np.array([(9, label, f"{v}.jpg") for v, label in rows], kinds)[None]}

    devkit = root / "stanford_cars/devkit"
    devkit.mkdir(parents=True)
    # Their classes count from 1.
    savemat(devkit / "cars_train_annos.mat", annotations([(1, 2), (2, 1), (3, 1)]))
    test = root / "stanford_cars/cars_test_annos_withlabels.mat"
    savemat(test, annotations([(21, 1), (22, 2)]))
    savemat(devkit / "cars_meta.mat", {"class_names": np.array(["Audi", "BMW"], object)[None]})
    for part, grey in (("train", TRAIN), ("test", TEST)):
        for value in grey:
            put(f"stanford_cars/cars_{part}/{value}.jpg", value)


def test_cars_are_annotated_in_matlab_files(tmp_path, put, published):
    published("cars", 3, 2)
    write_cars(tmp_path, put)
    data = open_images(f"cars:{tmp_path}")
    assert data.classes == ("Audi", "BMW")
    assert opened(data) == (([1, 2, 3], [1, 0, 0]), ([21, 22], [0, 1]))


def test_aircraft_are_chosen_on_their_validation_images(tmp_path, put, published):
    published("aircraft", 3, 2, num_val=2)
    root = "fgvc-aircraft-2013b/data"
    # The order of the classes is their file's.
    put(f"{root}/variants.txt", "Boeing 707\nA300 B4\n")
    of = {1: "A300 B4", 2: "Boeing 707", 3: "A300 B4"} | {11: "Boeing 707", 12: "A300 B4"}
    of |= {21: "A300 B4", 22: "Boeing 707"}
    for part, grey in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        put(f"{root}/images_variant_{part}.txt", "".join(f"{v:07d} {of[v]}\n" for v in grey))
        for value in grey:
            put(f"{root}/images/{value:07d}.jpg", value)
    data = open_images(f"aircraft:{tmp_path}")
    assert (data.classes, data.metric) == (("Boeing 707", "A300 B4"), "mean_per_class")
    assert opened(data) == (([1, 2, 3, 11, 12], [1, 0, 1, 0, 1]), ([21, 22], [1, 0]))
    # Of five training images the last two are the published validation images.
    assert list(data.held_out) == [3, 4]
    # torchvision's name opens the same, which would train on its first three alone.
    assert open_images(f"torchvision:FGVCAircraft:{tmp_path}").fingerprint == data.fingerprint
    kept, held = selection_slice(data, share=0.5, seed=0)
    assert (kept.tolist(), held.tolist()) == ([0, 1, 2], [3, 4])


def test_dtd_takes_the_first_of_its_ten_splits(tmp_path, put, published):
    published("dtd", 3, 2, num_val=2)
    kinds = {1: "woven", 2: "banded", 3: "woven"} | {11: "woven", 12: "banded"}
    kinds |= {21: "banded", 22: "woven"}
    for part, grey in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        put(f"dtd/dtd/labels/{part}1.txt", "".join(f"{kinds[v]}/{v}.jpg\n" for v in grey))
        put(f"dtd/dtd/labels/{part}2.txt", "banded/-9.jpg\n")
        for value in grey:
            put(f"dtd/dtd/images/{kinds[value]}/{value}.jpg", value)
    data = open_images(f"dtd:{tmp_path}")
    assert (data.classes, data.metric, list(data.held_out)) == (("banded", "woven"), "top1", [3, 4])
    assert opened(data) == (([1, 2, 3, 11, 12], [1, 0, 1, 1, 0]), ([21, 22], [0, 1]))


def write_pets(put):
    # Breed, then species and number within the species, which must not be taken for the breed.
    rows = {1: ("pug", 2), 2: ("Abyssinian", 1), 3: ("pug", 2)} | {21: ("pug", 2), 22: ("pug", 2)}
    for part, grey in (("trainval", TRAIN), ("test", TEST)):
        lines = [f"{rows[v][0]}_{v} {rows[v][1]} 9 9\n" for v in grey]
        put(f"oxford-iiit-pet/annotations/{part}.txt", "".join(lines))
        for value in grey:
            put(f"oxford-iiit-pet/images/{rows[value][0]}_{value}.jpg", value)


def test_pets_are_labelled_by_breed(tmp_path, put, published):
    published("pets", 3, 2)
    write_pets(put)
    data = open_images(f"pets:{tmp_path}")
    assert (data.classes, data.metric) == (("Abyssinian", "pug"), "mean_per_class")
    assert (opened(data), data.held_out) == ((([1, 2, 3], [1, 0, 1]), ([21, 22], [1, 1])), None)


def test_caltech101_trains_on_the_same_thirty_images_a_class(tmp_path, put, published):
    published("caltech101", 60, 3)
    for value in range(32):
        put(f"caltech101/101_ObjectCategories/ant/image_{value:04d}.jpg", value)
    for value in range(100, 131):
        put(f"caltech101/101_ObjectCategories/BACKGROUND_Google/image_{value:04d}.jpg", value)
    put("caltech101/101_ObjectCategories/BACKGROUND_Google/tmp", "no image")
    data = open_images(f"caltech101:{tmp_path}")
    assert (data.classes, data.metric) == (("BACKGROUND_Google", "ant"), "mean_per_class")
    # The other images of a class are for testing: of 31 one, of 32 two, by the largest hashes.
    names = [f"ant/image_{value:04d}.jpg" for value in range(32)]
    names.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    left = sorted(int(name[-8:-4]) for name in names[30:])
    assert (values_of(data.test)[1:], list(data.test.labels)) == (left, [0, 1, 1])
    assert np.bincount(data.train.labels).tolist() == [30, 30]
    assert set(values_of(data.train)) | set(values_of(data.test)) == {*range(32), *range(100, 131)}
    assert layouts.CALTECH_TRAIN_PER_CLASS == 30


def test_flowers_are_chosen_on_their_validation_images(tmp_path, put, published, monkeypatch):
    from torchvision.datasets import flowers102

    monkeypatch.setattr(flowers102, "check_integrity", lambda *_: True)
    # Their names are the library's, all 102.
    published("flowers102", 3, 2, num_classes=102, num_val=2)
    (tmp_path / "flowers-102").mkdir()
    labels = np.zeros(30, np.uint8)
    for number, label in ((1, 7), (2, 5), (3, 7), (11, 5), (12, 7), (21, 7), (22, 5)):
        labels[number - 1] = label
        put(f"flowers-102/jpg/image_{number:05d}.jpg", number)
    savemat(tmp_path / "flowers-102/imagelabels.mat", {"labels": labels})
    # The official training set is the small one: tstid is for testing.
    ids = {"trnid": TRAIN, "valid": VAL, "tstid": TEST}
    savemat(tmp_path / "flowers-102/setid.mat", {k: np.array(v) for k, v in ids.items()})
    data = open_images(f"flowers102:{tmp_path}")
    assert (data.classes[6], data.metric, list(data.held_out)) == (
        "moon orchid",
        "mean_per_class",
        [3, 4],
    )
    assert opened(data) == (([1, 2, 3, 11, 12], [6, 4, 6, 4, 6]), ([21, 22], [6, 4]))


def write_voc(put, labels):
    root = "VOCdevkit/VOC2007"
    for part, grey in (("train", TRAIN), ("val", VAL), ("trainval", TRAIN + VAL), ("test", TEST)):
        put(f"{root}/ImageSets/Main/{part}.txt", "".join(f"{v:06d}\n" for v in grey))
        for kind, told in labels.items():
            rows = "".join(f"{v:06d} {told[v]:2d}\n" for v in grey)
            put(f"{root}/ImageSets/Main/{kind}_{part}.txt", rows)
        for value in grey:
            put(f"{root}/JPEGImages/{value:06d}.jpg", value)


# Of each image: 1 shown, -1 not shown, 0 difficult. No class is called as a part is, but train.
VOC = {
    "train": {1: 1, 2: -1, 3: 0, 11: -1, 12: 1, 21: 0, 22: 1},
    "dog": {1: 1, 2: 1, 3: -1, 11: 0, 12: -1, 21: 1, 22: -1},
}


def test_voc07_tells_of_every_class_in_every_image(tmp_path, put, published):
    published("voc07", 3, 2, num_val=2)
    write_voc(put, VOC)
    data = open_labelled(f"voc07:{tmp_path}")
    assert isinstance(data, MultiLabelData)
    assert (data.classes, list(data.held_out)) == (("dog", "train"), [3, 4])
    # Here 1 is shown, 0 not shown and -1 difficult.
    train = [(1, 1), (1, 0), (0, -1), (-1, 0), (0, 1)]
    assert opened(data) == ((([1, 2, 3, 11, 12], train)), ([21, 22], [(1, -1), (0, 1)]))
    before = data.fingerprint
    write_voc(put, VOC | {"dog": VOC["dog"] | {22: 0}})
    assert open_labelled(f"voc07:{tmp_path}").fingerprint != before


def test_images_of_several_classes_are_pretrained_on_without_labels(tmp_path, put, published):
    published("voc07", 3, 2, num_val=2)
    write_voc(put, VOC)
    data = catalog.open_pretraining(f"voc07:{tmp_path}")
    assert (values_of(data.train), data.train.labels, data.classes, data.test) == (
        [1, 2, 3, 11, 12],
        None,
        (),
        None,
    )


def test_a_protocol_of_one_label_an_image_refuses_several(tmp_path, put, published):
    published("voc07", 3, 2, num_val=2)
    write_voc(put, VOC)
    with pytest.raises(
        UsageError,
        match=r"voc07:.* may show several of its 2 classes, but one .* by svm, or by linear",
    ):
        open_images(f"voc07:{tmp_path}")


def test_other_counts_than_the_published_are_refused_with_a_way_out(tmp_path, put):
    write_pets(put)
    with pytest.raises(DataError) as caught:
        open_images(f"pets:{tmp_path}")
    text = str(caught.value)
    assert f"pets:{tmp_path} holds 3 training and 2 test images of 2 classes; " in text
    assert "is published with 3,680 training and 3,669 test images of 37 classes." in text
    assert "OxfordIIITPet('DIR', download=True)" in text
    assert "lay it out for imagefolder:DIR" in text


def test_images_that_are_listed_and_not_there_are_counted(tmp_path, put, published):
    published("pets", 3, 2)
    write_pets(put)
    gone = tmp_path / "oxford-iiit-pet/images/pug_3.jpg"
    gone.unlink()
    with pytest.raises(DataError, match=rf"1 of the 5 images that .* the first is {gone}"):
        open_images(f"pets:{tmp_path}")


def test_a_damaged_image_of_a_named_set_is_named_when_it_is_used(tmp_path, put, published):
    published("pets", 3, 2)
    write_pets(put)
    path = tmp_path / "oxford-iiit-pet/images/pug_3.jpg"
    path.write_bytes(path.read_bytes()[:40])
    images = open_images(f"pets:{tmp_path}").train.images
    with pytest.raises(DamagedImageError, match=f"{path} cannot be decoded, it is truncated"):
        images[2]


@pytest.mark.parametrize("damage", [b"", b"MATLAB 5.0", None])
def test_a_damaged_matlab_file_is_an_error_of_the_data(tmp_path, put, published, damage):
    published("cars", 3, 2)
    write_cars(tmp_path, put)
    path = tmp_path / "stanford_cars/devkit/cars_train_annos.mat"
    path.write_bytes(path.read_bytes()[:300] if damage is None else damage)
    with pytest.raises(DataError, match=r"cars:.* cannot be opened: .*It must hold stanford_cars"):
        open_images(f"cars:{tmp_path}")


def test_a_class_that_is_only_tested_on_is_refused(tmp_path, put, published):
    published("pets", 2, 2)
    write_pets(put)
    lines = (tmp_path / "oxford-iiit-pet/annotations/trainval.txt").read_text().splitlines()
    put("oxford-iiit-pet/annotations/trainval.txt", lines[1] + "\n" + lines[1] + "\n")
    with pytest.raises(DataError, match="1 labels that no training image has: pug"):
        open_images(f"pets:{tmp_path}")
