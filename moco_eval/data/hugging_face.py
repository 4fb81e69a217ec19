"""Images of a Hugging Face data set, read through the ``datasets`` library."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from moco_eval.data import fingerprint
from moco_eval.data.encoded_images import EncodedImages
from moco_eval.data.parts import Part, number
from moco_eval.data.splits import TrainingImages
from moco_eval.errors import DataError, UsageError

# Written by save_to_disk: for several splits, for one.
_SAVED = ("dataset_dict.json", "state.json")


def open_hugging_face(rest: str) -> TrainingImages:
    """Open ``DIR``, as ``save_to_disk`` wrote it, or ``NAME``, from the library's cache or the hub.

    Images are the first column of type Image; labels the first of type ClassLabel, one called
    ``label`` before others. Images to test on are those of ``test`` if all of them have labels,
    else of ``validation``.

    Raises:
        UsageError: If the library is not installed.
        DataError: If the data set cannot be opened, or has no such columns or no ``train``.
    """
    splits = _load(rest)
    if "train" not in splits:
        raise DataError(f"hf:{rest} has no split 'train'; it has {', '.join(splits)}.")
    name = f"hf-{Path(rest).name if Path(rest).is_dir() else rest.replace('/', '-')}"
    image, label, classes = _columns(rest, splits["train"].features)
    parts = {
        split: _part(f"{name}[{split}]", splits[split], image, (label, classes))
        for split in ("train", "test", "validation")
        if split in splits
    }
    test = parts.get("test")
    if test is None or not test.is_labelled:
        test = parts.get("validation")
    return number(name, parts["train"], test, classes)


class HuggingFaceImages(EncodedImages):
    """The column ``image`` of a data set, a row's bytes as they were stored.

    Args:
        name: What errors call the data set.
        dataset: Of the library's class ``Dataset``, with images that are not decoded.
        image: The column.
    """

    def __init__(self, name: str, dataset: Any, image: str) -> None:
        self.name = name
        self.dataset = dataset
        self.image = image

    def __len__(self) -> int:
        return len(self.dataset)

    def name_of(self, index: int) -> str:
        """The data set's name and the row's number: rows need no names of their own."""
        return f"{self.name}:{range(len(self))[index]}"

    def encoded(self, index: int) -> bytes:
        """The bytes in the row, or in the file that it names."""
        row = self.dataset[int(index)][self.image]
        if row is None:
            raise FileNotFoundError("the row holds no image")
        data: bytes | None = row["bytes"]
        return Path(row["path"]).read_bytes() if data is None else data


def _load(rest: str) -> dict[str, Any]:
    """Every split by name."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise UsageError(
            f"hf:{rest} is read with the library 'datasets', which is not installed. Install it "
            "with: python -m pip install 'moco-eval[hf]'"
        ) from error
    saved = any((Path(rest) / name).exists() for name in _SAVED)
    try:
        opened = datasets.load_from_disk(rest) if saved else datasets.load_dataset(rest)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"hf:{rest} cannot be opened: {str(error).splitlines()[0]} Name a folder that "
            "save_to_disk wrote, or a data set as: hf:uoft-cs/cifar10"
        ) from error
    return dict(opened) if isinstance(opened, dict) else {"train": opened}


def _columns(rest: str, features: dict[str, Any]) -> tuple[str, str | None, tuple[str, ...]]:
    """The columns of images and labels, and the classes; labels of no column have no classes."""
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    if not images:
        shown = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise DataError(f"hf:{rest} has no column of type Image. It has: {shown}.")
    if not labels:
        return images[0], None, ()
    label = "label" if "label" in labels else labels[0]
    return images[0], label, tuple(features[label].names)


def _part(name: str, dataset: Any, image: str, labels: tuple[str | None, tuple[str, ...]]) -> Part:
    column, classes = labels
    words = [""] * len(dataset)
    if column is not None and column in dataset.features:
        own = tuple(getattr(dataset.features[column], "names", classes))
        if own != classes:
            raise DataError(
                f"{name} numbers other classes in its column {column} than the training images: "
                f"{', '.join(own[:6])} ... against {', '.join(classes[:6])} ... Give all splits "
                "the same features."
            )
        # Test sets whose labels are kept secret hold -1.
        words = [classes[i] if i is not None and i >= 0 else "" for i in dataset[column]]
    undecoded = type(dataset.features[image])(decode=False)
    images = HuggingFaceImages(
        name, dataset.select_columns([image]).cast_column(image, undecoded), image
    )
    sample = fingerprint.sample_of(len(images))
    prints = fingerprint.of_bytes((images.encoded(i) for i in sample), len(images))
    return Part(images, words, prints)
