"""Momentum contrast: a query encoder, a slowly following key encoder, and a queue of past keys.

After Algorithm 1 of He et al., arXiv:1911.05722. Parameters and buffers bear upstream's names
(facebookresearch/moco, moco/builder.py), so that state dicts load in both directions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moco_eval.encoders.networks import build_network, projector_slot, with_last_layer
from pretrain import shuffle

# Of the key encoder's update at once: four megabytes.
CHUNK_NUMEL = 2**20


class MoCo(nn.Module):
    """Tell the key of the same image from K keys of other images.

    Args:
        arch: The encoder; its last linear layer becomes the projector.
        dim: Dimension of query and key.
        queue_size: K, the number of negatives.
        key_momentum: m; the key encoder becomes ``m * itself + (1 - m) * query encoder``.
        temperature: Of the softmax over the K + 1 similarities.
        mlp: Whether the projector has a hidden layer, as in v2 (arXiv:2003.04297).
        virtual_ranks: Groups of this process with BatchNorm statistics of their own.
        in_chans: Channels of the images.
        image_size: Their side in pixels, for encoders that must know it.
        recompute: Trade time for memory; see ``pretrain.shuffle.by_group``.
    """

    queue: Tensor
    queue_ptr: Tensor

    def __init__(  # noqa: PLR0913 - the paper's symbols, in upstream's order
        self,
        arch: str,
        dim: int = 128,
        queue_size: int = 65536,
        key_momentum: float = 0.999,
        temperature: float = 0.07,
        mlp: bool = False,
        *,
        virtual_ranks: int = 1,
        in_chans: int = 3,
        image_size: int | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.key_momentum = key_momentum
        self.temperature = temperature
        self.virtual_ranks = virtual_ranks
        self.recompute = recompute
        build: dict[str, Any] = {
            "dim": dim,
            "mlp": mlp,
            "in_chans": in_chans,
            "image_size": image_size,
        }
        self.encoder_q = with_projector(arch, **build)
        self.encoder_k = with_projector(arch, **build)
        self.encoder_k.load_state_dict(self.encoder_q.state_dict())
        self.encoder_k.requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(dim, queue_size), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    def forward(
        self, im_q: Tensor, im_k: Tensor, *, permutation: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compare the queries with their keys and the queue, then put the keys into the queue.

        Args:
            im_q: Query views ``(N, C, H, W)``, this process's part of the batch.
            im_k: Key views of the same images.
            permutation: The shuffle ``(P * N,)`` of the whole batch; drawn when not given.

        Returns:
            Logits ``(N, 1 + K)``, already divided by the temperature, with the positive in
            column 0; and labels ``(N,)``, which are therefore all 0.
        """
        keys = self.encode_keys(im_k, permutation)
        logits, labels = self.compare(im_q, shuffle.local_share(keys), num_replaced=len(keys))
        self.enqueue(keys)
        return logits, labels

    @torch.no_grad()
    def encode_keys(self, im_k: Tensor, permutation: Tensor | None = None) -> Tensor:
        """Let the key encoder follow, then embed all keys ``(P * N, dim)`` of the whole batch."""
        follow(self.encoder_k, self.encoder_q, self.key_momentum)
        if permutation is None:
            permutation = shuffle.draw_permutation(im_k)
        images = shuffle.shuffled_share(im_k, permutation)
        keys = unit(shuffle.by_group(self.encoder_k, images, self.virtual_ranks))
        return shuffle.restored(keys, permutation)

    def compare(
        self, im_q: Tensor, keys: Tensor, *, num_groups: int | None = None, num_replaced: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Logits and labels, as ``forward``'s, of queries against their own keys and the queue.

        Args:
            im_q: ``(n, C, H, W)``.
            keys: ``(n, dim)``, of the same images.
            num_groups: Groups that these queries are cut into; all virtual ranks if left out.
            num_replaced: Keys that will enter the queue before the backward pass.
        """
        groups = num_groups or self.virtual_ranks
        queries = unit(shuffle.by_group(self.encoder_q, im_q, groups, recompute=self.recompute))
        with torch.autocast(queries.device.type, enabled=False):
            positives = torch.einsum("nc,nc->n", queries, keys).unsqueeze(1)
            negatives = _AgainstQueue.apply(
                queries, self.queue, int(self.queue_ptr) if num_replaced else 0, num_replaced
            )
            logits = torch.cat([positives, negatives], dim=1) / self.temperature
        return logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device)

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Replace the oldest keys of the queue by ``keys`` ``(P * N, dim)``."""
        num_keys, queue_size = len(keys), self.queue.shape[1]
        assert queue_size % num_keys == 0, f"a queue of {queue_size} takes no {num_keys} keys"
        start = int(self.queue_ptr)
        self.queue[:, start : start + num_keys] = keys.T
        self.queue_ptr[0] = (start + num_keys) % queue_size


def with_projector(
    arch: str, dim: int, mlp: bool, *, in_chans: int = 3, image_size: int | None = None
) -> nn.Module:
    """An encoder whose last layer projects to ``dim``: linear (v1), or with a hidden layer (v2)."""
    network = build_network(arch, num_classes=dim, in_chans=in_chans, image_size=image_size)
    name, hidden = projector_slot(network)
    if mlp:
        last = network.get_submodule(name)
        head = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), last)
        network = with_last_layer(network, head)
    return network


