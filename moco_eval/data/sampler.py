"""Deterministic order: every random draw is keyed by what it is for, never by what came before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


def draw_key(*parts: int) -> int:
    """A 63-bit seed for the draw named by ``parts``, such as (seed, epoch, sample, view)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def keyed_generator(*parts: int) -> torch.Generator:
    """A generator for the draw named by ``parts``."""
    return torch.Generator().manual_seed(draw_key(*parts))


def epoch_order(num_images: int, *, seed: int, epoch: int) -> list[int]:
    """A permutation of the images that only (seed, epoch) decides."""
    order: list[int] = torch.randperm(num_images, generator=keyed_generator(seed, epoch)).tolist()
    return order


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, image) for all remaining epochs; an incomplete last batch is dropped.

    One loader then serves the whole run, and its workers need no state: what they draw is keyed
    by the pair.
    """

    def __init__(
        self, num_images: int, batch_size: int, *, seed: int, first_epoch: int, num_epochs: int
    ) -> None:
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.epochs = range(first_epoch, num_epochs)

    @property
    def batches_per_epoch(self) -> int:
        return self.num_images // self.batch_size

    def __len__(self) -> int:
        return self.batches_per_epoch * len(self.epochs)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in self.epochs:
            order = epoch_order(self.num_images, seed=self.seed, epoch=epoch)
            for batch in range(self.batches_per_epoch):
                start = batch * self.batch_size
                yield [(epoch, image) for image in order[start : start + self.batch_size]]
