"""Detection sets of the literature, in the layouts in which their authors publish them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from moco_eval.data import cityscapes, voc_scenes
from moco_eval.data.coco import read_split
from moco_eval.data.scene import SceneData, SceneSplit, of_splits
from moco_eval.errors import DataError, UsageError


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a set is published with.

    Attributes:
        num_train: Images to train on, those without objects included.
        num_test: Images to be judged on.
        num_classes: Of objects.
        tree: What its folder ``DIR`` must hold.
        get: Where it is to be had.
        source: Whose split this is.
    """

    num_train: int
    num_test: int
    num_classes: int
    tree: str
    get: str
    source: str


_COCO_TREE = (
    "  DIR/train2017/*.jpg, DIR/val2017/*.jpg\n"
    "  DIR/annotations/{kind}_train2017.json, {kind}_val2017.json"
)
_VOC_TREE = (
    "  DIR/VOCdevkit/VOC{year}/Annotations/*.xml            (or VOC{year}/ in DIR)\n"
    "  DIR/VOCdevkit/VOC{year}/JPEGImages/*.jpg\n"
    "  DIR/VOCdevkit/VOC{year}/ImageSets/Main/{lists}.txt"
)
_VOC07_TREE = _VOC_TREE.format(year=2007, lists="{trainval,test}")
_LVIS_TREE = (
    "  DIR/train2017/*.jpg, DIR/val2017/*.jpg\n"
    "  DIR/lvis/lvis_{version}_train.json, lvis_{version}_val.json   (or in DIR, in annotations/)"
)
_COCO_GET = "https://cocodataset.org/#download"
_VOC_GET = "http://host.robots.ox.ac.uk/pascal/VOC/"
_LVIS_GET = f"https://www.lvisdataset.org/dataset, the images of {_COCO_GET}"

SCENE_SETS: Mapping[str, Published] = {
    "coco2017": Published(
        num_train=118_287,
        num_test=5000,
        num_classes=80,
        tree=_COCO_TREE.format(kind="instances"),
        get=_COCO_GET,
        source="arXiv:1405.0312; the 2017 split",
    ),
    "coco2017-keypoints": Published(
        num_train=118_287,
        num_test=5000,
        num_classes=1,
        tree=_COCO_TREE.format(kind="person_keypoints"),
        get=_COCO_GET,
        source="arXiv:1405.0312; the 2017 split",
    ),
    "voc07": Published(
        num_train=5011,
        num_test=4952,
        num_classes=20,
        tree=_VOC07_TREE,
        get=f"{_VOC_GET}voc2007/",
        source="trainval to test",
    ),
    "voc07+12": Published(
        num_train=16_551,
        num_test=4952,
        num_classes=20,
        tree=f"{_VOC07_TREE}\n{_VOC_TREE.format(year=2012, lists='trainval')}",
        get=f"{_VOC_GET}voc2007/ and {_VOC_GET}voc2012/",
        source="both trainval to test2007, as arXiv:1911.05722, section 4.2.1",
    ),
    "lvis-v0.5": Published(
        num_train=57_263,
        num_test=5000,
        num_classes=1230,
        tree=_LVIS_TREE.format(version="v0.5"),
        get=_LVIS_GET,
        source="arXiv:1908.03195; the version of arXiv:1911.05722, Table 6",
    ),
    "lvis-v1": Published(
        num_train=100_170,
        num_test=19_809,
        num_classes=1203,
        tree=_LVIS_TREE.format(version="v1"),
        get=_LVIS_GET,
        source="arXiv:1908.03195",
    ),
    "cityscapes": Published(
        num_train=2975,
        num_test=500,
        num_classes=8,
        tree="  DIR/leftImg8bit/{train,val}/CITY/*_leftImg8bit.png\n"
        "  DIR/gtFine/{train,val}/CITY/*_gtFine_instanceIds.png",
        get="https://www.cityscapes-dataset.com/downloads/: leftImg8bit_trainvaltest.zip and "
        "gtFine_trainvaltest.zip",
        source="arXiv:1604.01685; fine annotations, train to val",
    ),
}


def open_scene_set(name: str, rest: str) -> SceneData:
    """Open the set ``name`` of ``SCENE_SETS`` that lies in the folder ``rest``.

    Raises:
        UsageError: If no folder is named.
        DataError: If the folder does not hold the set as published; the expected tree is shown.
    """
    if not rest:
        raise UsageError(f"'{name}:' names no folder. It is written: {name}:DIR.")
    folder, published = Path(rest).expanduser(), SCENE_SETS[name]
    try:
        data = _OPENERS[name](name, folder)
    except FileNotFoundError as error:
        tree = published.tree.replace("DIR", str(folder))
        raise DataError(
            f"{name}:{folder} is not laid out as expected: {error.filename} is missing.\n{tree}\n"
            f"It is to be had at {published.get}."
        ) from error
    counts = {
        "training images": (len(data.train), published.num_train),
        "test images": (len(data.test), published.num_test),
        "classes": (len(data.classes), published.num_classes),
    }
    for what, (found, expected) in counts.items():
        if found != expected:
            raise DataError(
                f"{name}:{folder} holds {found:,} {what}; it is published with {expected:,}. A "
                "part of it is another data set: open it as "
                "coco:TRAIN_IMAGES:TRAIN_JSON:TEST_IMAGES:TEST_JSON."
            )
    return data


def _coco(name: str, folder: Path) -> SceneData:
    kind = "person_keypoints" if name.endswith("keypoints") else "instances"
    splits = [
        _listed(folder / f"{part}2017", folder / f"annotations/{kind}_{part}2017.json")
        for part in ("train", "val")
    ]
    return of_splits(name, *splits)


def _lvis(name: str, folder: Path) -> SceneData:
    version = name.partition("-")[2]
    places = ("lvis", "annotations", ".")
    splits = []
    for part in ("train", "val"):
        file = f"lvis_{version}_{part}.json"
        paths = [folder / place / file for place in places]
        path = next((path for path in paths if path.exists()), paths[0])
        splits.append(_listed(folder, path))
    return of_splits(name, *splits, scoring="lvis")


def _listed(images: Path, annotations: Path) -> SceneSplit:
    for path in (annotations, images):
        if not path.exists():
            raise FileNotFoundError(2, "missing", str(path))
    return read_split(images, annotations)


_OPENERS: Mapping[str, Callable[[str, Path], SceneData]] = {
    "coco2017": _coco,
    "coco2017-keypoints": _coco,
    "voc07": voc_scenes.open_voc,
    "voc07+12": voc_scenes.open_voc,
    "lvis-v0.5": _lvis,
    "lvis-v1": _lvis,
    "cityscapes": cityscapes.open_instances,
}


def describe() -> list[str]:
    """A few lines on each set that is opened by name."""
    return [
        f"{name}:DIR\n  {each.num_classes:,} classes of objects, {each.num_train:,} training and "
        f"{each.num_test:,} test images\n  get it: {each.get}\n  source: {each.source}"
        for name, each in SCENE_SETS.items()
    ]
