"""Augmented training images through the frozen encoder, batch after batch.

Every draw is keyed by (seed, epoch, image). Each rank turns its unpadded part of a batch into
features, and then every rank has the whole batch's, in the batch's order: what is learnt from
them depends on the number of ranks by no more than rounding, BatchNorm included.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from moco_eval import distributed
from moco_eval.data.images import InputSpec, to_training_input
from moco_eval.data.sampler import draw_key, epoch_order
from moco_eval.extraction import Extractor
from moco_eval.probes.recipes import Training
from moco_eval.training.loading import load


class AugmentedImages(Dataset[tuple[Tensor]]):
    """An encoder's inputs, augmented anew in every epoch; an index is (epoch, image)."""

    def __init__(
        self, images: Sequence[Image.Image], spec: InputSpec, recipe: Training, *, seed: int
    ) -> None:
        self.images = images
        self.transform = to_training_input(spec, scale=recipe.crop_scale, flip=recipe.flip)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: tuple[int, int]) -> tuple[Tensor]:
        epoch, sample = index
        return (self.transform(self.images[sample], draw_key(self.seed, epoch, sample)),)


class Batches(Sampler[list[tuple[int, int]]]):
    """This rank's part of each batch of (epoch, image), over all epochs.

    Args:
        num_images: Images of the training set.
        recipe: Epochs, batches and what becomes of an incomplete one.
        seed: With the epoch, decides the order.
    """

    def __init__(self, num_images: int, recipe: Training, *, seed: int) -> None:
        self.num_images = num_images
        self.batch_total = min(recipe.batch_total, num_images)
        whole, rest = divmod(num_images, self.batch_total)
        self.per_epoch = whole + (rest > 0 and not recipe.drop_last)
        self.epochs = recipe.epochs
        self.seed = seed

    def __len__(self) -> int:
        return self.epochs * self.per_epoch

    def whole(self) -> Iterator[tuple[int, list[int]]]:
        """Each batch's epoch and images."""
        for epoch in range(self.epochs):
            order = epoch_order(self.num_images, seed=self.seed, epoch=epoch)
            for start in range(0, self.per_epoch * self.batch_total, self.batch_total):
                yield epoch, order[start : start + self.batch_total]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch, images in self.whole():
            # A rank without a part loads one image all the same, and does not count it.
            part = images[own_part(len(images))] or images[:1]
            yield [(epoch, image) for image in part]


def own_part(batch: int) -> slice:
    """This rank's part of ``batch`` images: the ranks' parts follow each other without padding."""
    share = math.ceil(batch / distributed.world_size())
    return slice(share * distributed.rank(), share * (distributed.rank() + 1))


def batches_of_features(
    extractor: Extractor,
    images: AugmentedImages,
    order: Batches,
    *,
    kinds: Sequence[str],
    num_workers: int,
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Each batch, whole on every rank.

    Returns:
        Which images they are ``(B,)``, and their features ``(B, D)`` of each kind, on the
        extractor's device.
    """
    loaded = load(images, order, num_workers=num_workers, device=extractor.device.type)
    for (_, batch), (inputs,) in zip(order.whole(), loaded, strict=True):
        own = extractor(inputs, kinds)
        num_own = len(batch[own_part(len(batch))])
        yield (
            torch.tensor(batch),
            {kind: torch.cat(distributed.gather_uneven(own[kind][:num_own])) for kind in kinds},
        )
