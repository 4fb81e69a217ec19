"""The one map of features that a segmentation head stands on, and where its points lie."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moco_eval.encoders.encoder import LEVELS
from moco_eval.encoders.networks import has_resnet_parts, stages_of
from moco_eval.errors import UsageError

# A map's side is measured on an image of so many pixels, a multiple of any stride.
_PROBE = 256


@dataclass(frozen=True)
class Grid:
    """Which pixels of an image the points of its map stand for.

    A convolution of stride 2 with padding is centred on every other pixel, the first one included:
    a ResNet's map of stride 16 stands for pixels 0, 16, 32 and so on. Patches stand for their
    middles. Upsampled as the other kind, a map would be off by half a stride.

    Attributes:
        stride: Pixels between two points.
        on_pixels: Whether the first point is pixel 0; else it is the first patch's middle.
    """

    stride: int
    on_pixels: bool

    def padded(self, side: int) -> int:
        """The least side not below ``side`` whose last pixel is a point, or whose patches fit."""
        if self.on_pixels:
            return math.ceil((side - 1) / self.stride) * self.stride + 1
        return math.ceil(side / self.stride) * self.stride

    def pad(self, images: Tensor) -> Tensor:
        """Normalised images ``(N, C, H, W)`` with their mean to the right and below."""
        height, width = images.shape[-2:]
        margins = (0, self.padded(width) - width, 0, self.padded(height) - height)
        return F.pad(images, margins)

    def spread(self, points: Tensor, size: tuple[int, int]) -> Tensor:
        """Values ``(N, C, height, width)`` between a padded image's points ``(N, C, h, w)``."""
        height, width = size
        whole = F.interpolate(
            points,
            size=(self.padded(height), self.padded(width)),
            mode="bilinear",
            align_corners=self.on_pixels,
        )
        return whole[..., :height, :width]


@dataclass(frozen=True)
class FeatureMap:
    """How a network computes its map.

    Attributes:
        compute: Padded images ``(N, C, H, W)`` to points ``(N, D, h, w)``.
        levels: The same images to the encoder's maps that are in it unchanged, by their names.
        grid: Where the points lie.
        channels: D.
        is_dilated: Whether the last stage has stride 1 and dilation 2 instead of stride 2.
        is_transformer: Whether the points are patch tokens.
    """

    compute: Callable[[Tensor], Tensor]
    levels: Callable[[Tensor], dict[str, Tensor]]
    grid: Grid
    channels: int
    is_dilated: bool = False
    is_transformer: bool = False


def feature_map(network: nn.Module, *, in_chans: int, dilate: bool) -> FeatureMap:
    """The last map of any network that has one.

    Args:
        network: A ResNet, a network of a stem and four stages, or a plain transformer of timm's;
            the latter takes images of any size from then on.
        in_chans: Of its images.
        dilate: Change a ResNet's last stage, in place, to stride 1 and dilation 2. Others keep
            their stride.

    Raises:
        UsageError: If it has no map.
    """
    if _is_plain_transformer(network):
        return _of_transformer(network)
    stem, stages = stages_of(network)
    is_resnet = has_resnet_parts(network)
    is_dilated = dilate and is_resnet and _can_dilate(stages[-1])
    if is_dilated:
        _dilate(stages[-1])
    num_kept = len(stages) - is_dilated

    def levels(images: Tensor) -> dict[str, Tensor]:
        maps = [stem(images)]
        for stage in stages[:num_kept]:
            maps.append(stage(maps[-1]))
        return dict(zip(LEVELS, maps[1:], strict=False))

    def compute(images: Tensor) -> Tensor:
        features: Tensor = stem(images)
        for stage in stages:
            features = stage(features)
        return features

    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    with torch.no_grad():
        side = _PROBE + is_resnet
        points = compute(torch.zeros(1, in_chans, side, side, device=device))
    network.train(was_training)
    steps = points.shape[-1] - is_resnet
    grid = Grid(_PROBE // steps, on_pixels=is_resnet)
    return FeatureMap(compute, levels, grid, points.shape[1], is_dilated)


def _is_plain_transformer(network: nn.Module) -> bool:
    needed = ("patch_embed", "pos_embed", "blocks", "num_prefix_tokens", "dynamic_img_size")
    return all(hasattr(network, name) for name in needed)


def _of_transformer(transformer: Any) -> FeatureMap:
    patch = transformer.patch_embed.patch_size
    if patch[0] != patch[1]:
        raise UsageError(f"Patches of {patch[0]}x{patch[1]} pixels are not square.")
    # As timm builds it with dynamic_img_size=true: positions are resampled to each image's grid.
    transformer.dynamic_img_size = True
    embedding = transformer.patch_embed
    embedding.strict_img_size, embedding.flatten = False, False
    embedding.output_fmt = type(embedding.output_fmt)("NHWC")

    def compute(images: Tensor) -> Tensor:
        rows, columns = (side // patch[0] for side in images.shape[-2:])
        tokens = transformer.forward_features(images)[:, transformer.num_prefix_tokens :]
        features: Tensor = tokens.transpose(1, 2).unflatten(2, (rows, columns))
        return features

    grid = Grid(int(patch[0]), on_pixels=False)
    return FeatureMap(
        compute,
        lambda images: {"last": compute(grid.pad(images))},
        grid,
        transformer.embed_dim,
        is_transformer=True,
    )


def _can_dilate(stage: nn.Module) -> bool:
    """Whether convolutions alone have a stride: not so where the shortcut pools."""
    return all(
        isinstance(module, nn.Conv2d)
        for module in stage.modules()
        if getattr(module, "stride", 1) in (2, (2, 2)) and not list(module.children())
    )


def _dilate(stage: nn.Module) -> None:
    """Stride 1 everywhere, dilation 2 in every 3x3 convolution; weights stay as they are.

    As A.5 of arXiv:1911.05722 says of conv5. torchvision's own dilation leaves the first of them
    without.
    """
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (2, 2)
