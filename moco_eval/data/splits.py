"""What a data specification becomes: images with labels to evaluate on, or images to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """A labelled data set with a test split: what classification protocols take."""

    train: Split
    test: Split

    @property
    def fingerprint(self) -> str:
        return f"{self.train.fingerprint}/{self.test.fingerprint}"
