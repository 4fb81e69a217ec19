"""The backbone of a plain transformer: timm's own blocks, and ViTDet's simple pyramid on them."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import Conv2dNormActivation
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from moco_eval.encoders.encoder import Encoder
from moco_eval.engines.recipe import Recipe
from moco_eval.engines.torchvision.backbone import Backbone
from moco_eval.engines.transformer import (
    LAST,
    NORM_EPS,
    PYRAMID_CHANNELS,
    SCALES,
    last_map,
    patch_of,
    require_fit,
    trunk_tensors,
)
from moco_eval.training.classifier import drop_paths

LAYER_NORM = partial(LayerNorm2d, eps=NORM_EPS)


class Trunk(nn.Module):
    """A copy of the encoder's patches, positions and blocks, LayerScale folded into the blocks."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        network: Any = copy.deepcopy(encoder.network)
        self.patch_embed = network.patch_embed
        self.pos_embed = network.pos_embed
        self.blocks = network.blocks
        for block in self.blocks:
            block.ls1, block.ls2 = nn.Identity(), nn.Identity()
        self.load_state_dict(trunk_tensors(encoder))

    def forward(self, images: Tensor) -> Tensor:
        """Its one map, ``(N, D, h, w)``."""
        return last_map(self, images)


class TransformerPyramid(Backbone):
    """Maps of 4 times the transformer's side to half of it, each made of the one map alone.

    Above them is every second pixel of the last one, or RetinaNet's two convolutions.
    """

    norm = LAYER_NORM

    def __init__(self, encoder: Encoder, recipe: Recipe) -> None:
        require_fit(encoder, recipe)
        super().__init__(encoder, recipe)
        self.network = Trunk(encoder).requires_grad_(not self.is_frozen)
        if recipe.drop_path and not self.is_frozen:
            drop_paths(self.network, recipe.drop_path)
        scales, patch = SCALES[recipe.detector], patch_of(encoder)
        self.channels = PYRAMID_CHANNELS
        self.multiple = int(patch / scales[-1])
        width = trunk_tensors(encoder)["pos_embed"].shape[-1]
        self.stages = nn.ModuleList(_stage(width, scale) for scale in scales)
        one_stage = recipe.detector == "retinanet"
        self.top = LastLevelP6P7(PYRAMID_CHANNELS, PYRAMID_CHANNELS) if one_stage else None
        first = int(math.log2(patch / scales[0]))
        count = len(scales) + (2 if one_stage else 1)
        self.strides = {f"p{number}": 2**number for number in range(first, first + count)}
        self.pooled = tuple(self.strides)[: len(scales)]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The pyramid's maps."""
        last = self.network(images)
        maps = [stage(last) for stage in self.stages]
        if self.top is not None:
            maps, _ = self.top(maps, maps, [])
        else:
            maps.append(F.max_pool2d(maps[-1], kernel_size=1, stride=2))
        return dict(zip(self.strides, maps, strict=True))

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """Its one map."""
        return {LAST: self.network(images)}


def _stage(width: int, scale: float) -> nn.Sequential:
    """From the transformer's map to one ``scale`` times as large: ViTDet's layers, in its order."""
    resizing: list[nn.Module]
    if scale == 4:
        resizing = [
            nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2),
            LAYER_NORM(width // 2),
            nn.GELU(),
            nn.ConvTranspose2d(width // 2, width // 4, kernel_size=2, stride=2),
        ]
    elif scale == 2:
        resizing = [nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2)]
    else:
        resizing = [] if scale == 1 else [nn.MaxPool2d(kernel_size=2, stride=2)]
    channels = width // max(int(scale), 1)
    return nn.Sequential(*resizing, _convolution(channels, 1), _convolution(PYRAMID_CHANNELS, 3))


def _convolution(channels: int, kernel_size: int) -> Conv2dNormActivation:
    return Conv2dNormActivation(
        channels,
        PYRAMID_CHANNELS,
        kernel_size=kernel_size,
        norm_layer=LAYER_NORM,
        activation_layer=None,
    )
