"""Which scenes a rank trains on, in which order: decided by the seed, from any step on at once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from moco_eval import distributed
from moco_eval.data.sampler import keyed_generator
from moco_eval.data.scene import Scene


class SceneBatches(Sampler[list[tuple[int, int]]]):
    """This rank's batches of (draw, scene), for the steps that are asked for.

    All epochs make one stream, of which each rank takes every ``world_size``-th scene. A draw is a
    scene's place in the stream: what is drawn for it is keyed by that, so that a loader's workers
    need no state.

    Args:
        repeats: How often a scene is in an epoch; a fraction is the chance of one more.
        is_wide: Of each scene, whether it is wider than high; None mixes both in a batch.
        batch_per_rank: Scenes of a batch.
        seed: With the epoch, decides the order.
        steps: Of the run.
    """

    def __init__(
        self,
        repeats: Sequence[float],
        is_wide: Sequence[bool] | None,
        *,
        batch_per_rank: int,
        seed: int,
        steps: range,
    ) -> None:
        self.repeats = torch.tensor(repeats, dtype=torch.double)
        self.is_wide = is_wide
        self.batch_per_rank = batch_per_rank
        self.seed = seed
        self.steps = steps

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        # A batch is full when its kind of scenes has come often enough, as in Detectron2: which
        # scenes a step has is known only by counting from the first.
        waiting: tuple[list[tuple[int, int]], ...] = ([], [])
        step = 0
        for draw, scene in self._own_stream():
            bucket = waiting[bool(self.is_wide and self.is_wide[scene])]
            bucket.append((draw, scene))
            if len(bucket) < self.batch_per_rank:
                continue
            if step in self.steps:
                yield list(bucket)
            bucket.clear()
            step += 1
            if step >= self.steps.stop:
                return

    def _own_stream(self) -> Iterator[tuple[int, int]]:
        rank, world_size = distributed.rank(), distributed.world_size()
        begun, epoch = 0, 0
        while True:
            order = self._epoch(epoch)
            first = (rank - begun) % world_size
            own = range(first, len(order), world_size)
            yield from ((begun + place, order[place]) for place in own)
            begun, epoch = begun + len(order), epoch + 1

    def _epoch(self, epoch: int) -> list[int]:
        draw = keyed_generator(self.seed, epoch)
        whole = self.repeats.floor()
        extra = torch.rand(len(whole), generator=draw, dtype=torch.double) < self.repeats - whole
        scenes = torch.arange(len(whole)).repeat_interleave((whole + extra).long())
        order: list[int] = scenes[torch.randperm(len(scenes), generator=draw)].tolist()
        return order


def repeat_factors(scenes: Sequence[Scene], threshold: float) -> list[float]:
    """How often each scene is seen in an epoch so that rare classes are seen often enough.

    A class that is on a share f of all scenes asks for ``sqrt(threshold / f)``, and a scene follows
    its rarest class. Gupta et al., LVIS, arXiv:1908.03195, section 4.

    Args:
        scenes: All that are trained on.
        threshold: The share from which on a class is frequent enough; 0 repeats none.
    """
    if threshold == 0:
        return [1.0] * len(scenes)
    classes = [set(scene.labels[~scene.crowd].tolist()) for scene in scenes]
    counts = Counter(label for present in classes for label in present)
    factor = {
        label: max(1.0, math.sqrt(threshold / (count / len(scenes))))
        for label, count in counts.items()
    }
    return [max((factor[label] for label in present), default=1.0) for present in classes]
