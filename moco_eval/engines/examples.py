"""What both engines train on and give back: the same pixels, boxes and order for each."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from moco_eval import distributed
from moco_eval.data.sampler import keyed_generator
from moco_eval.data.scene import Scene, SceneSplit
from moco_eval.engines.order import SceneBatches, repeat_factors
from moco_eval.engines.recipe import Recipe
from moco_eval.engines.views import View, draw_view, whole_view
from moco_eval.errors import DataError, UsageError
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
        number, place = index
        scene, draw = self.scenes[place], keyed_generator(self.seed, number, place)
        view = draw_view(scene.size, self.recipe, draw)
        return seen(scene, self.recipe, view, flips=self.split.keypoint_flips)


def training_batches(
    split: SceneSplit, recipe: Recipe, *, seed: int, num_workers: int = 0, device: str = "cpu"
) -> Callable[[range], Iterator[list[Example]]]:
    """This rank's batches for any range of steps, in an order and with draws of the seed alone.

    Scenes without objects are left out, and where keypoints are trained those without any that is
    annotated, as in Detectron2.

    Raises:
        DataError: If fewer scenes than a batch are left.
        UsageError: If a batch cannot be shared out among the processes.
    """
    scenes = [scene for scene in split.scenes if not scene.crowd.all()]
    if recipe.keypoints:
        scenes = [scene for scene in scenes if _has_keypoints(scene)]
    if len(scenes) < recipe.batch_total:
        raise DataError(
            f"{split.id} has {len(scenes)} scenes with objects, fewer than one batch of "
            f"{recipe.batch_total}. Take a smaller one: --set batch_total=..."
        )
    world_size = distributed.world_size()
    if recipe.batch_total % world_size:
        raise UsageError(
            f"A batch of {recipe.batch_total} cannot be shared out among {world_size} processes. "
            f"Take a multiple of {world_size}: --set batch_total=..."
        )
    examples = _TrainingExamples(scenes, split, recipe, seed)
    repeats = repeat_factors(scenes, recipe.repeat_threshold)
    is_wide = [scene.size[1] > scene.size[0] for scene in scenes]

    def batches(steps: range) -> Iterator[list[Example]]:
        order = SceneBatches(
            repeats,
            is_wide if recipe.group_by_aspect else None,
            batch_per_rank=recipe.batch_total // world_size,
            seed=seed,
            steps=steps,
        )
        return load(examples, order, num_workers=num_workers, device=device, collate=list)

    return batches


def example_of(scene: Scene, recipe: Recipe, *, side: int) -> Example:
    """The whole scene with its objects; its short side becomes ``side`` pixels."""
    return seen(scene, recipe, whole_view(scene.size, side=side, max_side=recipe.max_side))


def image_of(scene: Scene, recipe: Recipe) -> Example:
    """The whole scene as it is tested, without its objects."""
    view = whole_view(scene.size, side=recipe.short_side_test, max_side=recipe.max_side)
    return Example(
        pixels=view.pixels(scene.image()),
        size=scene.size,
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
    )


def seen(
    scene: Scene, recipe: Recipe, view: View, *, flips: Sequence[tuple[int, int]] = ()
) -> Example:
    """What is seen of a scene and of its objects; crowds and what lies beyond are left out.

    Args:
        scene: As on disk.
        recipe: Whether there are masks and keypoints.
        view: What is done to it.
        flips: Pairs of keypoints that a mirror exchanges, such as the two eyes.

    Raises:
        DataError: If the image is damaged, or an object lacks its mask or its keypoints.
    """
    objects = np.flatnonzero(~scene.crowd)
    boxes = torch.from_numpy(view.boxes(scene.boxes[objects])).float()
    masks = _masks_of(scene, objects.tolist(), view) if recipe.masks else None
    if masks is not None:
        boxes = _tightened(boxes, masks, scene.boxes[objects], view)
    kept = ((boxes[:, 2:] - boxes[:, :2]) > MIN_SIDE).all(1)
    if masks is not None:
        kept &= masks.flatten(1).any(1)
    keypoints = None
    if recipe.keypoints:
        placed = _placed_keypoints(_keypoints_of(scene)[objects], view, flips)
        keypoints = torch.from_numpy(placed).float()[kept]
    return Example(
        pixels=view.pixels(scene.image()),
        size=scene.size,
        boxes=boxes[kept],
        labels=torch.from_numpy(scene.labels[objects])[kept],
        masks=None if masks is None else masks[kept],
        keypoints=keypoints,
    )


def _masks_of(scene: Scene, objects: Sequence[int], view: View) -> Tensor:
    masks = torch.zeros(len(objects), *view.shape, dtype=torch.bool)
    for mask, number in zip(masks, objects, strict=True):
        segmentation = scene.segmentations[number]
        if not segmentation:
            raise DataError(
                f"An object in {scene.path} has no segmentation. Its masks can neither be "
                "trained nor scored; its boxes can: moco-eval detect."
            )
        try:
            mask[:] = view.mask(segmentation)
        except DataError as error:
            raise DataError(f"{scene.path}: {error}") from error
    return masks


def _tightened(boxes: Tensor, masks: Tensor, whole: NDArray[np.float32], view: View) -> Tensor:
    """Close around what is left of the objects that a crop cuts, as ViTDet's boxes are."""
    height, width = view.shape
    corners = torch.from_numpy(view.points(whole.reshape(-1, 2, 2))).flatten(1)
    is_cut = ((corners < 0) | (corners > torch.tensor([width, height] * 2))).any(1)
    tightened = boxes.clone()
    for box, mask, cut in zip(tightened, masks, is_cut.tolist(), strict=True):
        if cut and mask.any():
            rows, columns = (mask.any(dim).nonzero().flatten() for dim in (1, 0))
            around = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            # A mask is known to the pixel: a side that is nearer stays where it is.
            box[:] = torch.where((around - box).abs() < 1, box, around.float())
    return tightened


def _placed_keypoints(
    keypoints: NDArray[np.float32], view: View, flips: Sequence[tuple[int, int]]
) -> NDArray[np.float64]:
    placed = np.asarray(keypoints, np.float64)
    # Keypoints are counted in whole pixels, boxes and masks from the pixels' edges.
    places = view.points(placed[..., :2] + 0.5)
    within = np.all((places >= 0) & (places <= view.shape[::-1]), axis=-1, keepdims=True)
    placed = np.concatenate([places, placed[..., 2:] * within], axis=-1)
    if view.mirrored:
        order = np.arange(placed.shape[1])
        for one, other in flips:
            order[[one, other]] = other, one
        placed = placed[:, order]
    # COCO writes what is not annotated as three zeros.
    placed[placed[..., 2] == 0] = 0
    return placed


def _has_keypoints(scene: Scene) -> bool:
    return bool((_keypoints_of(scene)[~scene.crowd][..., 2] > 0).any())


def _keypoints_of(scene: Scene) -> NDArray[np.float32]:
    if scene.keypoints is None:
        raise DataError(
            f"{scene.path}: its objects have no keypoints, which this recipe trains. Take data "
            "that has them, such as coco2017-keypoints:DIR, or a recipe without."
        )
    return scene.keypoints
