"""What a detector looks at an image with: a copy of an encoder, and what is built on it."""

from __future__ import annotations

import abc
import copy

import torch
from timm.layers.norm_act import BatchNormAct2d
from timm.utils import model as timm_model
from torch import Tensor, nn

from moco_eval import distributed
from moco_eval.encoders.encoder import LEVELS, Encoder
from moco_eval.encoders.networks import has_resnet_parts, stages_of
from moco_eval.engines.recipe import Recipe
from moco_eval.errors import UsageError


class Backbone(nn.Module, abc.ABC):
    """Maps normalised pixels ``(N, 3, h, w)`` to the maps that boxes are found on.

    Attributes:
        network: The copy of the encoder's network; what the recipe freezes in it is frozen.
        channels: Of every map.
        strides: Of each map, under its name, from fine to coarse: ``{"p2": 4, "p3": 8}``.
        multiple: Images are padded to whole multiples of so many pixels.
        is_frozen: Whether the encoder is left as it is.
    """

    network: nn.Module
    channels: int
    strides: dict[str, int]
    multiple: int = 1

    def __init__(self, encoder: Encoder, recipe: Recipe) -> None:
        super().__init__()
        self.is_frozen = recipe.freeze == "encoder"
        self.network = copy.deepcopy(encoder.network).requires_grad_(not self.is_frozen)
        if recipe.freeze != "none":
            # Without parameters and in any mode the same, as Detectron2's FrozenBatchNorm2d.
            self.network = timm_model.freeze_batch_norm_2d(self.network)  # type: ignore[no-untyped-call, attr-defined]
        elif distributed.world_size() > 1:
            _require_plain_norms(self.network)

    @abc.abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The maps by the names of ``strides``, from fine to coarse."""

    @abc.abstractmethod
    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """The encoder's own maps, by its names for them."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that must be the encoder's, under the encoder's names."""
        return dict(self.network.state_dict())

    def train(self, mode: bool = True) -> Backbone:
        """A frozen encoder stays in eval mode: it drops nothing and no statistic moves."""
        super().train(mode)
        if self.is_frozen:
            self.network.eval()
        return self


class Stages(Backbone):
    """A backbone of a network with a stem and four stages: ResNet, ConvNeXt, RegNet or Swin.

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


def _require_plain_norms(network: nn.Module) -> None:
    # What makes BatchNorm see all ranks would leave out the activation in it.
    if any(isinstance(module, BatchNormAct2d) for module in network.modules()):
        raise UsageError(
            f"The norms of this {type(network).__name__} cannot be trained on several devices: "
            "they hold its activations. Take one device, or freeze them: --set freeze=norms"
        )
