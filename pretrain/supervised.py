"""The baseline that sees the labels, trained on the same views as the encoders that do not."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from moco_eval.encoders.networks import build_network


class Supervised(nn.Module):
    """Cross-entropy on the labels of single views.

    Its tensors bear the architecture's own names, so that the checkpoint has torchvision's layout.
    """

    encoder: nn.Module

    def __init__(self, arch: str, num_classes: int) -> None:
        super().__init__()
        self.encoder = build_network(arch, num_classes=num_classes)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``(N, C, H, W)`` to logits ``(N, num_classes)``; the labels are passed on."""
        return self.encoder(images), labels


def loss_and_top1(logits: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """Mean cross-entropy, and the share of rows whose largest logit is the label's, in percent."""
    top1 = 100 * (logits.detach().argmax(1) == labels).float().mean().item()
    return F.cross_entropy(logits, labels), top1
