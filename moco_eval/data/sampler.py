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
    """This rank's share of each batch of (epoch, image), for all steps that remain.

    One loader then serves the whole run, and its workers need no state: what they draw is keyed
    by the pair. A batch holds the same images whatever the number of ranks; an epoch's incomplete
    last batch is dropped.

    Args:
        num_images: Images of an epoch.
        batch_total: Images of a batch, over all ranks.
        seed: With the epoch, decides the order.
        steps: The remaining steps of the run.
        rank: This process's number.
        world_size: How many processes share each batch.
    """

    def __init__(
        self,
        num_images: int,
        batch_total: int,
        *,
        seed: int,
        steps: range,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.num_images = num_images
        self.batch_total = batch_total
        self.seed = seed
        self.steps = steps
        self.share = slice(batch_total // world_size * rank, batch_total // world_size * (rank + 1))

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_epoch = self.num_images // self.batch_total
        order: list[int] = []
        for step in self.steps:
            epoch, batch = divmod(step, per_epoch)
            if batch == 0 or not order:
                order = epoch_order(self.num_images, seed=self.seed, epoch=epoch)
            start = batch * self.batch_total
            whole = order[start : start + self.batch_total]
            yield [(epoch, image) for image in whole[self.share]]
