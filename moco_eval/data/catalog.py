"""A data specification, such as ``imagefolder:DIR``, becomes images, or scenes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from moco_eval.data import digits, fingerprint
from moco_eval.data.coco import open_coco
from moco_eval.data.facts import DATASETS, describe
from moco_eval.data.folders import (
    open_class_folders,
    open_class_folders_to_train_on,
    open_unlabelled_folder,
)
from moco_eval.data.hugging_face import open_hugging_face
from moco_eval.data.listings import open_list, open_table
from moco_eval.data.named import open_by_class, open_named
from moco_eval.data.scene import SceneData
from moco_eval.data.scene_sets import SCENE_SETS, open_scene_set
from moco_eval.data.scenes import open_digit_scenes
from moco_eval.data.semantic import SemanticData, of_scenes, open_masks
from moco_eval.data.semantic_sets import open_cityscapes, open_voc_augmented
from moco_eval.data.shards import open_shards
from moco_eval.data.splits import (
    ImageData,
    MultiLabelData,
    Split,
    TrainingImages,
    TrainingSplit,
)
from moco_eval.errors import UsageError, unknown

__all__ = [
    "DATASETS",
    "IMAGE_KINDS",
    "ImageData",
    "MultiLabelData",
    "Split",
    "TrainingImages",
    "TrainingSplit",
    "describe",
    "open_images",
    "open_labelled",
    "open_pretraining",
    "open_scenes",
    "open_semantic",
]

# How each kind is written; folder:DIR alone never has labels.
IMAGE_KINDS = (
    "digits",
    "imagefolder:DIR",
    "torchvision:NAME:DIR",
    "csv:FILE",
    "hf:NAME_OR_DIR",
    "list:TRAIN[:TEST]",
    "wds:TRAIN[:TEST]",
    "folder:DIR",
    *(f"{name}:DIR{'[:CLASSES_FILE]' if name == 'imagenet100' else ''}" for name in DATASETS),
)


def open_images(spec: str) -> ImageData:
    """Open images of one label each, with a test split, of any kind of ``IMAGE_KINDS`` with both.

    Raises:
        UsageError: If the specification is of no known kind, or what it names is only fit for
            pretraining, or for protocols that take several labels an image.
        DataError: If what it names is missing, empty or damaged.
    """
    data = open_labelled(spec)
    if isinstance(data, ImageData):
        return data
    raise UsageError(
        f"An image of {spec} may show several of its {len(data.classes)} classes, but one class an "
        "image is asked for. Evaluate on it by svm, or by linear with --recipe lbfgs-45."
    )


def open_labelled(spec: str) -> ImageData | MultiLabelData:
    """Open labelled images with a test split, of one label each or of several.

    Raises:
        UsageError: If the specification is of no known kind, or what it names is only fit for
            pretraining.
        DataError: If what it names is missing, empty or damaged.
    """
    data = _open(spec, {**_OPENERS, "imagefolder": open_class_folders})
    if isinstance(data, ImageData | MultiLabelData):
        return data
    lack = "labels for all its images" if data.train.labels is None else "labelled test images"
    raise UsageError(
        f"{spec} has no {lack}: it can be pretrained on, not evaluated on. To evaluate, lay the "
        "images out for imagefolder:DIR (train/CLASS/*.jpg and val/CLASS/*.jpg), or name path, "
        "label and split of each in csv:FILE."
    )


def open_pretraining(spec: str) -> TrainingImages:
    """Open images to pretrain on, of any kind in ``IMAGE_KINDS``; an ``ImageData`` if it can be.

    Raises:
        UsageError: If the specification is of no known kind.
        DataError: If what it names is missing, empty or damaged.
    """
    data = _open(spec, _OPENERS)
    if isinstance(data, MultiLabelData):
        images = TrainingSplit(data.train.images, None, data.train.fingerprint)
        return TrainingImages(data.id, (), images, None)
    return data


def open_scenes(spec: str) -> SceneData:
    """Open ``digits-scenes[:DIR]``, a set of ``SCENE_SETS`` such as ``voc07:DIR``, or COCO files.

    The last are written ``coco:IMAGES:JSON`` or
    ``coco:TRAIN_IMAGES:TRAIN_JSON:TEST_IMAGES:TEST_JSON``.

    Raises:
        UsageError: If the specification is of no known kind.
        DataError: If what it names is missing, empty or of another layout.
    """
    kind, _, rest = spec.partition(":")
    if kind == "coco":
        return open_coco(rest)
    if kind == "digits-scenes":
        return open_digit_scenes(Path(rest) if rest else None)
    if kind in SCENE_SETS:
        return open_scene_set(kind, rest)
    raise unknown("kind of scenes", kind, ("coco", "digits-scenes", *SCENE_SETS))


def open_semantic(spec: str) -> SemanticData:
    """Open images with a class for each pixel.

    Args:
        spec: ``voc-aug:DIR``, ``cityscapes:DIR``, ``masks:DIR`` or ``digits-scenes[:DIR]``.

    Raises:
        UsageError: If the specification is of no known kind.
        DataError: If what it names is missing, laid out otherwise or damaged.
    """
    kind, _, rest = spec.partition(":")
    if kind == "digits-scenes":
        return of_scenes(open_digit_scenes(Path(rest) if rest else None))
    openers = {"voc-aug": open_voc_augmented, "cityscapes": open_cityscapes, "masks": open_masks}
    if kind not in openers:
        raise unknown("kind of semantic data", kind, (*openers, "digits-scenes"))
    if not rest:
        raise UsageError(f"'{spec}' names no folder. It is written: {kind}:DIR.")
    return openers[kind](rest)


_Opener = Callable[[str], TrainingImages | MultiLabelData]


def _open(spec: str, openers: dict[str, _Opener]) -> TrainingImages | MultiLabelData:
    kind, colon, rest = spec.partition(":")
    if kind not in openers:
        raise unknown("kind of images", kind, openers)
    if kind != "digits" and not rest:
        form = next(form for form in IMAGE_KINDS if form.startswith(f"{kind}:"))
        raise UsageError(f"'{kind}{colon}' names no images. It is written: {form}.")
    return openers[kind](rest)


def _open_digits(rest: str) -> ImageData:
    if rest:
        raise UsageError(f"'digits' takes nothing after it, found 'digits:{rest}'.")
    inks, labels = digits.load()
    parts = []
    for indices in digits.digit_split():
        images = [Image.fromarray(np.round(inks[i] * 255 / 16).astype(np.uint8)) for i in indices]
        targets = [int(labels[i]) for i in indices]
        parts.append(Split(images, targets, fingerprint.of_pixels(images, targets)))
    return ImageData("digits", digits.CLASSES, train=parts[0], test=parts[1])


_OPENERS: dict[str, _Opener] = {
    "digits": _open_digits,
    "imagefolder": open_class_folders_to_train_on,
    "torchvision": open_by_class,
    "csv": open_table,
    "hf": open_hugging_face,
    "list": open_list,
    "wds": open_shards,
    "folder": open_unlabelled_folder,
    **{name: functools.partial(open_named, name) for name in DATASETS},
}
