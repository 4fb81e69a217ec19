"""Images with labels in words, as lists, tables and shards hold them, become numbered classes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from PIL import Image

from moco_eval.data import fingerprint
from moco_eval.data.splits import (
    ABSENT,
    PRESENT,
    ImageData,
    MultiLabelData,
    MultiLabelSplit,
    Split,
    TrainingImages,
    TrainingSplit,
)
from moco_eval.errors import DataError, UsageError

# What a label is called in a table's header or a sample's JSON; the first one found counts.
LABEL_NAMES = ("label", "class", "cls")
# Between the classes of an image that shows several.
SEPARATOR = "|"


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
    tested = _split(name, test, ordered)
    refuse_unseen(name, labelled.labels, tested.labels, ordered)
    return ImageData(name, ordered, labelled, tested)


def number_several(name: str, train: Part, test: Part | None) -> TrainingImages | MultiLabelData:
    """Give every label its number, where an image shows any number of classes.

    Without a test part the data are for pretraining only.

    Args:
        name: The data set's id.
        train: Its words hold the classes with ``SEPARATOR`` between them; an empty one, none.
        test: None if there is none.

    Raises:
        DataError: If a class of the test images occurs nowhere in training.
    """
    if test is None:
        return TrainingImages(name, (), TrainingSplit(train.images, None, train.content), None)
    shown = [[_classes_in(word) for word in part.words] for part in (train, test)]
    classes = _ordered([each for several in shown[0] for each in several])
    _refuse(name, {each for several in shown[1] for each in several} - set(classes), len(classes))
    splits = []
    for part, of_images in zip((train, test), shown, strict=True):
        labels = [
            [PRESENT if each in several else ABSENT for each in classes] for several in of_images
        ]
        prints = fingerprint.with_labels(part.content, labels)
        splits.append(MultiLabelSplit(part.images, labels, prints))
    return MultiLabelData(name, classes, train=splits[0], test=splits[1])


def refuse_unseen(
    name: str, train: Sequence[int], test: Sequence[int], classes: Sequence[str]
) -> None:
    """Refuse test images of a class that no training image has: nothing could be learnt of it.

    Args:
        name: What the error calls the data set.
        train: Labels.
        test: Labels.
        classes: By label.

    Raises:
        DataError: If there are any; some are named.
    """
    _refuse(name, {classes[label] for label in set(test) - set(train)}, len(set(train)))


def _refuse(name: str, strange: Collection[str], num_classes: int) -> None:
    if strange:
        raise DataError(
            f"{name}: the test images have {len(strange)} labels that no training image has: "
            f"{', '.join(sorted(strange)[:6])}. Both parts must name their {num_classes} classes "
            "alike."
        )


def _classes_in(word: str) -> set[str]:
    return {each.strip() for each in word.split(SEPARATOR)} - {""}


def _ordered(words: Sequence[str]) -> tuple[str, ...]:
    found = set(words)
    if all(word.isdecimal() for word in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


def _split(name: str, part: Part, classes: tuple[str, ...]) -> Split:
    labels = {word: label for label, word in enumerate(classes)}
    _refuse(name, set(part.words) - labels.keys(), len(classes))
    numbers = [labels[word] for word in part.words]
    return Split(part.images, numbers, fingerprint.with_labels(part.content, numbers))
