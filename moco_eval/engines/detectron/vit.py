"""A plain transformer within a detector: Detectron2's own ViT and simple pyramid (ViTDet)."""

from __future__ import annotations

import math
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import SimpleFeaturePyramid
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7

from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.exports.vitdet import plan_of
from moco_eval.engines.detectron.backbones import build_vit
from moco_eval.engines.detectron.body import Body
from moco_eval.engines.recipe import Recipe
from moco_eval.engines.transformer import (
    LAST,
    PYRAMID_CHANNELS,
    SCALES,
    patch_of,
    require_fit,
    trunk_tensors,
)

PREFIX = "backbone.net."


class PaddedPyramid(SimpleFeaturePyramid):  # type: ignore[misc]
    """On images of whole patches, at every scale.

    Unlike upstream's, whose ``padding_constraints`` has a misspelt key: without ViTDet's padding to
    a square nothing would be padded, and what fills no last patch would not be seen.
    """

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"size_divisibility": self._size_divisibility, "square_size": self._square_pad}


def transformer_body(encoder: Encoder, recipe: Recipe, cfg: CfgNode, *, norm: str) -> Body:
    """Detectron2's ViT of the encoder's numbers, with fresh weights, and a pyramid on it.

    Args:
        encoder: A plain transformer.
        recipe: Of a detector with a pyramid.
        cfg: As ``configuration`` filled it.
        norm: Detectron2's name of the pyramid's norms.

    Raises:
        UsageError: If ViTDet has no such transformer, or the recipe does not fit it.
    """
    require_fit(encoder, recipe)
    tensors = trunk_tensors(encoder)
    # What is frozen leaves nothing out.
    drop_path = 0.0 if recipe.freeze == "encoder" else recipe.drop_path
    net = build_vit(plan_of(encoder.network, tensors["pos_embed"]), drop_path_rate=drop_path)
    scales = SCALES[recipe.detector]
    # A level is called by the power of two that its stride is.
    coarsest = f"p{int(math.log2(patch_of(encoder) / scales[-1]))}"
    top: Any
    if recipe.detector == "retinanet":
        top = LastLevelP6P7(PYRAMID_CHANNELS, PYRAMID_CHANNELS, in_feature=coarsest)
    else:
        top = LastLevelMaxPool()
        top.in_feature = coarsest
    pyramid = PaddedPyramid(net, "last_feat", PYRAMID_CHANNELS, scales, top_block=top, norm=norm)
    return Body(
        backbone=pyramid,
        names={f"{PREFIX}{name}": name for name in tensors},
        stages={LAST: PREFIX.removesuffix(".")},
        prefixes=(PREFIX,),
    )
