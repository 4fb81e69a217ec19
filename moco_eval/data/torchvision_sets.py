"""Classification data sets of torchvision that already lie on disk."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from PIL import Image

from moco_eval.data import fingerprint
from moco_eval.data.splits import ImageData, Split
from moco_eval.errors import DataError, UsageError, unknown


def open_torchvision(rest: str) -> ImageData:
    """Open ``NAME:DIR``.

    Raises:
        UsageError: If torchvision has no such set, or one without training and test split.
        DataError: If DIR does not hold it; how to download it is said.
    """
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
    splits = [_split(part) for part in (train, test)]
    if not classes:
        classes = tuple(str(label) for label in sorted(set(splits[0].labels)))
    return ImageData(name.lower(), classes, train=splits[0], test=splits[1])


class _Images(Sequence[Image.Image]):
    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[index][0]


def _split(dataset: Any) -> Split:
    images = _Images(dataset)
    labels = getattr(dataset, "targets", getattr(dataset, "labels", None))
    targets = [int(t) for t in (labels if labels is not None else (y for _, y in dataset))]
    # A tenth of a second per thousand small images; the split's size stands for the rest.
    sample = fingerprint.sample_of(len(images))
    prints = fingerprint.of_pixels((images[i] for i in sample), targets)
    return Split(images, targets, f"{prints}-n{len(images)}")
