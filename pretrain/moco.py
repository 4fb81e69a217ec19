"""Momentum contrast: a query encoder, a slowly following key encoder, and a queue of past keys.

After Algorithm 1 of He et al., arXiv:1911.05722. Parameters and buffers bear upstream's names
(facebookresearch/moco, moco/builder.py), so that state dicts load in both directions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moco_eval.encoders.networks import build_network
from moco_eval.errors import UsageError
from pretrain.shuffle import by_group, by_shuffled_group


class MoCo(nn.Module):
    """Tell the key of the same image from K keys of other images.

    Args:
        arch: The encoder; its last layer ``fc`` becomes the projector.
        dim: Dimension of query and key.
        queue_size: K, the number of negatives.
        key_momentum: m; the key encoder becomes ``m * itself + (1 - m) * query encoder``.
        temperature: Of the softmax over the K + 1 similarities.
        mlp: Whether the projector has a hidden layer, as in v2 (arXiv:2003.04297).
        virtual_ranks: Groups with BatchNorm statistics of their own; see ``pretrain.shuffle``.
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
    ) -> None:
        super().__init__()
        self.key_momentum = key_momentum
        self.temperature = temperature
        self.virtual_ranks = virtual_ranks
        self.encoder_q = _with_projector(arch, dim, mlp)
        self.encoder_k = _with_projector(arch, dim, mlp)
        self.encoder_k.load_state_dict(self.encoder_q.state_dict())
        self.encoder_k.requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(dim, queue_size), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    @property
    def encoder(self) -> nn.Module:
        """What is evaluated when training is over: the query encoder, as upstream does."""
        return self.encoder_q

    def forward(
        self, im_q: Tensor, im_k: Tensor, *, permutation: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compare the queries with their keys and the queue, then put the keys into the queue.

        Args:
            im_q: Query views ``(N, C, H, W)``.
            im_k: Key views of the same images.
            permutation: The batch's shuffle ``(N,)``; drawn when not given.

        Returns:
            Logits ``(N, 1 + K)``, already divided by the temperature, with the positive in
            column 0; and labels ``(N,)``, which are therefore all 0.
        """
        queries = F.normalize(by_group(self.encoder_q, im_q, self.virtual_ranks), dim=1)
        with torch.no_grad():
            self._update_key_encoder()
            if permutation is None:
                permutation = torch.randperm(len(im_k), device=im_k.device)
            keys = F.normalize(
                by_shuffled_group(self.encoder_k, im_k, self.virtual_ranks, permutation), dim=1
            )
        positives = (queries * keys).sum(1, keepdim=True)
        # The queue changes in place below, while the backward pass still needs its old value.
        negatives = queries @ self.queue.clone()
        logits = torch.cat([positives, negatives], dim=1) / self.temperature
        self._enqueue(keys)
        return logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device)

    @torch.no_grad()
    def _update_key_encoder(self) -> None:
        """Equation 2 of the paper, for parameters only: BatchNorm's buffers are its own."""
        torch._foreach_lerp_(
            list(self.encoder_k.parameters()),
            list(self.encoder_q.parameters()),
            1 - self.key_momentum,
        )

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        """Replace the oldest keys of the queue by ``keys`` ``(N, dim)``."""
        num_keys, queue_size = len(keys), self.queue.shape[1]
        assert queue_size % num_keys == 0, f"a queue of {queue_size} takes no {num_keys} keys"
        start = int(self.queue_ptr)
        self.queue[:, start : start + num_keys] = keys.T
        self.queue_ptr[0] = (start + num_keys) % queue_size


def _with_projector(arch: str, dim: int, mlp: bool) -> nn.Module:
    network = build_network(arch, num_classes=dim)
    projector = getattr(network, "fc", None)
    if not isinstance(projector, nn.Linear):
        raise UsageError(f"'{arch}' has no last linear layer called fc to make a projector of.")
    if mlp:
        hidden = projector.in_features
        network.fc = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), projector)
    return network
