"""The baseline that sees the labels, trained on the same views as the encoders that do not."""

from __future__ import annotations

from torch import Tensor, nn

from moco_eval.encoders.networks import build_network


class Supervised(nn.Module):
    """Cross-entropy on the labels of single views.

    Its tensors bear the architecture's own names, so that the checkpoint has torchvision's layout.
    """

    encoder: nn.Module

    def __init__(
        self, arch: str, num_classes: int, *, in_chans: int = 3, image_size: int | None = None
    ) -> None:
        super().__init__()
        self.encoder = build_network(
            arch, num_classes=num_classes, in_chans=in_chans, image_size=image_size
        )

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``(N, C, H, W)`` to logits ``(N, num_classes)``; the labels are passed on."""
        return self.encoder(images), labels
