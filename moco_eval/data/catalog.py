"""A data specification, such as ``imagefolder:DIR``, becomes labelled images."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moco_eval.data import digits, fingerprint
from moco_eval.data.coco import SceneData, open_coco
from moco_eval.data.images import open_image
from moco_eval.data.scenes import open_digit_scenes
from moco_eval.errors import DataError, UsageError, unknown

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"))
TEST_FOLDERS = ("val", "test")


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        images: Decoded when indexed, as Pillow images of any mode and size.
        labels: One class index an image.
        fingerprint: Equal for equal images and labels.
    """

    images: Sequence[Image.Image]
    labels: Sequence[int]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageData:
    """A labelled data set: what classification protocols take and pretraining ignores labels of."""

    id: str
    classes: tuple[str, ...]
    train: Split
    test: Split

    @property
    def fingerprint(self) -> str:
        return f"{self.train.fingerprint}/{self.test.fingerprint}"


def open_images(spec: str) -> ImageData:
    """Open ``digits``, ``imagefolder:DIR`` or ``torchvision:NAME:DIR``.

    Raises:
        UsageError: If the specification is of no known kind.
        DataError: If what it names is missing or empty; the expected tree is shown.
    """
    kind, _, rest = spec.partition(":")
    if kind not in _OPENERS:
        raise unknown("kind of images", kind, _OPENERS)
    return _OPENERS[kind](rest)


def open_scenes(spec: str) -> SceneData:
    """Open ``digits-scenes[:DIR]`` or ``coco:TRAIN_IMAGES:TRAIN_JSON:TEST_IMAGES:TEST_JSON``.

    Raises:
        UsageError: If the specification is of no known kind.
        DataError: If what it names is missing, empty or no COCO file.
    """
    kind, _, rest = spec.partition(":")
    if kind == "coco":
        return open_coco(rest)
    if kind == "digits-scenes":
        return open_digit_scenes(Path(rest) if rest else None)
    raise unknown("kind of scenes", kind, ("coco", "digits-scenes"))


def _open_digits(rest: str) -> ImageData:
    if rest:
        raise UsageError(f"'digits' takes nothing after it, found 'digits:{rest}'.")
    inks, labels = digits.load()
    parts = []
    for indices in digits.digit_split():
        images = [Image.fromarray(np.round(inks[i] * 255 / 16).astype(np.uint8)) for i in indices]
        targets = [int(labels[i]) for i in indices]
        parts.append(Split(images, targets, fingerprint.of_pixels(images, targets)))
    return ImageData("digits", digits.CLASSES, *parts)


class ImageFiles(Sequence[Image.Image]):
    """Images on disk, opened when indexed.

    Raises:
        DataError: When a file cannot be decoded, naming it. Evaluation never substitutes one.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        return open_image(self.paths[index])


def _open_folder(rest: str) -> ImageData:
    root = Path(rest)
    test_name = next((name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if not rest or not (root / "train").is_dir() or test_name is None:
        raise DataError(_expected_tree(root))
    classes = tuple(sorted(path.name for path in (root / "train").iterdir() if path.is_dir()))
    test_classes = {path.name for path in (root / test_name).iterdir() if path.is_dir()}
    if set(classes) != test_classes:
        differing = ", ".join(sorted(set(classes) ^ test_classes)[:6])
        raise DataError(f"{root}: train/ and {test_name}/ hold different classes: {differing}.")
    splits = [_folder_split(root / name, classes) for name in ("train", test_name)]
    return ImageData(f"imagefolder-{root.absolute().name}", classes, *splits)


def _folder_split(folder: Path, classes: Sequence[str]) -> Split:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(
            path for path in (folder / name).rglob("*") if path.suffix.lower() in SUFFIXES
        )
        if not found:
            raise DataError(
                f"The class folder {folder / name} holds no images "
                f"({', '.join(sorted(SUFFIXES))}). Remove it or fill it."
            )
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise DataError(f"{folder} holds no class folders.\n{_expected_tree(folder.parent)}")
    return Split(ImageFiles(paths), labels, fingerprint.of_files(paths, labels, folder))


def _expected_tree(root: Path) -> str:
    return (
        f"imagefolder:{root} is not laid out as expected:\n"
        f"  {root}/train/CLASS/*.jpg\n"
        f"  {root}/val/CLASS/*.jpg      (or test/ instead of val/)\n"
        f"Found: {_found(root)}."
    )


def _found(root: Path) -> str:
    if not root.exists():
        return "no such folder"
    if not root.is_dir():
        return "a file, not a folder"
    names = sorted(path.name for path in root.iterdir())
    return ", ".join(names[:6]) + (" ..." if len(names) > 6 else "") if names else "an empty folder"


class _Torchvision(Sequence[Image.Image]):
    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[index][0]


def _open_torchvision(rest: str) -> ImageData:
    """Open a classification data set of torchvision that already lies in DIR."""
    from torchvision import datasets

    name, _, folder = rest.partition(":")
    known = {n for n in datasets.__all__ if inspect.isclass(getattr(datasets, n, None))}
    if name not in known:
        raise unknown("torchvision data set", name, known)
    build = getattr(datasets, name)
    parameters = inspect.signature(build).parameters
    if "train" in parameters:
        train_args: dict[str, Any] = {"train": True}
        test_args: dict[str, Any] = {"train": False}
    elif "split" in parameters:
        train_args, test_args = {"split": "train"}, {"split": "test"}
    else:
        raise UsageError(f"torchvision's {name} has no training and test split.")
    try:
        train, test = build(folder, **train_args), build(folder, **test_args)
    except (RuntimeError, FileNotFoundError) as error:
        raise DataError(
            f"torchvision:{name}:{folder} cannot be opened: {str(error).splitlines()[0]} "
            f'To download it: python -c "import torchvision; '
            f"torchvision.datasets.{name}('{folder}', download=True)\""
        ) from error
    classes = tuple(str(c) for c in getattr(train, "classes", ()))
    splits = [_torchvision_split(part) for part in (train, test)]
    if not classes:
        classes = tuple(str(label) for label in sorted(set(splits[0].labels)))
    return ImageData(name.lower(), classes, *splits)


def _torchvision_split(dataset: Any) -> Split:
    images = _Torchvision(dataset)
    labels = getattr(dataset, "targets", getattr(dataset, "labels", None))
    targets = [int(t) for t in (labels if labels is not None else (y for _, y in dataset))]
    # A tenth of a second per thousand small images; the split's size stands for the rest.
    sample = range(0, len(images), max(1, len(images) // 500))
    prints = fingerprint.of_pixels((images[i] for i in sample), targets)
    return Split(images, targets, f"{prints}-n{len(images)}")


_OPENERS: dict[str, Callable[[str], ImageData]] = {
    "digits": _open_digits,
    "imagefolder": _open_folder,
    "torchvision": _open_torchvision,
}
