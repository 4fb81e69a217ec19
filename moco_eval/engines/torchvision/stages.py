"""Backbones of networks with four stages: ``res4`` alone, a dilated ``res5``, a pyramid."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from moco_eval.encoders.encoder import LEVELS, Encoder
from moco_eval.encoders.networks import has_resnet_parts, stages_of
from moco_eval.engines.recipe import Recipe
from moco_eval.engines.torchvision.backbone import Backbone
from moco_eval.errors import UsageError

PYRAMID_CHANNELS = 256
DILATED_CHANNELS = 512


class Stages(Backbone):
    """A ResNet, ConvNeXt, RegNet or Swin.

    Attributes:
        level_channels: Of each of the encoder's levels.
        level_strides: Theirs.
        is_resnet: A ResNet pads by itself; ConvNeXt cuts off, and Swin refuses, what fills no
            last patch.
    """

    def __init__(self, encoder: Encoder, recipe: Recipe) -> None:
        super().__init__(encoder, recipe)
        side = 64
        levels = encoder.levels(torch.zeros(1, 3, side, side, device=encoder.device))
        self.level_channels = {name: each.shape[1] for name, each in levels.items()}
        self.level_strides = {name: side // each.shape[-1] for name, each in levels.items()}
        self.is_resnet = has_resnet_parts(encoder.network)

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """``res2`` to ``res5``."""
        stem, stages = stages_of(self.network)
        maps = [stem(images)]
        for stage in stages:
            maps.append(stage(maps[-1]))
        return dict(zip(LEVELS, maps[1:], strict=True))


class ResFour(Stages):
    """The map of the third stage; the fourth runs on what is pooled of it."""

    def __init__(self, encoder: Encoder, recipe: Recipe) -> None:
        super().__init__(encoder, recipe)
        self.channels = self.level_channels["res4"]
        self.strides = {"res4": self.level_strides["res4"]}
        self.multiple = 1 if self.is_resnet else self.strides["res4"]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``res4``."""
        stem, (res2, res3, res4, _) = stages_of(self.network)
        return {"res4": res4(res3(res2(stem(images))))}

    def res5(self, res4: Tensor) -> Tensor:
        """The fourth stage, of a map or of regions pooled from it."""
        features: Tensor = stages_of(self.network)[1][3](res4)
        return features

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """``res4`` and ``res5``, the latter of the whole image at once."""
        res4 = self(images)["res4"]
        return {"res4": res4, "res5": self.res5(res4)}


class DilatedFive(Stages):
    """A dilated ``res5`` of ``res4``'s size, then a 3x3 convolution with a norm to 512 channels.

    arXiv:1911.05722, appendix. The paper names no activation after it, and there is none.

    Raises:
        UsageError: If the encoder is no ResNet, or one whose last stage also pools.
    """

    def __init__(self, encoder: Encoder, recipe: Recipe) -> None:
        super().__init__(encoder, recipe)
        if not self.is_resnet:
            raise UsageError(
                f"A dilated C5 is made of a ResNet, and {encoder.name} ({encoder.arch}) is none. "
                "Take a recipe with detector=c4 or detector=fpn."
            )
        _dilate(stages_of(self.network)[1][3], encoder)
        self.channels = DILATED_CHANNELS
        self.strides = {"res5": self.level_strides["res4"]}
        self.reduce = Conv2dNormActivation(
            self.level_channels["res5"],
            DILATED_CHANNELS,
            kernel_size=3,
            norm_layer=nn.BatchNorm2d,
            activation_layer=None,
        )
        nn.init.kaiming_uniform_(self.reduce[0].weight, a=1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``res5``, dilated and reduced."""
        return {"res5": self.reduce(super().levels(images)["res5"])}

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """``res2`` to ``res4``: dilated, ``res5`` is another map than the encoder's."""
        levels = super().levels(images)
        return {name: levels[name] for name in LEVELS[:3]}


class Pyramid(Stages):
    """A feature pyramid on ``res2`` to ``res5``, and one level more that is every second pixel.

    RetinaNet's begins at ``res3``, and two convolutions of ``res5`` are its further levels. A level
    is called by the power of two that its stride is: ``p2`` has 4 pixels.
    """

    def __init__(self, encoder: Encoder, recipe: Recipe) -> None:
        super().__init__(encoder, recipe)
        one_stage = recipe.detector == "retinanet"
        self.used = LEVELS[1:] if one_stage else LEVELS
        self.channels = PYRAMID_CHANNELS
        self.multiple = self.level_strides["res5"]
        first = int(math.log2(self.level_strides[self.used[0]]))
        num_maps = len(self.used) + (2 if one_stage else 1)
        self.strides = {f"p{n}": 2**n for n in range(first, first + num_maps)}
        self.pooled = tuple(self.strides)[: len(self.used)]
        if one_stage:
            top = LastLevelP6P7(self.level_channels["res5"], PYRAMID_CHANNELS)
            # torchvision takes the pyramid's own last map where the channels are as many.
            top.use_P5 = False
        else:
            top = LastLevelMaxPool()
        self.pyramid = FeaturePyramidNetwork(
            [self.level_channels[name] for name in self.used],
            PYRAMID_CHANNELS,
            extra_blocks=top,
            norm_layer=nn.BatchNorm2d if recipe.pyramid_norm else None,
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The pyramid's maps."""
        levels = self.levels(images)
        maps = self.pyramid({name: levels[name] for name in self.used})
        return dict(zip(self.strides, maps.values(), strict=True))


def _dilate(stage: nn.Module, encoder: Encoder) -> None:
    """Let a stage of stride 2 keep its map's size: its 3x3 convolutions look twice as far.

    As in Detectron2 all of them, the first one too.
    """
    others = [
        type(module).__name__
        for module in stage.modules()
        if hasattr(module, "stride") and not isinstance(module, nn.Conv2d)
        if not list(module.children())
    ]
    if others:
        raise UsageError(
            f"The last stage of {encoder.name} ({encoder.arch}) has {', '.join(others)}, which a "
            "dilated C5 has no counterpart for. Take a recipe with detector=c4 or detector=fpn."
        )
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (2, 2)
