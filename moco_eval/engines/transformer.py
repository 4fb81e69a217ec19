"""A plain transformer as a detector's backbone: ViTDet (Li et al., arXiv:2203.16527).

It has one map, from which a simple pyramid is made. As in ViTDet there is no class token: patches
attend to patches alone, all of them in every block. Unlike ViTDet: no windows of attention and no
relative positions, which the encoder was not pretrained with.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.exports import vitdet
from moco_eval.encoders.reading.reader import shortened
from moco_eval.engines.recipe import Recipe
from moco_eval.engines.recipes import RECIPES
from moco_eval.errors import UsageError

# The name of its map in the gate.
LAST = "last"
PYRAMID_CHANNELS = 256
NORM_EPS = 1e-6
# How many times as large as the transformer's map a pyramid's are, from fine to coarse.
SCALES = {"fpn": (4.0, 2.0, 1.0, 0.5), "retinanet": (2.0, 1.0, 0.5)}
# The finest of the maps has a quarter of the patch's stride.
MIN_PATCH = 4


def is_plain(encoder: Encoder) -> bool:
    """Whether it has patches and blocks, all of one stride, in the place of stages."""
    return vitdet.is_transformer(encoder)


def require_fit(encoder: Encoder, recipe: Recipe) -> None:
    """Refuse a recipe that cannot be built on the encoder, and numbers that would say nothing.

    Raises:
        UsageError: With the reason, and what to take instead.
    """
    if not is_plain(encoder):
        _require_no_blocks(encoder, recipe)
        return
    if recipe.detector not in SCALES:
        fitting = ", ".join(name for name, each in RECIPES.items() if each.detector in SCALES)
        raise UsageError(
            f"A detector={recipe.detector} is made of a network of four stages, and {encoder.name} "
            f"({encoder.arch}) is a plain transformer of one map. Take a recipe with a pyramid: "
            f"{fitting}"
        )
    if reasons := vitdet.objections(encoder):
        raise UsageError(
            f"{encoder.name} ({encoder.arch}) is no backbone of ViTDet's: it has "
            f"{shortened(reasons)}. linear, knn, finetune, lowshot, svm and the linear head of "
            "segment --task semantic take this encoder."
        )
    if patch_of(encoder) < MIN_PATCH:
        raise UsageError(
            f"{encoder.name} ({encoder.arch}) has patches of {patch_of(encoder)} pixels. The "
            f"finest map of a pyramid has a quarter of that: take patches of {MIN_PATCH} or more."
        )
    if not recipe.pyramid_norm:
        raise UsageError("The pyramid of a transformer has norms: take pyramid_norm=true.")


def _require_no_blocks(encoder: Encoder, recipe: Recipe) -> None:
    for name, neutral in (("drop_path", 0.0), ("layer_decay", 1.0)):
        if getattr(recipe, name) != neutral:
            raise UsageError(
                f"{name}={getattr(recipe, name):g} is for the blocks of a plain transformer, and "
                f"{encoder.name} ({encoder.arch}) is none. Take: --set {name}={neutral:g}"
            )


def patch_of(encoder: Encoder) -> int:
    """Side of a patch in pixels: the stride of its map."""
    weight: Tensor = encoder.tensors()["patch_embed.proj.weight"]
    return weight.shape[-1]


def strides_of(encoder: Encoder) -> tuple[int, ...]:
    """Of the four maps of a pyramid, from fine to coarse: with patches of 16 pixels 4 to 32."""
    return tuple(int(patch_of(encoder) / scale) for scale in SCALES["fpn"])


def trunk_tensors(encoder: Encoder) -> dict[str, Tensor]:
    """What a detector has of the encoder: patches, positions and blocks, under timm's names.

    Without class token and what follows the blocks. LayerScale is multiplied into the layer before
    it, so that both engines train the same weights.
    """
    return vitdet.folded_tensors(encoder)


def layers_of(encoder: Encoder) -> dict[str, int]:
    """The number of each tensor's layer: patches and positions 0, blocks from 1 (appendix A.2).

    Of no other network are layers told apart by ``layer_decay``.
    """
    if not is_plain(encoder):
        return {}
    return {name: _layer_of(name) for name in trunk_tensors(encoder)}


def _layer_of(name: str) -> int:
    parts = name.split(".")
    return 1 + int(parts[1]) if parts[0] == "blocks" else 0


def last_map(network: nn.Module, images: Tensor) -> Tensor:
    """What the blocks make of the patches, ``(N, D, h, w)``, before any norm.

    Args:
        network: Of timm's parts ``patch_embed``, ``pos_embed`` and ``blocks``.
        images: ``(N, 3, H, W)``, normalised, of whole patches.
    """
    parts: Any = network
    patches: Tensor = parts.patch_embed.proj(images)
    tokens = (patches + _resized(parts.pos_embed, patches.shape[-2:])).flatten(2).transpose(1, 2)
    for block in parts.blocks:
        tokens = block(tokens)
    last: Tensor = tokens.transpose(1, 2).reshape(patches.shape)
    return last


def _resized(positions: Tensor, size: torch.Size) -> Tensor:
    """Positions ``(1, D, h, w)`` for a map of ``size``, as Detectron2 resizes them."""
    side = math.isqrt(positions.shape[1])
    grid = positions[:, -side * side :].transpose(1, 2).reshape(1, -1, side, side)
    if tuple(size) == (side, side):
        return grid
    return F.interpolate(grid, size=tuple(size), mode="bicubic", align_corners=False)
