"""Classification data sets of torchvision that already lie on disk."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from moco_eval.data import file_sizes, fingerprint
from moco_eval.data.encoded_images import ImageFiles
from moco_eval.data.packed import PackedNames
from moco_eval.data.parts import refuse_unseen
from moco_eval.data.splits import ImageData, Split
from moco_eval.errors import DataError, UsageError, unknown


@dataclass(frozen=True, eq=False)
class FileLabels:
    """What a data set of torchvision says of its files, none of which was read.

    Attributes:
        entries: Each image's path and label.
        classes: By label; empty if the data set does not tell.
    """

    entries: list[tuple[str, int]]
    classes: tuple[str, ...]


def open_torchvision(rest: str) -> ImageData:
    """Open ``NAME:DIR``, a set of one label an image that torchvision splits for training and test.

    Raises:
        UsageError: If torchvision has no such set, or not with that split and such labels.
        DataError: If DIR does not hold it; how to download it is said. If its parts disagree on
            their classes.
    """
    from torchvision import datasets

    name, _, folder = rest.partition(":")
    known = {n for n in datasets.__all__ if inspect.isclass(getattr(datasets, n, None))}
    if name not in known:
        raise unknown("torchvision data set", name, known)
    root = Path(folder).expanduser()
    try:
        train, test = _open_parts(name, getattr(datasets, name), root)
    except (RuntimeError, FileNotFoundError) as error:
        raise DataError(
            f"torchvision:{name}:{folder} cannot be opened: {str(error).splitlines()[0]} "
            f'To download it: python -c "import torchvision; '
            f"torchvision.datasets.{name}('{folder}', download=True)\""
        ) from error
    classes = _common_classes(f"torchvision:{name}:{folder}", train, test)
    return ImageData(name.lower(), classes, train=_split(train, root), test=_split(test, root))


def files_and_labels(dataset: Any) -> FileLabels:
    """What a data set lists that was built with ``loader=str``.

    Raises:
        ValueError: If it has not one path and one label an image.
    """
    entries = [(path, int(label)) for path, label in (dataset[i] for i in range(len(dataset)))]
    return FileLabels(entries, _classes_of(dataset))


@dataclass(frozen=True, eq=False)
class _Part:
    """One split, built; ``files`` where it could be asked for paths instead of images."""

    dataset: Any
    labels: list[int]
    files: FileLabels | None


class _Images(Sequence[Image.Image]):
    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[index][0]


def _open_parts(name: str, build: Callable[..., Any], root: Path) -> tuple[_Part, _Part]:
    """The training and the test images."""
    parameters = inspect.signature(build).parameters
    if "train" in parameters:
        choices: list[list[dict[str, Any]]] = [[{"train": True}], [{"train": False}]]
    elif "split" in parameters:
        choices = [[{"split": "train"}], [{"split": "test"}, {"split": "val"}]]
    else:
        raise UsageError(f"torchvision's {name} has no training and test split.")
    loader = {"loader": str} if "loader" in parameters else {}

    def opened(options: list[dict[str, Any]]) -> _Part:
        for option in options:
            try:
                return _read(build(str(root), **option, **loader), bool(loader))
            except (TypeError, ValueError) as error:
                complaint = str(error)
                if "Unknown value" not in complaint:
                    break
        raise UsageError(
            f"torchvision's {name} cannot be opened as a training and a test part with one label "
            f"an image: {complaint}"
        )

    return opened(choices[0]), opened(choices[1])


def _read(dataset: Any, has_files: bool) -> _Part:
    if has_files:
        files = files_and_labels(dataset)
        return _Part(dataset, [label for _, label in files.entries], files)
    told = getattr(dataset, "targets", getattr(dataset, "labels", None))
    # Where neither is there, every image must be decoded to know its label.
    labels = [int(t) for t in (told if told is not None else (y for _, y in dataset))]
    return _Part(dataset, labels, None)


def _common_classes(place: str, train: _Part, test: _Part) -> tuple[str, ...]:
    classes, test_classes = _classes_of(train.dataset), _classes_of(test.dataset)
    if classes != test_classes:
        differing = ", ".join(sorted(set(classes) ^ set(test_classes))[:6])
        raise DataError(
            f"{place}: training and test images have different classes: "
            f"{differing or 'the same ones in another order'}."
        )
    if not classes:
        classes = tuple(str(label) for label in range(max(*train.labels, *test.labels) + 1))
    refuse_unseen(place, train.labels, test.labels, classes)
    return classes


def _split(part: _Part, root: Path) -> Split:
    if part.files:
        names = PackedNames.of(path.removeprefix(f"{root}/") for path, _ in part.files.entries)
        sizes = [file_sizes.size_of(root / each) for each in names]
        prints = fingerprint.of_names(names, sizes, part.labels)
        return Split(ImageFiles(root, names), part.labels, prints)
    images = _Images(part.dataset)
    # A tenth of a second per thousand small images; the split's size stands for the rest.
    sample = fingerprint.sample_of(len(images))
    prints = fingerprint.of_pixels((images[i] for i in sample), part.labels)
    return Split(images, part.labels, f"{prints}-n{len(images)}")


def _classes_of(dataset: Any) -> tuple[str, ...]:
    return tuple(_called(each) for each in getattr(dataset, "classes", ()))


def _called(name: Any) -> str:
    # Of ImageNet's classes torchvision has all synonyms.
    return ", ".join(name) if isinstance(name, tuple) else str(name)
