"""The segmentation data sets of the literature, as their authors and the field lay them out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from moco_eval.data.semantic import IGNORED, SemanticData, found_in, of_files
from moco_eval.data.voc_classes import VOC_CLASSES
from moco_eval.errors import DataError


@dataclass(frozen=True)
class _Published:
    """How many images a set is published with, and what its folder must hold."""

    num_train: int
    num_test: int
    tree: str


PUBLISHED = {
    "voc-aug": _Published(
        10_582,
        1449,
        "  DIR/VOCdevkit/VOC2012/JPEGImages/*.jpg          (or VOC2012/ or these folders in DIR)\n"
        "  DIR/VOCdevkit/VOC2012/SegmentationClass/*.png\n"
        "  DIR/VOCdevkit/VOC2012/ImageSets/Segmentation/{train,val}.txt\n"
        "and of the additional masks either\n"
        "  DIR/VOCdevkit/VOC2012/SegmentationClassAug/*.png\n"
        "  DIR/VOCdevkit/VOC2012/ImageSets/Segmentation/train_aug.txt   (or trainaug.txt)\n"
        "or SBD's own archive\n"
        "  DIR/benchmark_RELEASE/dataset/cls/*.mat, {train,val}.txt     (or SBD/ in DIR)",
    ),
    "cityscapes": _Published(
        2975,
        500,
        "  DIR/leftImg8bit/{train,val}/CITY/*_leftImg8bit.png\n"
        "  DIR/gtFine/{train,val}/CITY/*_gtFine_labelIds.png   (or *_gtFine_labelTrainIds.png)",
    ),
}

CITYSCAPES_CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train"),
    *("motorcycle", "bicycle"),
)
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
TRAIN_IDS = {number: label for label, number in enumerate(_CITYSCAPES_IDS)}

_AUGMENTED_LISTS = ("train_aug.txt", "trainaug.txt", "train_aug2012.txt")
_SBD = ("benchmark_RELEASE/dataset", "SBD", "sbd", "dataset", ".")

# Of a mask's 256 numbers, which class each is: by the end of the file's name.
_CITYSCAPES_TABLES = {
    "_labelIds.png": tuple(TRAIN_IDS.get(number, IGNORED) for number in range(256)),
    "_labelTrainIds.png": tuple(
        number if number < len(CITYSCAPES_CLASSES) else IGNORED for number in range(256)
    ),
}


def describe() -> list[str]:
    """A few lines on each set that is opened by name."""
    return [
        f"{name}:DIR\n  {each.num_train:,} training and {each.num_test:,} test images"
        for name, each in PUBLISHED.items()
    ]


def open_voc_augmented(rest: str) -> SemanticData:
    """Open VOC 2012 with SBD's additional training masks: 10,582 training, 1,449 test images.

    Raises:
        DataError: If ``DIR`` does not hold them all.
    """
    given = Path(rest).expanduser()
    places = (given / "VOCdevkit/VOC2012", given / "VOC2012", given)
    root = next((place for place in places if (place / "JPEGImages").is_dir()), None)
    if root is None:
        raise _unexpected("voc-aug", given, found_in(given))
    own, augmented = root / "SegmentationClass", root / "SegmentationClassAug"
    lists = root / "ImageSets/Segmentation"
    listed = next((lists / name for name in _AUGMENTED_LISTS if (lists / name).is_file()), None)
    sbd = next((given / name for name in _SBD if (given / name / "cls").is_dir()), None)
    val = _names("voc-aug", given, lists / "val.txt")
    if listed and augmented.is_dir():
        names = _names("voc-aug", given, listed)
        train = _masks(names, (augmented, ".png"), (own, ".png"))
    elif sbd:
        names = _names("voc-aug", given, lists / "train.txt")
        more = [
            name
            for part in ("train", "val")
            for name in _names("voc-aug", given, sbd / f"{part}.txt")
        ]
        tested = set(val)
        names = [name for name in dict.fromkeys([*names, *more]) if name not in tested]
        train = _masks(names, (own, ".png"), (sbd / "cls", ".mat"))
    else:
        raise _unexpected("voc-aug", given, f"{found_in(root)}; {found_in(lists)}")
    test = _masks(val, (own, ".png"), (augmented, ".png"))
    parts = {
        part: [(root / f"JPEGImages/{mask.stem}.jpg", mask) for mask in masks]
        for part, masks in (("train", train), ("test", test))
    }
    _refuse_other_counts("voc-aug", given, len(train), len(test))
    return of_files("voc-aug", ("background", *VOC_CLASSES), given, parts)


def open_cityscapes(rest: str) -> SemanticData:
    """Open Cityscapes' finely annotated images: 2,975 training, 500 test images, 19 classes.

    Raises:
        DataError: If ``DIR`` does not hold them all.
    """
    given = Path(rest).expanduser()
    root = next(
        (place for place in (given, given / "cityscapes") if (place / "leftImg8bit").is_dir()), None
    )
    if root is None:
        raise _unexpected("cityscapes", given, found_in(given))
    parts = {}
    for part, folder in (("train", "train"), ("test", "val")):
        images = sorted((root / "leftImg8bit" / folder).glob("*/*_leftImg8bit.png"))
        parts[part] = [(image, _cityscapes_mask(root, image)) for image in images]
    _refuse_other_counts("cityscapes", given, len(parts["train"]), len(parts["test"]))
    return of_files("cityscapes", CITYSCAPES_CLASSES, root, parts, table=_CITYSCAPES_TABLES)


def _cityscapes_mask(root: Path, image: Path) -> Path:
    folder = root / "gtFine" / image.parent.relative_to(root / "leftImg8bit")
    stem = image.name.removesuffix("_leftImg8bit.png") + "_gtFine"
    paths = [folder / f"{stem}{end}" for end in _CITYSCAPES_TABLES]
    return next((path for path in paths if path.is_file()), paths[0])


def _masks(names: Sequence[str], *places: tuple[Path, str]) -> list[Path]:
    """The mask of each name, from the first of the places that has it."""
    present = [
        {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        for folder, _ in places
    ]
    masks = []
    for name in names:
        found = (
            folder / f"{name}{suffix}"
            for (folder, suffix), files in zip(places, present, strict=True)
            if f"{name}{suffix}" in files
        )
        masks.append(next(found, places[0][0] / f"{name}{places[0][1]}"))
    return masks


def _names(kind: str, given: Path, path: Path) -> list[str]:
    """The images' names in a list, whose lines may hold paths of image and mask."""
    try:
        lines: Iterable[str] = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _unexpected(kind, given, str(error)) from error
    return [Path(line.split()[0]).stem for line in lines if line.strip()]


def _refuse_other_counts(kind: str, given: Path, num_train: int, num_test: int) -> None:
    published = PUBLISHED[kind]
    if (num_train, num_test) != (published.num_train, published.num_test):
        raise DataError(
            f"{kind}:{given} holds {num_train:,} training and {num_test:,} test images; it is "
            f"published with {published.num_train:,} and {published.num_test:,}. To use a part of "
            "it, which is another data set, lay it out for masks:DIR."
        )


def _unexpected(kind: str, given: Path, found: str) -> DataError:
    return DataError(
        f"{kind}:{given} is not laid out as expected:\n"
        f"{PUBLISHED[kind].tree.replace('DIR', str(given))}\nFound: {found}."
    )
