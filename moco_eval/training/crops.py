"""Labelled images as fine-tuning sees them: which ones in which step, cropped, mixed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import v2

from moco_eval.data.images import InputSpec, to_training_input
from moco_eval.data.sampler import draw_key, epoch_order
from moco_eval.training.recipe import Recipe

if TYPE_CHECKING:
    from timm.data.auto_augment import RandAugment

# An index of TrainingCrops: (epoch, repetition, image).
Place = tuple[int, int, int]


class TrainingCrops(Dataset[tuple[Tensor, int]]):
    """Images with their labels, cropped anew for each (seed, epoch, repetition, image).

    Args:
        images: Decoded when indexed.
        labels: Of each.
        spec: How the encoder wants to be fed.
        recipe: What is drawn.
        seed: Decides every draw, with the index.
    """

    def __init__(
        self,
        images: Sequence[Image.Image],
        labels: Sequence[int],
        spec: InputSpec,
        recipe: Recipe,
        *,
        seed: int,
    ) -> None:
        self.images = images
        self.labels = labels
        self.seed = seed
        distort = _randaugment(recipe.randaugment, spec) if recipe.randaugment else None
        self.crop = to_training_input(
            spec, scale=recipe.crop_scale, flip=recipe.flip, distort=distort
        )
        # In timm's mode "pixel": each erased value is drawn on its own.
        self.erase = (
            v2.RandomErasing(recipe.random_erasing, scale=(0.02, 1 / 3), value="random")
            if recipe.random_erasing
            else None
        )
        # RandAugment and erasing take no key: they draw from the generators that all share.
        self.draws_more = bool(distort or self.erase)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Place) -> tuple[Tensor, int]:
        epoch, repetition, sample = index
        image, key = self.images[sample], draw_key(self.seed, epoch, repetition, sample)
        if not self.draws_more:
            return self.crop(image, key), self.labels[sample]
        with shared_generators_seeded(draw_key(self.seed, epoch, repetition, sample, 1)):
            drawn = self.crop(image, key)
            return self.erase(drawn) if self.erase else drawn, self.labels[sample]


class Places(Sampler[list[Place]]):
    """This rank's share of each batch, for all steps that remain.

    Epochs follow each other without a gap: a batch may hold the last images of one and the first
    of the next, so that no image is left out and a set may be smaller than a batch. A batch holds
    the same images whatever the number of ranks, and a rank as many of its begin as of its end:
    the first image and the last, the second and the one before the last ... come together.

    Args:
        num_images: Of an epoch.
        batch_total: Images of a batch, over all ranks; a multiple of their number.
        repeats: How often an image is drawn before the next one is.
        seed: With the epoch, decides the order.
        steps: The remaining steps of the run.
        rank: This process's number.
        world_size: How many processes share each batch.
    """

    def __init__(  # noqa: PLR0913 - what one of several ranks must know
        self,
        num_images: int,
        batch_total: int,
        *,
        seed: int,
        steps: range,
        repeats: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.num_images = num_images
        self.batch_total = batch_total
        self.repeats = repeats
        self.seed = seed
        self.steps = steps
        share = batch_total // world_size
        half, rest = share // 2, share - share // 2
        front = range(rank * half, (rank + 1) * half)
        back = range(batch_total - (rank + 1) * rest, batch_total - rank * rest)
        self.share = (*front, *back)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Place]]:
        known, order = -1, [0]
        for step in self.steps:
            places = []
            for number in self.share:
                epoch, place = divmod(step * self.batch_total + number, self.num_images)
                if epoch != known:
                    known, order = epoch, epoch_order(self.num_images, seed=self.seed, epoch=epoch)
                image, repetition = divmod(place, self.repeats)
                places.append((epoch, repetition, order[image]))
            yield places


def mix(images: Tensor, labels: Tensor, recipe: Recipe, *, num_classes: int, key: int) -> Tensor:
    """Mix ``images`` in place, each with the one as far from the other end, and their labels.

    Args:
        images: ``(N, C, H, W)``, N even.
        labels: ``(N,)``.
        recipe: With mixup, cutmix or both, of which the batch then gets one.
        num_classes: The labels' range.
        key: Alone decides the draw.

    Returns:
        What each image is to be taken for, ``(N, num_classes)``, already smoothed.
    """
    from timm.data.mixup import Mixup

    mixup = Mixup(  # type: ignore[no-untyped-call]
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        label_smoothing=recipe.label_smoothing,
        num_classes=num_classes,
    )
    with shared_generators_seeded(key):
        targets: Tensor = mixup(images, labels)[1]
    return targets


@contextmanager
def shared_generators_seeded(key: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's own generators for the length of the block.

    They go on afterwards as if it had not been.
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(key)
            random.seed(key)
            np.random.seed(key % 2**32)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _randaugment(words: str, spec: InputSpec) -> RandAugment:
    """Of timm: what a crop loses at its edges is filled with the mean colour."""
    from timm.data.auto_augment import rand_augment_transform

    mean = tuple(min(255, round(255 * value)) for value in spec.mean)
    interpolation = getattr(Image.Resampling, spec.interpolation.upper())
    settings = {
        "translate_const": int(0.45 * spec.size),
        "img_mean": mean if len(mean) == 3 else mean * 3,
        "interpolation": interpolation,
    }
    randaugment: RandAugment = rand_augment_transform(words, settings)
    return randaugment
