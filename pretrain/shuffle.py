"""Shuffling BN: each key is normalised among other images than its query is.

BatchNorm lets the images of one batch see each other, and a network could pass the contrastive
test by that leak alone (MoCo, arXiv:1911.05722, section 3.3). So every rank normalises its own
group, and the keys' groups are drawn from a shuffle of the whole batch. On one device the ranks
are virtual: the batch is cut into groups that go through the network one after the other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def by_group(network: nn.Module, images: Tensor, num_groups: int) -> Tensor:
    """Embed ``(N, C, H, W)`` as ``num_groups`` ranks would, each with its own batch statistics."""
    return torch.cat([network(group) for group in images.chunk(num_groups)])


def by_shuffled_group(
    network: nn.Module, images: Tensor, num_groups: int, permutation: Tensor
) -> Tensor:
    """As ``by_group``, with the groups taken from ``images[permutation]``; the order is restored.

    Args:
        network: Maps images to embeddings ``(N, D)``.
        images: ``(N, C, H, W)``.
        num_groups: Ranks; a divisor of N.
        permutation: ``(N,)``, of the whole batch.
    """
    shuffled = by_group(network, images[permutation], num_groups)
    return shuffled[permutation.argsort()]
