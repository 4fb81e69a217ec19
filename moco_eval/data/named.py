"""Data sets of the literature by name, each with its published split, metric and counts."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moco_eval.data import facts, file_sizes, fingerprint, layouts
from moco_eval.data.encoded_images import ImageFiles
from moco_eval.data.facts import DATASETS
from moco_eval.data.folders import open_class_folders
from moco_eval.data.layouts import Listed
from moco_eval.data.packed import PackedNames
from moco_eval.data.parts import refuse_unseen
from moco_eval.data.splits import ImageData, MultiLabelData, MultiLabelSplit, Split
from moco_eval.data.torchvision_sets import open_torchvision
from moco_eval.errors import DataError, UsageError

_WNID = re.compile(r"\bn\d{8}\b")

# What reading a missing, truncated or foreign list raises.
_ODD_FILES = (OSError, RuntimeError, LookupError, ValueError, TypeError, zlib.error)

_LAYOUTS: Mapping[str, Callable[[Path], Listed[int]]] = {
    "food101": layouts.food101,
    "birdsnap": layouts.birdsnap,
    "sun397": layouts.sun397,
    "cars": layouts.cars,
    "aircraft": layouts.aircraft,
    "dtd": layouts.dtd,
    "pets": layouts.pets,
    "caltech101": layouts.caltech101,
    "flowers102": layouts.flowers102,
    "places205": layouts.places205,
    "inat2018": layouts.inat2018,
}


def open_named(name: str, rest: str) -> ImageData | MultiLabelData:
    """Open the data set ``name`` of ``facts.DATASETS`` that lies in the folder ``rest``.

    Where a validation set is published, its images are the last of the training images, and
    ``held_out`` tells them.

    Args:
        name: One of ``DATASETS``.
        rest: The folder; of ``imagenet100`` also, behind a colon, a file that names the classes.

    Raises:
        UsageError: If more than a folder is named.
        DataError: If the folder does not hold the data set, or not all of it.
    """
    folder, _, more = rest.partition(":")
    if more and name != "imagenet100":
        raise UsageError(f"{name}:{rest} is not written as {name}:DIR.")
    root = Path(folder).expanduser()
    try:
        data = _open(name, root, more)
    except UsageError:
        raise
    except _ODD_FILES as error:
        raise DataError(
            f"{name}:{folder} cannot be opened: {_complaint(error)}. "
            f"{facts.how_to_get(name, folder)}"
        ) from error
    _refuse_other_counts(name, folder, data)
    if isinstance(data, ImageData):
        refuse_unseen(f"{name}:{folder}", data.train.labels, data.test.labels, data.classes)
    return data


def open_by_class(rest: str) -> ImageData | MultiLabelData:
    """Open torchvision's ``NAME:DIR``, by the published split of that set where one is known."""
    class_name, _, folder = rest.partition(":")
    named = {known.torchvision: name for name, known in DATASETS.items() if known.torchvision}
    # CIFAR is opened as torchvision does it, below.
    if class_name in named and named[class_name] in _LAYOUTS:
        return open_named(named[class_name], folder)
    return open_torchvision(rest)


def _open(name: str, root: Path, more: str) -> ImageData | MultiLabelData:
    known = DATASETS[name]
    if name == "voc07":
        return _several_labels(name, layouts.voc07(root))
    if name in _LAYOUTS:
        return _one_label(name, _LAYOUTS[name](root))
    if name in ("imagenet", "imagenet100"):
        for part in ("train", "val"):
            if not (root / part).is_dir():
                raise FileNotFoundError(f"there is no folder {root / part}")
        data = open_class_folders(str(root), only=_wnids_in(more) if more else ())
    else:
        data = open_torchvision(f"{known.torchvision}:{root}")
    return ImageData(name, data.classes, train=data.train, test=data.test)


def _wnids_in(file: str) -> Sequence[str]:
    text = Path(file).read_text()
    wnids = sorted(set(_WNID.findall(text)))
    if not wnids:
        raise ValueError(f"{file} names no class, such as n02869837")
    return wnids


def _one_label(name: str, listed: Listed[int]) -> ImageData:
    splits = []
    for names, sizes, labels in _parts(name, listed):
        prints = fingerprint.of_names(names, sizes, labels)
        splits.append(Split(ImageFiles(listed.root, names), labels, prints))
    metric = DATASETS[name].metric
    assert metric != "mAP", f"{name} has one label an image."
    return ImageData(
        name, listed.classes, train=splits[0], test=splits[1], metric=metric, held_out=_held(listed)
    )


def _several_labels(name: str, listed: Listed[tuple[int, ...]]) -> MultiLabelData:
    splits = []
    for names, sizes, labels in _parts(name, listed):
        prints = fingerprint.of_names(names, sizes, labels)
        splits.append(MultiLabelSplit(ImageFiles(listed.root, names), labels, prints))
    train, test = splits
    return MultiLabelData(name, listed.classes, train, test, held_out=_held(listed))


def _held(listed: Listed[Any]) -> range | None:
    if not listed.val:
        return None
    return range(len(listed.train), len(listed.train) + len(listed.val))


def _parts(name: str, listed: Listed[Any]) -> list[tuple[PackedNames, list[int], list[Any]]]:
    """Names, sizes in bytes and labels of the training images, and of the test images."""
    parts = [*listed.train, *listed.val], [*listed.test]
    packed = [PackedNames.of(path for path, _ in part) for part in parts]
    everything = PackedNames(b"".join(names.block for names in packed))
    sizes = file_sizes.of_list(listed.source, listed.root, everything)
    missing = (sizes == file_sizes.MISSING).nonzero()[0]
    if len(missing):
        raise DataError(
            f"{name}: {len(missing):,} of the {len(everything):,} images that {listed.source} "
            f"lists are not there; the first is {listed.root / everything[int(missing[0])]}. "
            f"{_ways_out(name)}"
        )
    train, test = sizes[: len(packed[0])].tolist(), sizes[len(packed[0]) :].tolist()
    labels = [[label for _, label in part] for part in parts]
    return [(packed[0], train, labels[0]), (packed[1], test, labels[1])]


def _refuse_other_counts(name: str, folder: str, data: ImageData | MultiLabelData) -> None:
    known = DATASETS[name]
    found = (len(data.train), len(data.test), len(data.classes))
    expected = (known.num_train + known.num_val, known.num_test, known.num_classes)
    if found != expected:
        raise DataError(
            f"{name}:{folder} holds {_counted(*found)}; {known.title} is published with "
            f"{_counted(*expected)}. {_ways_out(name)}"
        )


def _counted(num_train: int, num_test: int, num_classes: int) -> str:
    return f"{num_train:,} training and {num_test:,} test images of {num_classes:,} classes"


def _ways_out(name: str) -> str:
    return (
        f"Get the whole set: {DATASETS[name].get.replace('{dir}', 'DIR')}. To evaluate on a part "
        "of it, which is another data set, lay it out for imagefolder:DIR (train/CLASS/*.jpg and "
        "val/CLASS/*.jpg), or name its images in csv:FILE."
    )


def _complaint(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}"
    first, *_ = str(error).splitlines() or [""]
    if isinstance(error, LookupError):
        first = f"one of its lists names {first}, which another one lacks"
    return first.rstrip(".") or type(error).__name__
