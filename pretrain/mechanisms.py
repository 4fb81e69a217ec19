"""The two mechanisms that MoCo's paper compares the queue with (arXiv:1911.05722, figures 2, 3).

Encoder, views, projector and loss are the same; what differs is where the negatives come from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moco_eval import distributed
from pretrain import shuffle
from pretrain.moco import unit, with_projector

# Instance Discrimination's (Wu et al., arXiv:1805.01978, section 3.2; its code's default).
BANK_MOMENTUM = 0.5


class EndToEnd(nn.Module):
    """Negatives are the other keys of the batch, and gradients flow to queries and keys alike.

    One encoder serves both, as the paper allows (its figure 2a). Keys are shuffled for BatchNorm
    as MoCo's are. K, the number of keys, is the batch.
    """

    def __init__(  # noqa: PLR0913 - the same as MoCo's
        self,
        arch: str,
        dim: int = 128,
        temperature: float = 0.07,
        mlp: bool = False,
        *,
        virtual_ranks: int = 1,
        in_chans: int = 3,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.virtual_ranks = virtual_ranks
        self.encoder_q = with_projector(arch, dim, mlp, in_chans=in_chans, image_size=image_size)

    def forward(
        self, im_q: Tensor, im_k: Tensor, *, permutation: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits ``(N, P * N)`` of each query against the batch's keys, and the positives' places.

        Args:
            im_q: Query views ``(N, C, H, W)``, this process's part of the batch.
            im_k: Key views of the same images.
            permutation: The shuffle ``(P * N,)`` of the whole batch; drawn when not given.
        """
        if permutation is None:
            permutation = shuffle.draw_permutation(im_k)
        queries = unit(shuffle.by_group(self.encoder_q, im_q, self.virtual_ranks))
        images = shuffle.shuffled_share(im_k, permutation)
        with shuffle.still_statistics(self.encoder_q):
            embedded = unit(shuffle.by_group(self.encoder_q, images, self.virtual_ranks))
        keys = shuffle.restored(embedded, permutation)
        with torch.autocast(im_q.device.type, enabled=False):
            logits = queries @ keys.T / self.temperature
        return logits, torch.arange(len(im_q), device=logits.device) + distributed.rank() * len(
            im_q
        )


class MemoryBank(nn.Module):
    """Keys are what the encoder said of the images when it last saw them, up to an epoch ago.

    As Instance Discrimination does it: the positive is the image's own entry, K negatives are drawn
    from all entries for each batch, and an entry follows its image's queries with momentum.
    """

    bank: Tensor

    def __init__(  # noqa: PLR0913 - the same as MoCo's
        self,
        arch: str,
        dim: int = 128,
        temperature: float = 0.07,
        mlp: bool = False,
        *,
        num_images: int,
        virtual_ranks: int = 1,
        in_chans: int = 3,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.virtual_ranks = virtual_ranks
        self.encoder_q = with_projector(arch, dim, mlp, in_chans=in_chans, image_size=image_size)
        self.register_buffer("bank", F.normalize(torch.randn(num_images, dim), dim=1))

    def forward(self, im_q: Tensor, samples: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(N, 1 + K)``, the positive in column 0, and labels ``(N,)``, all 0.

        Args:
            im_q: Views ``(N, C, H, W)``, this process's part of the batch.
            samples: Which images they are ``(N,)``.
            negatives: Which entries they are held against ``(K,)``, the same on every process.
        """
        queries = unit(shuffle.by_group(self.encoder_q, im_q, self.virtual_ranks))
        with torch.autocast(im_q.device.type, enabled=False):
            positives = (queries * self.bank[samples]).sum(1, keepdim=True)
            logits = torch.cat([positives, queries @ self.bank[negatives].T], 1) / self.temperature
        self._remember(queries.detach(), samples)
        return logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device)

    @torch.no_grad()
    def _remember(self, queries: Tensor, samples: Tensor) -> None:
        everyone, places = distributed.gather(queries), distributed.gather(samples)
        self.bank[places] = unit(torch.lerp(everyone, self.bank[places], BANK_MOMENTUM))
