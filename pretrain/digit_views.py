"""Views of the embedded digits, which no published augmentation suits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from moco_eval.data.images import InputSpec, normalize


@dataclass(frozen=True, kw_only=True)
class DigitViews:
    """A digit is itself when moved, turned a little, dimmed or noisy, but not when mirrored."""

    spec: InputSpec
    num_views: int

    def draw(self, image: Image.Image, keys: Sequence[int]) -> tuple[Tensor, ...]:
        """One normalised float view ``(3, size, size)`` for each key."""
        augment = _augmentation(self.spec.size)
        rgb = image.convert("RGB")
        views = []
        for key in keys:
            # torchvision draws from torch's default generator alone. Not torch.manual_seed: that
            # also seeds every accelerator, at 70 times the cost.
            torch.default_generator.manual_seed(key)
            views.append(normalize(augment(rgb), self.spec))
        return tuple(views)

    def finish(self, batch: Sequence[Tensor], device: str) -> list[Tensor]:
        """Move each view's batch ``(N, 3, size, size)`` to ``device``."""
        return [views.to(device, non_blocking=True) for views in batch]


def _augmentation(size: int) -> v2.Compose:
    return v2.Compose(
        [
            v2.Resize((size, size), antialias=True),
            v2.RandomAffine(
                degrees=15,
                translate=(0.1, 0.1),
                scale=(0.8, 1.2),
                interpolation=v2.InterpolationMode.BILINEAR,
            ),
            v2.ColorJitter(brightness=0.4),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.GaussianNoise(sigma=0.05),
        ]
    )
