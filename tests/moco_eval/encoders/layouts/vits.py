"""The small ViTs that layouts hold, under timm's names."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from layouts.layout import WORTHLESS, randomised
from moco_eval.encoders.networks import build_network

TINY = "timm:vit_tiny_patch16_224:depth=2,embed_dim=64,img_size=32,num_heads=1"


@functools.cache
def transformer(arch: str = TINY) -> tuple[Callable[[Tensor], Tensor], dict[str, Tensor]]:
    """The network, images to pooled features, and its tensors; what is written must change none.

    Gaussian throughout: fresh positions and class tokens are so small that no test would see them.
    """
    network = randomised(build_network(arch))
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point() and tensor.dim() != 1:
                size = 1.0 if name.endswith(("embed", "token", "latent")) else 0.1
                tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=size)
    return network, {name: tensor.clone() for name, tensor in network.state_dict().items()}


def wrong(*names: str) -> dict[str, Tensor]:
    """Tensors of these names that must not get into an encoder."""
    return {name: torch.full((2, 3), WORTHLESS) for name in names}
