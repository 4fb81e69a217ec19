"""Training crops: image and classes scaled, mirrored, padded and cut alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import pil_to_tensor

from moco_eval import distributed
from moco_eval.data.images import InputSpec, normalize
from moco_eval.data.sampler import EpochBatches, keyed_generator
from moco_eval.data.semantic import IGNORED, LabelMap, SemanticSplit
from moco_eval.errors import DataError, UsageError
from moco_eval.semantic.recipe import SemanticRecipe
from moco_eval.training.loading import load


@dataclass(frozen=True)
class Window:
    """What becomes of an image.

    Attributes:
        size: Its height and width after scaling.
        top: The first row of it that is kept.
        left: The first column.
        is_mirrored: Whether left and right change places, last of all.
    """

    size: tuple[int, int]
    top: int
    left: int
    is_mirrored: bool


class SemanticCrops(Dataset[tuple[Tensor, Tensor]]):
    """Training images by (epoch, image), which alone decides the draws.

    An item is a normalised image ``(C, crop, crop)`` and its classes ``(crop, crop)`` uint8. Where
    the scaled image is smaller than the crop, the mean and ``IGNORED`` are to its right and below.
    """

    def __init__(
        self, split: SemanticSplit, spec: InputSpec, recipe: SemanticRecipe, *, seed: int
    ) -> None:
        self.split = split
        self.spec = spec
        self.recipe = recipe
        self.seed = seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, number = index
        image, labels = self.split.pair(number)
        draw = keyed_generator(self.seed, epoch, number)
        window = draw_window(labels.shape, self.recipe, draw)
        return cut(image, labels, window, crop=self.recipe.crop, spec=self.spec)


def draw_window(size: tuple[int, int], recipe: SemanticRecipe, draw: torch.Generator) -> Window:
    """Draw a scale, a place and whether to mirror, for an image of ``size`` (height, width)."""
    low, high = recipe.scales
    scale, down, right, side = torch.rand(4, generator=draw, dtype=torch.float64).tolist()
    factor = low + (high - low) * scale
    height, width = (max(1, round(length * factor)) for length in size)
    top = int(down * (max(height - recipe.crop, 0) + 1))
    left = int(right * (max(width - recipe.crop, 0) + 1))
    return Window((height, width), top, left, recipe.flip and side < 0.5)


def cut(
    image: Image.Image, labels: LabelMap, window: Window, *, crop: int, spec: InputSpec
) -> tuple[Tensor, Tensor]:
    """The part of the scaled image that ``window`` keeps, and the classes of the same pixels.

    Only that part is resampled, from the very places that it has in the whole image.
    """
    height, width = (min(length, crop) for length in window.size)
    down, across = labels.shape[0] / window.size[0], labels.shape[1] / window.size[1]
    box = (
        window.left * across,
        window.top * down,
        # Rounding must not take it beyond the image.
        min((window.left + width) * across, labels.shape[1]),
        min((window.top + height) * down, labels.shape[0]),
    )
    kept = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    classes = Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST, box=box)
    pixels = normalize(pil_to_tensor(kept), spec)
    numbers = torch.from_numpy(np.array(classes))
    if window.is_mirrored:
        pixels, numbers = pixels.flip(-1), numbers.flip(-1)
    margins = (0, crop - width, 0, crop - height)
    return F.pad(pixels, margins), F.pad(numbers, margins, value=IGNORED)


def training_batches(
    split: SemanticSplit,
    spec: InputSpec,
    recipe: SemanticRecipe,
    *,
    seed: int,
    num_workers: int,
    device: str,
) -> Callable[[range], Iterator[Sequence[Tensor]]]:
    """This rank's batches for any steps: always the same ones for the same step.

    Raises:
        DataError: If there are fewer images than a batch has.
        UsageError: If a batch cannot be shared out among the processes.
    """
    if len(split) < recipe.batch_total:
        raise DataError(
            f"{split.id} has {len(split)} images, fewer than one batch of {recipe.batch_total}. "
            "Take a smaller one: --set batch_total=..."
        )
    world_size = distributed.world_size()
    if recipe.batch_total % world_size:
        raise UsageError(
            f"A batch of {recipe.batch_total} cannot be shared out among {world_size} processes. "
            f"Take a multiple of {world_size}: --set batch_total=..."
        )
    crops = SemanticCrops(split, spec, recipe, seed=seed)

    def batches(steps: range) -> Iterator[Sequence[Tensor]]:
        order = EpochBatches(
            len(split),
            recipe.batch_total,
            seed=seed,
            steps=steps,
            rank=distributed.rank(),
            world_size=world_size,
        )
        return load(crops, order, num_workers=num_workers, device=device)

    return batches
