"""Images in folders: one class a folder, or no classes at all."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from moco_eval.data import fingerprint
from moco_eval.data.encoded_images import ImageFiles
from moco_eval.data.folder_index import SUFFIXES, FolderIndex, find_images
from moco_eval.data.splits import ImageData, Split, TrainingImages, TrainingSplit
from moco_eval.errors import DataError

# As ImageNet is laid out: its test images have no labels.
TEST_FOLDERS = ("val", "test")


def open_class_folders(rest: str, only: Collection[str] = ()) -> ImageData:
    """Open ``DIR`` with ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg``, or ``test/`` for ``val/``.

    Args:
        rest: The folder.
        only: The classes to open; all, if it is empty.

    Raises:
        DataError: If it is laid out otherwise, a class is empty, or the parts' classes differ.
    """
    root = Path(rest)
    test_folder = _test_folder(root)
    if not (root / "train").is_dir() or test_folder is None:
        raise DataError(_expected_tree(root))
    train, test = (
        _only(only, find_images(folder).below()) for folder in (root / "train", test_folder)
    )
    classes = _classes_of(train)
    if set(classes) != set(_classes_of(test)):
        differing = ", ".join(sorted(set(classes) ^ set(_classes_of(test)))[:6])
        raise DataError(
            f"{root}: train/ and {test_folder.name}/ hold different classes: {differing}."
        )
    return ImageData(_id(root), classes, _split(root / "train", train), _split(test_folder, test))


def open_class_folders_to_train_on(rest: str) -> TrainingImages:
    """Open what ``open_class_folders`` does, or a tree without a test part, or classes in ``DIR``.

    A ``val/`` that does not hold the classes of ``train/`` is passed by.

    Raises:
        DataError: If there are no class folders, or an empty one.
    """
    root = Path(rest)
    if not root.is_dir():
        raise DataError(_expected_tree(root))
    folder = root / "train" if (root / "train").is_dir() else root
    index = find_images(folder).below()
    classes = _classes_of(index)
    if not len(index.names):
        raise DataError(
            f"{folder} holds no class folders with images. Unlabelled images in any folders: "
            f"folder:{root}.\n{_expected_tree(root)}"
        )
    train = _split(folder, index)
    test_folder = _test_folder(root) if folder != root else None
    if test_folder is not None:
        test = find_images(test_folder).below()
        if _classes_of(test) == classes:
            return ImageData(_id(root), classes, train, _split(test_folder, test))
    return TrainingImages(_id(root), classes, train, None)


def open_unlabelled_folder(rest: str) -> TrainingImages:
    """Open every image under ``DIR``, at any depth.

    Raises:
        DataError: If there is no such folder, or no image in it.
    """
    root = Path(rest)
    if not root.is_dir():
        raise DataError(f"folder:{root} is {_found(root)}. Name a folder that holds images.")
    index = find_images(root)
    if not len(index.names):
        raise DataError(
            f"folder:{root} holds no images ({', '.join(sorted(SUFFIXES))}). Found: {_found(root)}."
        )
    prints = fingerprint.of_names(index.names, index.sizes, None)
    images = ImageFiles(index.root, index.names)
    return TrainingImages(
        f"folder-{root.absolute().name}", (), TrainingSplit(images, None, prints), None
    )


def _test_folder(root: Path) -> Path | None:
    return next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)


def _id(root: Path) -> str:
    return f"imagefolder-{root.absolute().name}"


def _classes_of(index: FolderIndex) -> tuple[str, ...]:
    return tuple(sorted({folder.partition("/")[0] for folder in index.folders}))


def _only(classes: Collection[str], index: FolderIndex) -> FolderIndex:
    if not classes:
        return index
    lacking = sorted(set(classes) - set(_classes_of(index)))
    if lacking:
        raise DataError(
            f"{index.root} lacks {len(lacking)} of the {len(classes)} classes that are asked for: "
            f"{', '.join(lacking[:6])}."
        )
    return index.within(classes)


def _split(folder: Path, index: FolderIndex) -> Split:
    classes = _classes_of(index)
    if not classes:
        raise DataError(f"{folder} holds no class folders.\n{_expected_tree(folder.parent)}")
    number = {name: label for label, name in enumerate(classes)}
    owners = np.array([number[name.partition("/")[0]] for name in index.folders])
    _refuse_empty(folder, classes, np.bincount(owners, weights=index.counts).tolist())
    labels = np.repeat(owners, index.counts).tolist()
    prints = fingerprint.of_names(index.names, index.sizes, labels)
    return Split(ImageFiles(index.root, index.names), labels, prints)


def _refuse_empty(folder: Path, classes: Sequence[str], counts: Sequence[float]) -> None:
    for name, count in zip(classes, counts, strict=True):
        if not count:
            raise DataError(
                f"The class folder {folder / name} holds no images "
                f"({', '.join(sorted(SUFFIXES))}). Remove it or fill it."
            )


def _expected_tree(root: Path) -> str:
    return (
        f"imagefolder:{root} is not laid out as expected:\n"
        f"  {root}/train/CLASS/*.jpg\n"
        f"  {root}/val/CLASS/*.jpg      (or test/ instead of val/; pretraining needs neither)\n"
        f"Found: {_found(root)}."
    )


def _found(root: Path) -> str:
    if not root.exists():
        return "no such folder"
    if not root.is_dir():
        return "a file, not a folder"
    names = sorted(path.name for path in root.iterdir())
    return ", ".join(names[:6]) + (" ..." if len(names) > 6 else "") if names else "an empty folder"
