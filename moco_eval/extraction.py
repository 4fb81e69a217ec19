"""Images to features fast: a copy of a frozen encoder that is made for nothing else.

BatchNorm is folded into convolutions, weights and images lie channels last, and the precision is
chosen; the encoder itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.networks.folding import folded
from moco_eval.encoders.networks.pooling import POOLED, pooled

Precision = Literal["fp32", "bf16"]


class Extractor:
    """Turns batches of images into features, as ``Encoder.features`` does but for rounding.

    Args:
        encoder: Its network is copied.
        precision: What the copy computes in; features are float32 in any case.
        compile: Whether to compile the copy, which takes a minute once.
    """

    def __init__(
        self, encoder: Encoder, precision: Precision = "fp32", compile: bool = False
    ) -> None:
        self.device = device_of(encoder)
        self.precision = precision
        size = encoder.input.size
        example = torch.randn(
            (1, len(encoder.input.mean), size, size), generator=torch.Generator().manual_seed(0)
        )
        self.network = folded(encoder.network, example.to(self.device))
        if precision == "bf16":
            _halve(self.network)
        self.network.to(memory_format=torch.channels_last)
        self._pooled = torch.compile(pooled) if compile else pooled

    def __call__(self, images: Tensor, kinds: Sequence[str] = (POOLED,)) -> dict[str, Tensor]:
        """Features of each kind ``(N, D)``, float32, on the encoder's device.

        Args:
            images: ``(N, C, size, size)``, normalised as ``encoder.input`` says; on any device.
            kinds: Of ``encoders/networks/pooling.py``.

        Raises:
            UsageError: If the network has no such feature.
        """
        images = images.to(self.device, memory_format=torch.channels_last)
        enabled = self.precision == "bf16"
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=enabled),
        ):
            return {kind: self._pooled(self.network, images, kind).float() for kind in kinds}


def _halve(network: nn.Module) -> None:
    """Store as bfloat16 what autocast would turn into it before each multiplication.

    Norms stay in float32, and with them the sum that runs through a transformer: with all weights
    in bfloat16 a ViT's features are off by a third more.
    """
    for module in network.modules():
        # Not what inherits from them: it may compute its weights, by weight standardisation say.
        if type(module) in (nn.Conv2d, nn.Linear):
            module.to(torch.bfloat16)


def device_of(encoder: Encoder) -> torch.device:
    """Where the encoder's weights lie."""
    return next((p.device for p in encoder.network.parameters()), torch.device("cpu"))
