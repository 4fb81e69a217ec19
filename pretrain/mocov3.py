"""MoCo v3: no queue; the keys of a large batch are each other's negatives.

After Algorithm 1 of Chen, Xie and He, arXiv:2104.02057. Parameters and buffers bear upstream's
names (facebookresearch/moco-v3, moco/builder.py).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from moco_eval import distributed
from moco_eval.encoders.networks import build_network, projector_slot, with_last_layer
from pretrain.moco import follow, unit


class MoCoV3(nn.Module):
    """Tell the key of the same image from the keys of all other images of the batch.

    Args:
        arch: The encoder; its last linear layer becomes the projector.
        dim: Dimension of query and key.
        mlp_dim: Width of the hidden layers of projector and predictor.
        temperature: Of the softmax over the batch.
        num_projector_layers: 2 for a ResNet, 3 for a ViT, whose predictor then ends in a BatchNorm
            as well: what upstream's two classes differ in.
        in_chans: Channels of the images.
        image_size: Their side in pixels, for encoders that must know it.
    """

    def __init__(  # noqa: PLR0913 - the paper's symbols, in upstream's order
        self,
        arch: str,
        dim: int = 256,
        mlp_dim: int = 4096,
        temperature: float = 1.0,
        *,
        num_projector_layers: int = 2,
        in_chans: int = 3,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        self.temperature = temperature

        def encoder() -> nn.Module:
            network = build_network(
                arch,
                num_classes=dim,
                in_chans=in_chans,
                image_size=image_size,
                zero_init_residual=True,
            )
            widths = [projector_slot(network)[1], *[mlp_dim] * (num_projector_layers - 1), dim]
            return with_last_layer(network, _perceptron(widths, last_norm=True))

        self.base_encoder = encoder()
        self.momentum_encoder = encoder()
        self.predictor = _perceptron([dim, mlp_dim, dim], last_norm=num_projector_layers > 2)
        self.momentum_encoder.load_state_dict(self.base_encoder.state_dict())
        self.momentum_encoder.requires_grad_(False)

    @property
    def loss_scale(self) -> float:
        """What the mean cross-entropy over both views' rows is multiplied by: upstream's loss."""
        return 4 * self.temperature

    def forward(self, x1: Tensor, x2: Tensor, key_momentum: float) -> tuple[Tensor, Tensor]:
        """Predict each view's key from the other view.

        Args:
            x1: First views ``(N, C, H, W)``, this process's part of the batch.
            x2: Second views of the same images.
            key_momentum: m of this step.

        Returns:
            Logits ``(2 N, P * N)``, already divided by the temperature: first views against all
            second keys, then second views against all first keys; and labels ``(2 N,)``, the
            places of the positives. Upstream's loss is their cross-entropy times ``loss_scale``.
        """
        queries = [unit(self.predictor(self.base_encoder(x))) for x in (x1, x2)]
        with torch.no_grad():
            follow(self.momentum_encoder, self.base_encoder, key_momentum)
            keys = [distributed.gather(unit(self.momentum_encoder(x))) for x in (x1, x2)]
        with torch.autocast(x1.device.type, enabled=False):
            logits = torch.cat([queries[0] @ keys[1].T, queries[1] @ keys[0].T]) / self.temperature
        labels = torch.arange(len(x1), device=logits.device) + distributed.rank() * len(x1)
        return logits, labels.repeat(2)


def _perceptron(widths: list[int], *, last_norm: bool) -> nn.Sequential:
    """Linear, BatchNorm, ReLU between ``widths``; the last BatchNorm, if any, learns no scale."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths[:-1]):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=False))
    if last_norm:
        layers.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*layers)
