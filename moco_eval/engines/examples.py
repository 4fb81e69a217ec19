"""What both engines train on and give back: the same pixels, boxes and order for each."""

from __future__ import annotations

import abc
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2.functional import pil_to_tensor

from moco_eval.data.coco import Scene, SceneSplit
from moco_eval.data.sampler import EpochBatches, keyed_generator
from moco_eval.engines.recipe import Recipe
from moco_eval.errors import DataError

# Below this, starting processes takes longer than loading the images.
MIN_IMAGES_FOR_WORKERS = 1000


@dataclass(frozen=True, kw_only=True)
class Example:
    """A scene as a detector sees it.

    Attributes:
        pixels: ``(3, h, w)`` uint8, RGB, resized.
        size: Height and width of the image file, which detections are given in.
        boxes: ``(n, 4)`` float32, in pixels of ``pixels``.
        labels: ``(n,)`` int64, from 0.
        masks: ``(n, h, w)`` bool, or None where no mask head is trained.
        keypoints: ``(n, K, 3)`` float32: x and y in pixels of ``pixels``, and COCO's visibility, 0
            to 2; None where no keypoint head is trained.
    """

    pixels: Tensor
    size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None
    keypoints: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What a detector finds in one image, in pixels of the image file.

    Attributes:
        boxes: ``(n, 4)`` float32, left, top, right, bottom.
        scores: ``(n,)`` from 0 to 1.
        labels: ``(n,)`` int64, from 0.
        masks: ``(n, height, width)`` bool, or None.
        keypoints: ``(n, K, 3)``: x, y and score, or None.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None
    keypoints: Tensor | None = None


class Detector(nn.Module, abc.ABC):
    """What an engine builds; called with a batch in training mode, it returns named losses.

    An engine's class takes ``(encoder, recipe, *, num_classes, num_keypoints)``. What the recipe
    freezes it freezes by itself: ``requires_grad`` and, for norms, their mode.
    """

    @abc.abstractmethod
    def forward(self, examples: list[Example]) -> dict[str, Tensor]:
        """The losses of a batch under Detectron2's names, with gradients."""

    @abc.abstractmethod
    def detect(self, example: Example) -> Detections:
        """What it finds in one image."""

    @abc.abstractmethod
    def backbone(self) -> dict[str, Tensor]:
        """The tensors that must be the encoder's, under the encoder's names."""

    @abc.abstractmethod
    def levels(self, pixels: Tensor) -> dict[str, Tensor]:
        """The encoder's maps in it, of RGB pixels ``(3, h, w)``, normalised on the way.

        Of a network with stages those of ``res2`` to ``res5`` that the detector keeps apart; of a
        plain transformer ``last``.
        """

    def settings(self) -> dict[str, Any]:
        """What the engine was told, by its own names, for whoever reads a record of it."""
        return {}


class _TrainingExamples(Dataset[Example]):
    def __init__(self, scenes: list[Scene], recipe: Recipe, *, seed: int, with_masks: bool) -> None:
        self.scenes = scenes
        self.recipe = recipe
        self.seed = seed
        self.with_masks = with_masks

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: tuple[int, int]) -> Example:
        epoch, number = index
        draw = keyed_generator(self.seed, epoch, number)
        sides = self.recipe.short_sides_train
        side = sides[int(torch.randint(len(sides), (), generator=draw))]
        mirrored = self.recipe.flip and bool(torch.rand((), generator=draw) < 0.5)
        return example_of(
            self.scenes[number],
            self.recipe,
            side=side,
            with_masks=self.with_masks,
            mirrored=mirrored,
        )


def training_batches(
    split: SceneSplit, recipe: Recipe, *, seed: int, with_masks: bool
) -> Iterator[list[Example]]:
    """Batches without end, in an order and with draws that only the seed decides.

    Scenes without objects are left out, as in Detectron2.

    Raises:
        DataError: If fewer scenes than a batch hold objects.
    """
    scenes = [scene for scene in split.scenes if not scene.crowd.all()]
    if len(scenes) < recipe.batch_total:
        raise DataError(
            f"{split.id} has {len(scenes)} scenes with objects, fewer than one batch of "
            f"{recipe.batch_total}. Take a smaller one: --set batch_total=..."
        )
    num_batches = recipe.num_iterations + recipe.precise_bn_batches
    batches = EpochBatches(len(scenes), recipe.batch_total, seed=seed, steps=range(num_batches))
    num_workers = 0 if len(scenes) < MIN_IMAGES_FOR_WORKERS else min(8, os.cpu_count() or 1)
    examples: Dataset[Any] = _TrainingExamples(scenes, recipe, seed=seed, with_masks=with_masks)
    return iter(
        DataLoader(examples, batch_sampler=batches, num_workers=num_workers, collate_fn=list)
    )


def example_of(
    scene: Scene, recipe: Recipe, *, side: int, with_masks: bool = False, mirrored: bool = False
) -> Example:
    """A scene whose short side becomes ``side`` pixels; crowds are left out of what is in it."""
    width, height = resized(scene.size, side=side, max_side=recipe.max_side)
    image = scene.image().resize((width, height), Image.Resampling.BILINEAR)
    kept = ~scene.crowd
    pixels = pil_to_tensor(image)
    boxes = torch.from_numpy(scene.boxes[kept])
    boxes = boxes * torch.tensor([width / scene.size[1], height / scene.size[0]] * 2)
    masks = None
    if with_masks:
        masks = torch.from_numpy(
            np.stack([_resize_mask(mask, width, height) for mask in scene.masks()[kept]])
        )
    if mirrored:
        pixels = pixels.flip(-1)
        left, top, right, bottom = boxes.unbind(1)
        boxes = torch.stack([width - right, top, width - left, bottom], dim=1)
        masks = None if masks is None else masks.flip(-1)
    labels = torch.from_numpy(scene.labels[kept])
    return Example(pixels=pixels, size=scene.size, boxes=boxes, labels=labels, masks=masks)


def resized(size: tuple[int, int], *, side: int, max_side: int) -> tuple[int, int]:
    """Width and height of an image of ``size`` (height, width) whose short side becomes ``side``.

    The long side is at most ``max_side``; rounding as in Detectron2's ResizeShortestEdge.
    """
    height, width = size
    scale = side / min(height, width)
    scale = min(scale, max_side / max(height, width))
    return int(width * scale + 0.5), int(height * scale + 0.5)


def _resize_mask(mask: Any, width: int, height: int) -> Any:
    resampled = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(resampled, dtype=np.bool_)
