"""A trained network's classes for every pixel of the test images, and how right they are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset
from torchvision.transforms.v2.functional import pil_to_tensor

from moco_eval import distributed
from moco_eval.data.images import InputSpec, normalize
from moco_eval.data.semantic import LabelMap, SemanticSplit
from moco_eval.errors import DivergedError
from moco_eval.progress import Progress
from moco_eval.scoring import Scores
from moco_eval.scoring.mean_iou import Confusion
from moco_eval.semantic.model import Segmenter
from moco_eval.training.loading import load


class WholeImages(Dataset[tuple[Tensor, Tensor]]):
    """Normalised images ``(C, H, W)`` of their own size, and their classes ``(H, W)`` uint8."""

    def __init__(self, split: SemanticSplit, spec: InputSpec) -> None:
        self.split = split
        self.spec = spec

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, labels = self.split.pair(index)
        return normalize(pil_to_tensor(image), self.spec), torch.from_numpy(labels)


@torch.no_grad()
def judge(model: Segmenter, split: SemanticSplit, *, num_workers: int = 0) -> Scores:
    """Judge every image once, whole and at its own size.

    In a run of several processes each makes this call, takes a share and has all scores.

    Args:
        model: Is in eval mode afterwards.
        split: Its images.
        num_workers: Processes that load images, for each rank.

    Raises:
        DataError: If an image is damaged.
        DivergedError: If a logit is not finite, or no pixel has a class.
    """
    model.eval()
    own = range(distributed.rank(), len(split), distributed.world_size())
    order = BatchSampler(own, 1, drop_last=False)
    images = WholeImages(split, model.input)
    confusion = Confusion(model.num_classes)
    progress = Progress("judging", total=len(own), unit="image", quiet=distributed.rank() != 0)
    broken = torch.zeros(1, device=distributed.device())
    with closing(progress):
        for inputs, labels in load(
            images, order, num_workers=num_workers, device=model.device.type
        ):
            logits = model.logits(inputs.to(model.device))[0]
            broken += int(not logits.isfinite().all())
            confusion.add(labels[0].to(model.device), logits.argmax(0))
            progress.show({})
    scores = confusion.scores(len(split))
    if distributed.total(broken).item():
        raise DivergedError(
            f"The logits of {int(broken)} test images are not finite. Try a smaller learning rate: "
            "--set lr=..."
        )
    return scores


def predicted_of(
    model: Segmenter, split: SemanticSplit, indices: Sequence[int]
) -> list[tuple[int, LabelMap]]:
    """The predicted classes ``(height, width)`` of some images, each with its index."""
    return [
        (index, model.predict(split.items[index].image()).cpu().numpy().astype(np.uint8))
        for index in indices
    ]
