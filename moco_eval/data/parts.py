"""Images with labels in words, as lists, tables and shards hold them, become numbered classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from moco_eval.data import fingerprint
from moco_eval.data.splits import ImageData, Split, TrainingImages, TrainingSplit
from moco_eval.errors import DataError, UsageError

# What a label is called in a table's header or a sample's JSON; the first one found counts.
LABEL_NAMES = ("label", "class", "cls")


@dataclass(frozen=True, eq=False)
class Part:
    """One part of a data set.

    Attributes:
        images: Its images.
        words: One label an image, a word or a number; empty where there is none.
        content: The fingerprint of the images without labels.
    """

    images: Sequence[Image.Image]
    words: Sequence[str]
    content: str

    @property
    def is_labelled(self) -> bool:
        return all(self.words)


def train_and_test(kind: str, rest: str) -> list[str]:
    """The one or two names that ``TRAIN[:TEST]`` consists of.

    Raises:
        UsageError: If there are more, or an empty one.
    """
    names = rest.split(":")
    if len(names) > 2 or not all(names):
        raise UsageError(f"{kind}:{rest} is not written as {kind}:TRAIN or {kind}:TRAIN:TEST.")
    return names


def number(
    name: str, train: Part, test: Part | None, classes: Sequence[str] = ()
) -> TrainingImages:
    """Give every label its number.

    Where an image lacks a label, or there is no test part, the data are for pretraining only.

    Args:
        name: The data set's id.
        train: Not empty.
        test: None if there is none.
        classes: In their order, if that is known; else numbers by value, words by alphabet.

    Raises:
        DataError: If a test label occurs nowhere in training.
    """
    if not train.is_labelled:
        return TrainingImages(name, (), TrainingSplit(train.images, None, train.content), None)
    ordered = tuple(classes) or _ordered(train.words)
    labelled = _split(name, train, ordered)
    if test is None or not test.is_labelled:
        return TrainingImages(name, ordered, labelled, None)
    return ImageData(name, ordered, labelled, _split(name, test, ordered))


def _ordered(words: Sequence[str]) -> tuple[str, ...]:
    found = set(words)
    if all(word.isdecimal() for word in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


def _split(name: str, part: Part, classes: tuple[str, ...]) -> Split:
    labels = {word: label for label, word in enumerate(classes)}
    strange = sorted(set(part.words) - labels.keys())
    if strange:
        raise DataError(
            f"{name}: the test images have {len(strange)} labels that no training image has: "
            f"{', '.join(strange[:6])}. Both parts must name their {len(classes)} classes alike."
        )
    numbers = [labels[word] for word in part.words]
    return Split(part.images, numbers, fingerprint.with_labels(part.content, numbers))