def unit(embedded: Tensor) -> Tensor:
    """Embeddings ``(N, D)`` scaled to length 1, in single precision at least."""
    return F.normalize(embedded.to(torch.promote_types(embedded.dtype, torch.float32)), dim=1)


@torch.no_grad()
def follow(follower: nn.Module, leader: nn.Module, momentum: float) -> None:
    """Equation 2 of the paper, for parameters only: BatchNorm's buffers are the follower's own.

    Rounded as upstream rounds it, ``m * k`` and ``(1 - m) * q`` apart: a lerp is faster, but its
    last digit differs, and in single precision that grows to 0.01 of a weight in five steps.
    """
    for followers, leaders in _in_chunks(follower.parameters(), leader.parameters()):
        share = torch._foreach_mul(leaders, 1.0 - momentum)
        torch._foreach_mul_(followers, momentum)
        torch._foreach_add_(followers, share)


def _in_chunks(
    followers: Iterable[Tensor], leaders: Iterable[Tensor]
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Pairs of tensors in lists: long enough for few kernels, short enough to stay in the cache."""
    chunk: tuple[list[Tensor], list[Tensor]] = ([], [])
    size = 0
    for follower, leader in zip(followers, leaders, strict=True):
        if size and size + leader.numel() > CHUNK_NUMEL:
            yield chunk
            chunk, size = ([], []), 0
        chunk[0].append(follower)
        chunk[1].append(leader)
        size += leader.numel()
    yield chunk


class _AgainstQueue(torch.autograd.Function):
    """``queries @ queue``, differentiable also after the oldest keys were replaced.

    Autograd refuses a saved tensor that has changed since, and upstream therefore clones the whole
    queue in every step. Here only the columns that will be replaced are kept.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, queue: Tensor, start: int, num_replaced: int) -> Tensor:
        ctx.queue, ctx.version = queue, queue._version
        ctx.start, ctx.end = start, start + num_replaced
        ctx.replaced = queue[:, ctx.start : ctx.end].clone()
        return queries @ queue

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        changes = ctx.queue._version - ctx.version
        if changes > (ctx.end > ctx.start):
            raise RuntimeError(
                f"The queue took keys {changes} times between forward and backward pass. "
                "Go backward after each forward pass."
            )
        # The replaced keys return for the length of one product.
        place = ctx.queue[:, ctx.start : ctx.end]
        newest = place.clone()
        place.copy_(ctx.replaced)
        flowing = gradient @ ctx.queue.T
        place.copy_(newest)
        return flowing, None, None, None
