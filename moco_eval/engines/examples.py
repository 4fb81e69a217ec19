"""What both engines train on and give back: the same pixels, boxes and order for each."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import pil_to_tensor

from moco_eval import distributed
from moco_eval.data.coco import Scene, SceneSplit
from moco_eval.data.sampler import keyed_generator
from moco_eval.engines.order import SceneBatches, repeat_factors
from moco_eval.engines.recipe import Recipe
from moco_eval.errors import DataError
from moco_eval.training.loading import load

# A cropped object that is thinner is gone, as in Detectron2's filter of empty boxes.
MIN_SIDE = 1e-5


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

    def weights(self) -> dict[str, Tensor]:
        """All its tensors, under the names that its own library gives them."""
        return dict(self.state_dict())

    def settings(self) -> dict[str, Any]:
        """What the engine was told, by its own names, for whoever reads a record of it."""
        return {}


class _TrainingExamples(Dataset[Example]):
    def __init__(self, scenes: list[Scene], split: SceneSplit, recipe: Recipe, seed: int) -> None:
        self.scenes = scenes
        self.split = split
        self.recipe = recipe
        self.seed = seed

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: tuple[int, int]) -> Example:
        number, scene = index
        draw = keyed_generator(self.seed, number, scene)
        return augmented(self.scenes[scene], self.recipe, draw, flips=self.split.keypoint_flips)


def training_batches(
    split: SceneSplit, recipe: Recipe, *, seed: int, num_workers: int = 0, device: str = "cpu"
) -> Callable[[range], Iterator[list[Example]]]:
    """This rank's batches for any range of steps, in an order and with draws of the seed alone.

    Scenes without objects are left out, and where keypoints are trained those without any that is
    annotated, as in Detectron2.

    Raises:
        DataError: If fewer scenes than a batch are left.
    """
    scenes = [scene for scene in split.scenes if not scene.crowd.all()]
    if recipe.keypoints:
        scenes = [scene for scene in scenes if _has_keypoints(scene)]
    if len(scenes) < recipe.batch_total:
        raise DataError(
            f"{split.id} has {len(scenes)} scenes with objects, fewer than one batch of "
            f"{recipe.batch_total}. Take a smaller one: --set batch_total=..."
        )
    examples = _TrainingExamples(scenes, split, recipe, seed)
    repeats = repeat_factors(scenes, recipe.repeat_threshold)
    is_wide = [scene.size[1] > scene.size[0] for scene in scenes]

    def batches(steps: range) -> Iterator[list[Example]]:
        order = SceneBatches(
            repeats,
            is_wide if recipe.group_by_aspect else None,
            batch_per_rank=recipe.batch_total // distributed.world_size(),
            seed=seed,
            steps=steps,
        )
        return load(examples, order, num_workers=num_workers, device=device, collate=list)

    return batches


def augmented(
    scene: Scene, recipe: Recipe, draw: torch.Generator, *, flips: Sequence[tuple[int, int]] = ()
) -> Example:
    """A scene as training sees it: resized or jittered and cropped, and perhaps mirrored.

    Args:
        scene: Its crowds are left out.
        recipe: Of sizes and flips.
        draw: Decides both.
        flips: Pairs of keypoints that a mirror exchanges, such as the two eyes.
    """
    mirrored = recipe.flip and bool(torch.rand((), generator=draw) < 0.5)
    if recipe.jitter:
        low, high = recipe.jitter
        scale = low + (high - low) * float(torch.rand((), generator=draw))
        example = example_of(scene, recipe, side=scale * recipe.max_side, fit=True)
        example = _cropped(example, recipe.max_side, torch.rand(2, generator=draw).tolist())
    else:
        sides = recipe.short_sides_train
        side = sides[int(torch.randint(len(sides), (), generator=draw))]
        example = example_of(scene, recipe, side=side)
    return _mirrored(example, flips) if mirrored else example


def example_of(scene: Scene, recipe: Recipe, *, side: float, fit: bool = False) -> Example:
    """A scene resized; crowds are left out of what is in it, masks and keypoints as asked for.

    Args:
        scene: As on disk.
        recipe: Whether it has masks and keypoints; how long a side may be.
        side: What the short side becomes; with ``fit`` what the long side becomes.
        fit: Whether the image is to fit into a square.
    """
    if fit:
        scale = side / max(scene.size)
        height, width = (max(1, round(length * scale)) for length in scene.size)
    else:
        width, height = resized(scene.size, side=int(side), max_side=recipe.max_side)
    image = scene.image().resize((width, height), Image.Resampling.BILINEAR)
    kept = ~scene.crowd
    scales = torch.tensor([width / scene.size[1], height / scene.size[0]])
    masks = keypoints = None
    if recipe.masks:
        drawn = [_resize_mask(mask, width, height) for mask in scene.masks()[kept]]
        masks = torch.from_numpy(np.stack(drawn) if drawn else np.zeros((0, height, width), bool))
    if recipe.keypoints:
        keypoints = torch.from_numpy(_keypoints_of(scene)[kept]).float()
        keypoints[..., :2] *= scales
    return Example(
        pixels=pil_to_tensor(image),
        size=scene.size,
        boxes=torch.from_numpy(scene.boxes[kept]) * scales.repeat(2),
        labels=torch.from_numpy(scene.labels[kept]),
        masks=masks,
        keypoints=keypoints,
    )


def _mirrored(example: Example, flips: Sequence[tuple[int, int]]) -> Example:
    width = example.pixels.shape[-1]
    left, top, right, bottom = example.boxes.unbind(1)
    keypoints = example.keypoints
    if keypoints is not None:
        keypoints = keypoints.clone()
        keypoints[..., 0] = width - keypoints[..., 0]
        for one, other in flips:
            keypoints[:, [one, other]] = keypoints[:, [other, one]]
        # COCO writes what is not annotated as three zeros.
        keypoints[keypoints[..., 2] == 0] = 0
    return replace(
        example,
        pixels=example.pixels.flip(-1),
        boxes=torch.stack([width - right, top, width - left, bottom], dim=1),
        masks=None if example.masks is None else example.masks.flip(-1),
        keypoints=keypoints,
    )


def _cropped(example: Example, side: int, place: Sequence[float]) -> Example:
    """At most ``side`` pixels each way, at a place from 0 to 1; what is left of no object goes."""
    height, width = example.pixels.shape[-2:]
    top, left = (
        round(max(length - side, 0) * share)
        for length, share in zip((height, width), place, strict=True)
    )
    bottom, right = min(top + side, height), min(left + side, width)
    boxes = example.boxes - torch.tensor([left, top, left, top])
    limits = torch.tensor([right - left, bottom - top] * 2)
    boxes = boxes.clamp(min=torch.zeros(4), max=limits)
    masks = example.masks
    if masks is not None:
        masks = masks[:, top:bottom, left:right]
        boxes = _around(masks)
    kept = ((boxes[:, 2:] - boxes[:, :2]) > MIN_SIDE).all(1)
    keypoints = example.keypoints
    if keypoints is not None:
        keypoints = keypoints - torch.tensor([left, top, 0])
        outside = ((keypoints[..., :2] < 0) | (keypoints[..., :2] >= limits[:2])).any(-1)
        keypoints[outside | (keypoints[..., 2] == 0)] = 0
    return replace(
        example,
        pixels=example.pixels[:, top:bottom, left:right],
        boxes=boxes[kept],
        labels=example.labels[kept],
        masks=None if masks is None else masks[kept],
        keypoints=None if keypoints is None else keypoints[kept],
    )


def _around(masks: Tensor) -> Tensor:
    """The tightest box of each mask ``(n, h, w)``; zeros where it is empty."""
    boxes = torch.zeros(len(masks), 4)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        if len(rows):
            corners = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            box[:] = torch.tensor([int(corner) for corner in corners])
    return boxes


def _has_keypoints(scene: Scene) -> bool:
    return bool((_keypoints_of(scene)[~scene.crowd][..., 2] > 0).any())


def _keypoints_of(scene: Scene) -> NDArray[np.float32]:
    if scene.keypoints is None:
        raise DataError(
            f"{scene.path}: its objects have no keypoints, which this recipe trains. Take data "
            "that has them, such as coco2017-keypoints:DIR, or a recipe without."
        )
    return scene.keypoints


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
