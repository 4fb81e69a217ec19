"""How each data set that is opened by name lies on disk, as its authors or torchvision lay it out.

These functions raise what Python raises of a missing or odd file; ``named`` makes that one error.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from moco_eval.data.folder_index import find_images
from moco_eval.data.splits import ABSENT, DIFFICULT, PRESENT
from moco_eval.data.torchvision_sets import files_and_labels

L = TypeVar("L")

# What the papers that evaluate on Caltech-101 train on.
CALTECH_TRAIN_PER_CLASS = 30

_VOC_LABELS = {"1": PRESENT, "-1": ABSENT, "0": DIFFICULT}


@dataclass(frozen=True, eq=False)
class Listed(Generic[L]):
    """The images of a data set and their labels, as its own files list them.

    Attributes:
        root: What images' names start from.
        source: What lists them: while it is as it was, so are the images.
        classes: By label.
        train: Names and labels of the training images.
        test: Of the test images.
        val: Of the published validation images, if there are any.
    """

    root: Path
    source: Path
    classes: tuple[str, ...]
    train: Sequence[tuple[str, L]]
    test: Sequence[tuple[str, L]]
    val: Sequence[tuple[str, L]] = ()


def food101(root: Path) -> Listed[int]:
    """Food-101: published training and test images."""
    return _by_torchvision("Food101", root, "food-101/meta/train.json", ("train", "test"))


def cars(root: Path) -> Listed[int]:
    """Stanford Cars: published training and test images."""
    source = "stanford_cars/cars_test_annos_withlabels.mat"
    return _by_torchvision("StanfordCars", root, source, ("train", "test"))


def aircraft(root: Path) -> Listed[int]:
    """FGVC Aircraft, its 100 variants: published training, validation and test images."""
    source = "fgvc-aircraft-2013b/data/images_variant_train.txt"
    return _by_torchvision("FGVCAircraft", root, source, ("train", "test", "val"))


def dtd(root: Path) -> Listed[int]:
    """DTD: the first of its ten splits."""
    return _by_torchvision("DTD", root, "dtd/dtd/labels/train1.txt", ("train", "test", "val"))


def flowers102(root: Path) -> Listed[int]:
    """Flowers-102: published training, validation and test images."""
    return _by_torchvision("Flowers102", root, "flowers-102/setid.mat", ("train", "test", "val"))


def pets(root: Path) -> Listed[int]:
    """Oxford-IIIT Pets: published trainval and test images, labelled by breed."""
    # torchvision would decode every image to tell its path.
    folder = root / "oxford-iiit-pet"
    breeds: dict[int, str] = {}
    parts = []
    for part in ("trainval", "test"):
        rows = [line.split() for line in _lines(folder / f"annotations/{part}.txt")]
        breeds |= {int(label) - 1: name.rpartition("_")[0] for name, label, *_ in rows}
        parts.append([(f"images/{name}.jpg", int(label) - 1) for name, label, *_ in rows])
    classes = tuple(breeds[label] for label in range(len(breeds)))
    return Listed(folder, folder / "annotations/trainval.txt", classes, *parts)


def sun397(root: Path) -> Listed[int]:
    """SUN397: the first of its ten splits, 50 training and 50 test images a class."""
    folder = root / "SUN397"
    places = (folder, folder / "Partitions", root / "Partitions", root)
    # If it is nowhere, the error names the likeliest place.
    found = next((place for place in places if (place / "Training_01.txt").exists()), folder)
    parts = [
        # Each begins with a slash: /a/abbey/sun_aaalbzqrimafwbiv.jpg.
        [line.lstrip("/") for line in _lines(found / f"{part}_01.txt")]
        for part in ("Training", "Testing")
    ]
    return _by_folder(folder, found / "Training_01.txt", *parts)


def caltech101(root: Path) -> Listed[int]:
    """Caltech-101 with its background class: 30 training images a class, the rest to test on.

    Which, the papers leave to chance. Here the names of the images decide, so it is always the
    same draw: those whose SHA-256 is smallest.
    """
    folder = root / "caltech101/101_ObjectCategories"
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    of_class: dict[str, list[str]] = {}
    for name in find_images(folder).names:
        of_class.setdefault(name.partition("/")[0], []).append(name)
    train: set[str] = set()
    for names in of_class.values():
        drawn = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        train.update(drawn[:CALTECH_TRAIN_PER_CLASS])
    everything = [name for names in of_class.values() for name in names]
    parts = ([n for n in everything if n in train], [n for n in everything if n not in train])
    return _by_folder(folder, folder, *parts)


def birdsnap(root: Path) -> Listed[int]:
    """Birdsnap as version 1.1 lists it; what is not a test image is for training."""
    folder = root / "birdsnap"
    species = {row["id"]: row["common"] for row in _table(folder / "species.txt")}
    labels = {number: label for label, number in enumerate(species)}
    test_names = {row["path"] for row in _table(folder / "test_images.txt")}
    rows = [(row["path"], labels[row["species_id"]]) for row in _table(folder / "images.txt")]
    return Listed(
        folder / "download/images",
        folder / "images.txt",
        tuple(species.values()),
        train=[row for row in rows if row[0] not in test_names],
        test=[row for row in rows if row[0] in test_names],
    )


def places205(root: Path) -> Listed[int]:
    """Places205: training and validation images; test labels are secret."""
    lists = root / "trainvalsplit_places205"
    parts = []
    scenes: dict[int, str] = {}
    for part in ("train", "val"):
        # a/abbey/gsun_6953f3e6ad8ec7a8.jpg 0
        rows = [line.rpartition(" ") for line in _lines(lists / f"{part}_places205.csv")]
        parts.append([(name, int(label)) for name, _, label in rows])
        scenes |= {label: _folder_of(name) for name, label in parts[-1]}
    classes = tuple(scenes[label] for label in range(len(scenes)))
    images = root / "data/vision/torralba/deeplearning/images256"
    return Listed(images, lists / "train_places205.csv", classes, *parts)


def inat2018(root: Path) -> Listed[int]:
    """The iNaturalist challenge of 2018: training and validation images; test labels are secret."""
    documents = [json.loads((root / f"{part}2018.json").read_text()) for part in ("train", "val")]
    species = {row["id"]: str(row["name"]) for row in documents[0]["categories"]}
    labels = {number: label for label, number in enumerate(sorted(species))}
    parts = [_annotated(document, labels) for document in documents]
    classes = tuple(species[number] for number in sorted(species))
    return Listed(root, root / "train2018.json", classes, *parts)


def voc07(root: Path) -> Listed[tuple[int, ...]]:
    """PASCAL VOC 2007, labelled by which of its 20 classes an image shows.

    Of each class a file tells 1, -1 or 0: shown, not shown, or only in instances that are
    difficult.
    """
    folder = root / "VOCdevkit/VOC2007"
    sets = folder / "ImageSets/Main"
    classes = sorted(path.name.removesuffix("_train.txt") for path in sets.glob("*_train.txt"))
    train, val, test = (_voc_part(sets, part, classes) for part in ("train", "val", "test"))
    return Listed(
        folder / "JPEGImages",
        sets / "trainval.txt",
        tuple(classes),
        train=train,
        test=test,
        val=val,
    )


def _by_torchvision(name: str, root: Path, source: str, splits: Sequence[str]) -> Listed[int]:
    from scipy.io.matlab import MatReadError
    from torchvision import datasets

    build = getattr(datasets, name)
    try:
        parts = [files_and_labels(build(root, split=split, loader=str)) for split in splits]
    except MatReadError as error:
        raise ValueError(f"one of its .mat files is damaged, {error}") from error
    classes = parts[0].classes
    for split, part in zip(splits, parts, strict=True):
        if part.classes != classes:
            raise ValueError(f"its {split} images have other classes than its training images")
    relative = [
        [(path.removeprefix(f"{root}/"), label) for path, label in part.entries] for part in parts
    ]
    return Listed(root, root / source, classes, *relative)


def _by_folder(root: Path, source: Path, train: Sequence[str], test: Sequence[str]) -> Listed[int]:
    """Images whose folders are their classes, in the order of their paths."""
    folders = sorted({name.rpartition("/")[0] for name in (*train, *test)})
    labels = {folder: label for label, folder in enumerate(folders)}
    parts = [[(name, labels[name.rpartition("/")[0]]) for name in part] for part in (train, test)]
    return Listed(root, source, tuple(folders), *parts)


def _folder_of(name: str) -> str:
    """The scene of ``a/apartment_building/outdoor/x.jpg``: ``apartment_building/outdoor``."""
    return name.partition("/")[2].rpartition("/")[0]


def _annotated(document: Any, labels: Mapping[int, int]) -> list[tuple[str, int]]:
    species = {row["image_id"]: labels[row["category_id"]] for row in document["annotations"]}
    return [(image["file_name"], species[image["id"]]) for image in document["images"]]


def _voc_part(sets: Path, part: str, classes: Iterable[str]) -> list[tuple[str, tuple[int, ...]]]:
    names = [line.split()[0] for line in _lines(sets / f"{part}.txt")]
    told = [
        {name: _VOC_LABELS[value] for name, value in map(str.split, _lines(path))}
        for path in (sets / f"{each}_{part}.txt" for each in classes)
    ]
    return [(f"{name}.jpg", tuple(labels[name] for labels in told)) for name in names]


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text().split("\n") if line.strip()]


def _table(path: Path) -> list[dict[str, str]]:
    """Rows of a tab-separated file whose first line names the columns."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
