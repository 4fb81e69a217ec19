"""Images on disk to batches of views, whatever the number of workers and of damaged files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from moco_eval import distributed
from moco_eval.data.decoding import DAMAGES, DamagedImageError, damage_of
from moco_eval.data.sampler import EpochBatches, draw_key
from moco_eval.errors import DataError, output_error
from moco_eval.training.loading import load
from pretrain.views import Augmentation

MAX_SUBSTITUTES = 20


class Views(Dataset[tuple[Tensor, ...]]):
    """Views of an image, drawn anew in every epoch and equal for equal (seed, epoch, image, view).

    An index is a pair (epoch, image). The result does not depend on which worker draws it, nor on
    what it drew before. An image that cannot be decoded is replaced by another, which (seed, image)
    choose.
    """

    def __init__(
        self, images: Sequence[Image.Image], augmentation: Augmentation, *, seed: int
    ) -> None:
        self.images = images
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: tuple[int, int]) -> tuple[Tensor, ...]:
        """What the augmentation draws, then ``(image, damage)``: 0, or 1 + the kind's place."""
        epoch, sample = index
        keys = [
            draw_key(self.seed, epoch, sample, view) for view in range(self.augmentation.num_views)
        ]
        taken, damage = sample, 0
        for attempt in range(MAX_SUBSTITUTES):
            try:
                drawn = self._draw(taken, keys)
            except DamagedImageError as error:
                damage = damage or 1 + DAMAGES.index(error.kind)
                taken = draw_key(self.seed, sample, attempt) % len(self.images)
            else:
                return (*drawn, torch.tensor([sample, damage]))
        raise DataError(
            f"Image {sample} and {MAX_SUBSTITUTES - 1} substitutes in a row cannot be decoded."
        )

    def _draw(self, sample: int, keys: list[int]) -> tuple[Tensor, ...]:
        # A file that is decoded late may be decoded smaller, where the crop allows.
        opened = getattr(self.images, "lazy", self.images.__getitem__)
        with damage_of(name_of(self.images, sample)):
            return self.augmentation.draw(opened(sample), keys)


@dataclass(frozen=True)
class Batch:
    """What one step takes.

    Attributes:
        views: Each ``(N, C, H, W)``, of this process's images.
        samples: Which images they are ``(N,)``.
        damage: For each image 0, or 1 + the place of its kind of damage in ``DAMAGES`` ``(N,)``.
    """

    views: list[Tensor]
    samples: Tensor
    damage: Tensor


class Batches:
    """All remaining batches of a run, this process's part of each.

    Args:
        views: The data set.
        batch_total: Images of a batch, over all processes.
        steps: The remaining steps.
        num_workers: Processes that load images; 0 loads them in this one.
        device: Where the views are put.
    """

    def __init__(
        self, views: Views, batch_total: int, *, steps: range, num_workers: int, device: str
    ) -> None:
        self.views = views
        self.device = device
        self.num_workers = num_workers
        self.order = EpochBatches(
            len(views),
            batch_total,
            seed=views.seed,
            steps=steps,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
        )

    def __iter__(self) -> Iterator[Batch]:
        """The batches in order.

        Raises:
            DataError: If an image cannot be replaced, or a worker dies or hangs.
        """
        loaded = load(self.views, self.order, num_workers=self.num_workers, device=self.device)
        for *drawn, marks in loaded:
            finished = self.views.augmentation.finish(drawn, self.device)
            views = [view.to(memory_format=torch.channels_last) for view in finished]
            yield Batch(views, *marks.to(self.device).unbind(1))


class DamagedImages:
    """``bad_images.jsonl``: each damaged image once, with the kind of its damage.

    Args:
        output: The run's folder; images that an earlier part of the run listed there count.
        images: Where their names come from.
        max_bad: How many the run bears.
    """

    def __init__(self, output: Path, images: Sequence[Any], *, max_bad: int) -> None:
        self.path = output / "bad_images.jsonl"
        self.images = images
        self.max_bad = max_bad
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.known = {json.loads(line)["image"] for line in lines}

    def note(self, batch: Batch, num_damaged: int) -> None:
        """List the damaged images of a step's batch, on all ranks together.

        Args:
            batch: This process's part.
            num_damaged: How many there are on all ranks.

        Raises:
            DataError: If there are now more than the run bears.
        """
        if num_damaged == 0:
            return
        pairs = torch.stack([batch.samples, batch.damage], dim=1)[batch.damage > 0]
        found = torch.cat(distributed.gather_uneven(pairs)).tolist()
        kinds = {name_of(self.images, image): DAMAGES[kind - 1] for image, kind in found}
        new = {name: kind for name, kind in kinds.items() if name not in self.known}
        self.known |= new.keys()
        if new and distributed.rank() == 0:
            self._append([{"image": name, "damage": kind} for name, kind in new.items()])
        if len(self.known) > self.max_bad:
            raise DataError(
                f"{len(self.known)} images are damaged, more than --max-bad {self.max_bad}. They "
                f"are listed in {self.path}: repair or remove them, or raise the limit."
            )

    def _append(self, rows: list[dict[str, str]]) -> None:
        try:
            with self.path.open("a") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))
        except OSError as error:
            raise output_error(self.path, error) from error


def name_of(images: Sequence[Any], sample: int) -> str:
    """What people call an image: its path, its place in a shard, or its number."""
    named = getattr(images, "name_of", None)
    return named(sample) if named else f"image {sample}"
