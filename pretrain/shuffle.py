"""Shuffling BN: each key is normalised among other images than its query is.

BatchNorm lets the images of one batch see each other, and a network could pass the contrastive
test by that leak alone (MoCo, arXiv:1911.05722, section 3.3). So every rank normalises its own
group of images, and the keys' groups are drawn from a shuffle of the whole batch.

A rank need not be a process. Each process carries some ranks: it cuts its images into groups that
go through the network one after the other. Four ranks on one process, two processes of two and
four processes compute the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from moco_eval import distributed


def by_group(
    network: nn.Module, images: Tensor, num_groups: int, *, recompute: bool = False
) -> Tensor:
    """Embed ``(N, C, H, W)`` as ``num_groups`` ranks would, each with its own batch statistics.

    BatchNorm's running statistics follow the first group alone. So the run's are those of its
    first rank, as upstream's are, where every forward pass begins with rank 0's buffers.

    Args:
        network: Maps images to embeddings ``(N, D)``.
        images: This process's.
        num_groups: A divisor of N.
        recompute: Keep no activations but those of one group, at the price of a second forward
            pass in the backward pass (gradient checkpointing).
    """
    embedded = []
    for index, group in enumerate(images.chunk(num_groups)):
        with still_statistics(network) if index else nullcontext():
            if recompute:
                again = still_statistics if index else _restored_statistics
                embedded.append(_recomputed(network, group, again))
            else:
                embedded.append(network(group))
    return torch.cat(embedded)


def draw_permutation(images: Tensor) -> Tensor:
    """A shuffle ``(P * N,)`` of the whole batch, the same on every process.

    Args:
        images: ``(N, C, H, W)``, this process's part.
    """
    num_total = len(images) * distributed.world_size()
    return distributed.broadcast(torch.randperm(num_total, device=images.device))


def shuffled_share(images: Tensor, permutation: Tensor) -> Tensor:
    """This process's part of the shuffled batch.

    Each image travels once, to the one process that needs it: what a process receives does not
    grow with their number. (Upstream gathers the whole batch on every process.)

    Args:
        images: ``(N, C, H, W)``, this process's part of the batch, of equal size on each.
        permutation: ``(P * N,)``: place i of the shuffled batch takes image ``permutation[i]``.
    """
    num_images, rank = len(images), distributed.rank()
    # Row p: who owns, and where among its images lies, what process p needs, in p's order.
    wanted = permutation.view(distributed.world_size(), num_images)
    owner, place = wanted // num_images, wanted % num_images
    outgoing = place[owner == rank]
    sent = (owner == rank).sum(1).tolist()
    received = torch.bincount(owner[rank], minlength=len(wanted)).tolist()
    arrived = distributed.exchange(images[outgoing], sent, received)
    # They came in order of their owner; a stable sort of the owners tells where each belongs.
    return arrived[owner[rank].argsort(stable=True).argsort()]


def restored(shuffled: Tensor, permutation: Tensor) -> Tensor:
    """All embeddings ``(P * N, D)`` in the order of the batch, from each process's shuffled part.

    Gradients flow back to the process that computed an embedded image, where there are any.
    """
    if shuffled.requires_grad:
        gathered = distributed.gather_with_gradient(shuffled)
    else:
        gathered = distributed.gather(shuffled)
    return gathered[permutation.argsort()]


def local_share(batch: Tensor) -> Tensor:
    """This process's part of a tensor ``(P * N, ...)`` over the whole batch."""
    return batch.chunk(distributed.world_size())[distributed.rank()]


@contextmanager
def still_statistics(network: nn.Module) -> Iterator[None]:
    """BatchNorm normalises by the batch as ever, but its running statistics stay."""
    tracking = [
        module
        for module in network.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True


def _recomputed(
    network: nn.Module,
    images: Tensor,
    again: Callable[[nn.Module], AbstractContextManager[None]],
) -> Tensor:
    embedded: Tensor = checkpoint(
        network, images, use_reentrant=False, context_fn=lambda: (nullcontext(), again(network))
    )
    return embedded


@contextmanager
def _restored_statistics(network: nn.Module) -> Iterator[None]:
    """The second pass repeats the first to the letter, but must not move the statistics again."""
    before = [buffer.clone() for buffer in network.buffers()]
    try:
        yield
    finally:
        for buffer, value in zip(network.buffers(), before, strict=True):
            # Not the buffer itself: autograd would take it for changed since the first pass.
            buffer.data.copy_(value)
