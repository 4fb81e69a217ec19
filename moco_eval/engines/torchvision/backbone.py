"""What a detector looks at an image with: a copy of an encoder, and what is built on it."""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable

from timm.layers.norm_act import BatchNormAct2d
from timm.utils import model as timm_model
from torch import Tensor, nn

from moco_eval import distributed
from moco_eval.encoders.encoder import Encoder
from moco_eval.engines.recipe import Recipe
from moco_eval.errors import UsageError


class Backbone(nn.Module, abc.ABC):
    """Maps normalised pixels ``(N, 3, h, w)`` to the maps that boxes are found on.

    Attributes:
        network: The copy of the encoder's network; what the recipe freezes in it is frozen.
        channels: Of every map.
        strides: Of each map, under its name, from fine to coarse: ``{"p2": 4, "p3": 8}``.
        pooled: The names of those that the heads look at; empty for all of them.
        norm: What the heads' convolutions are followed by, if they are.
        multiple: Images are padded to whole multiples of so many pixels.
        is_frozen: Whether the encoder is left as it is.
    """

    network: nn.Module
    channels: int
    strides: dict[str, int]
    pooled: tuple[str, ...] = ()
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d
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


def _require_plain_norms(network: nn.Module) -> None:
    # What makes BatchNorm see all ranks would leave out the activation in it.
    if any(isinstance(module, BatchNormAct2d) for module in network.modules()):
        raise UsageError(
            f"The norms of this {type(network).__name__} cannot be trained on several devices: "
            "they hold its activations. Take one device, or freeze them: --set freeze=norms"
        )
