"""What a data specification becomes: images with labels to evaluate on, or images to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image


@dataclass(frozen=True)
class TrainingSplit:
    """Images whose labels may be unknown.

    Attributes:
        images: Decoded when indexed, as Pillow images of any mode and size.
        labels: One class index an image; None if they are unknown.
        fingerprint: Equal for equal images and labels.
    """

    images: Sequence[Image.Image]
    labels: Sequence[int] | None
    fingerprint: str

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Split(TrainingSplit):
    """One labelled part of a data set."""

    labels: Sequence[int]


# What a label says of one class, where an image may show several.
PRESENT, ABSENT, DIFFICULT = 1, 0, -1


@dataclass(frozen=True)
class MultiLabelSplit:
    """One part of a data set whose images may show several classes.

    Attributes:
        images: As of a ``TrainingSplit``.
        labels: For each image one of ``PRESENT``, ``ABSENT`` and ``DIFFICULT`` a class.
    """

    images: Sequence[Image.Image]
    labels: Sequence[Sequence[int]]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class TrainingImages:
    """What pretraining takes: it needs neither labels nor a test split.

    Attributes:
        id: Names the data set in records.
        classes: By label; empty if there are no labels.
        train: The training images.
        test: Labelled images, if there are any and the training images have labels, too.
    """

    id: str
    classes: tuple[str, ...]
    train: TrainingSplit
    test: Split | None


@dataclass(frozen=True)
class ImageData(TrainingImages):
    """A labelled data set with a test split: what classification protocols take.

    Attributes:
        train: Training images, with those of the published validation set, where there is one.
        test: What counts.
        metric: The metric that the field reports of this set.
        held_out: Which of ``train`` are the published validation set, to choose on; None where a
            protocol must take a slice of its own.
    """

    train: Split
    test: Split
    metric: Literal["top1", "mean_per_class"] = "top1"
    held_out: Sequence[int] | None = None

    @property
    def fingerprint(self) -> str:
        return f"{self.train.fingerprint}/{self.test.fingerprint}"


@dataclass(frozen=True)
class MultiLabelData:
    """A data set whose images may show several classes, such as VOC07; its metric is mean AP.

    Attributes:
        id: Names the data set in records.
        classes: By place in a label.
        train: Training images, with those of the published validation set.
        test: What counts.
        held_out: As of ``ImageData``.
    """

    id: str
    classes: tuple[str, ...]
    train: MultiLabelSplit
    test: MultiLabelSplit
    held_out: Sequence[int] | None = None

    @property
    def fingerprint(self) -> str:
        return f"{self.train.fingerprint}/{self.test.fingerprint}"
