"""On which training images hyper-parameters are chosen; never on the test set."""

from __future__ import annotations

import torch
from torch import Tensor

from moco_eval.data.sampler import keyed_generator
from moco_eval.data.splits import ImageData, MultiLabelData


def selection_slice(
    data: ImageData | MultiLabelData, *, share: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Indices of the training images to fit on, and of those to choose on, as drawn.

    Args:
        data: Its published validation images are taken where it has some.
        share: Otherwise, the part of the training set that is held out, at least one image.
        seed: Otherwise, what alone decides which.

    Returns:
        ``kept (N - H,)`` and ``held (H,)``.
    """
    num_train = len(data.train)
    if data.held_out is not None:
        held = torch.as_tensor(data.held_out, dtype=torch.int64)
        is_kept = torch.ones(num_train, dtype=torch.bool)
        is_kept[held] = False
        return is_kept.nonzero().flatten(), held
    order = torch.randperm(num_train, generator=keyed_generator(seed))
    num_held = max(1, round(share * num_train))
    return order[num_held:], order[:num_held]


def told(data: ImageData | MultiLabelData, share: float) -> str:
    """What ``selection_slice`` held out, for a record."""
    if data.held_out is not None:
        return "the published validation images"
    return f"{share:.0%} of the training set"
