"""The encoder within a detector: Detectron2's backbone, and which of it is the encoder's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, ResNet, build_resnet_backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from fvcore.nn import weight_init
from torch import Tensor, nn

from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.formats.detection import to_detectron2
from moco_eval.encoders.networks import has_resnet_parts
from moco_eval.engines.detectron.resnet import build_resnet
from moco_eval.engines.recipe import Recipe
from moco_eval.errors import UsageError

DC5_CHANNELS = 512
# Where C4's last stage lies in the whole detector.
C4_STAGE = "roi_heads.res5."


@dataclass(frozen=True, kw_only=True)
class Body:
    """The encoder's part of a detector, with fresh weights.

    Attributes:
        backbone: What the detector calls with images; its ``output_shape`` names the maps.
        names: The encoder's names of tensors, by the detector's, such as
            ``backbone.bottom_up.res2.0.conv1.weight``.
        stages: The modules that compute the encoder's maps, by level, under the detector's names,
            such as ``backbone.bottom_up.res2``; the engine reads their outputs.
        prefixes: Of the detector's tensors that lie among the encoder's: each must be one of them.
        head: The blocks of ``res5``, where the heads run it on pooled regions.
    """

    backbone: Backbone
    names: Mapping[str, str]
    stages: Mapping[str, str]
    prefixes: tuple[str, ...]
    head: nn.Sequential | None = None


def backbone_of(encoder: Encoder, recipe: Recipe, cfg: CfgNode, *, norm: str) -> Body:
    """What Detectron2 makes of an encoder's structure, with what the recipe puts on top of it.

    Args:
        encoder: A ResNet.
        recipe: Its detector says what is needed of the encoder.
        cfg: As ``configuration`` filled it.
        norm: Detectron2's name of the norms that are trained, also where the encoder's are frozen.

    Raises:
        UsageError: If Detectron2 has no such network.
        CheckpointError: If a ResNet has another stem than one convolution.
    """
    if not has_resnet_parts(encoder.network):
        raise UsageError(
            f"Detectron2's detectors are built of ResNets here, and {encoder.name} "
            f"({encoder.arch}) is none. Try --engine torchvision"
        )
    return _resnet_body(encoder, recipe, cfg, norm)


def _resnet_body(encoder: Encoder, recipe: Recipe, cfg: CfgNode, norm: str) -> Body:
    dilated = recipe.detector == "dc5"
    stem, stages = build_resnet(encoder.network, norm=cfg.MODEL.RESNETS.NORM, dilated=dilated)
    resnet = ResNet(stem, stages, out_features=list(cfg.MODEL.RESNETS.OUT_FEATURES))
    backbone: Backbone = resnet
    prefix, head = "backbone.bottom_up.", None
    if recipe.detector == "c4":
        # ResNet has left this stage out, for which nobody asks it: it belongs to the heads.
        prefix, head = "backbone.", nn.Sequential(*stages[3])
    else:
        backbone = DilatedC5(resnet, norm=norm) if dilated else _fpn(resnet, cfg)
    names = {}
    for name in encoder.tensors():
        place = to_detectron2(name)
        in_head = head is not None and place.startswith("res5.")
        names[f"roi_heads.{place}" if in_head else f"{prefix}{place}"] = name
    # A dilated res5 computes something else than the encoder's: of it, tensors are compared.
    kept = [level for level in resnet.stage_names if not (dilated and level == "res5")]
    blocks = range(len(head)) if head is not None else ()
    return Body(
        backbone=backbone,
        names=names,
        stages={level: f"{prefix}{level}" for level in kept},
        prefixes=(prefix, *(f"{C4_STAGE}{number}." for number in blocks)),
        head=head,
    )


def _fpn(resnet: ResNet, cfg: CfgNode) -> FPN:
    """A pyramid whose levels are named by their strides: ``p2`` is 4 pixels', ``p3`` 8."""
    shapes = resnet.output_shape()
    last = shapes[cfg.MODEL.FPN.IN_FEATURES[-1]]
    top: Any
    if cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
        top = LastLevelP6P7(last.channels, cfg.MODEL.FPN.OUT_CHANNELS)
    else:
        top = LastLevelMaxPool()
        top.in_feature = f"p{int(math.log2(last.stride))}"
    return FPN(
        bottom_up=resnet,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


class DilatedC5(Backbone):  # type: ignore[misc]
    """A dilated ``res5`` of stride 16 and a 3x3 convolution with norm to 512 channels after it.

    arXiv:1911.05722, appendix; the heads of Detectron2's own dilated C5 see ``res5`` itself. The
    paper names no activation after the convolution, and there is none, as in a pyramid.

    Args:
        bottom_up: A ResNet that gives ``res5``.
        norm: Detectron2's name of the norm.
    """

    def __init__(self, bottom_up: Backbone, *, norm: str) -> None:
        super().__init__()
        shape = bottom_up.output_shape()["res5"]
        self.bottom_up = bottom_up
        self.reduce = Conv2d(
            shape.channels,
            DC5_CHANNELS,
            kernel_size=3,
            padding=1,
            bias=False,
            norm=get_norm(norm, DC5_CHANNELS),
        )
        weight_init.c2_xavier_fill(self.reduce)
        self.shapes = {"res5": ShapeSpec(channels=DC5_CHANNELS, stride=shape.stride)}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"res5": self.reduce(self.bottom_up(images)["res5"])}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self.shapes


@BACKBONE_REGISTRY.register()  # type: ignore[untyped-decorator]
def build_resnet_dc5_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DilatedC5:
    """For Detectron2's own trainer, given our configuration of it."""
    return DilatedC5(build_resnet_backbone(cfg, input_shape), norm=cfg.MODEL.RESNETS.NORM)
