"""MoCo v3's vision transformers: timm's, with fixed positions and a frozen patch projection.

After Chen et al., arXiv:2104.02057, and facebookresearch/moco-v3, vits.py; parameters bear
upstream's names, which are timm's. Weights cannot tell these networks from timm's own: its
``vit_small`` has 6 heads, MoCo v3's 12.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from moco_eval.errors import UsageError


class Plan(NamedTuple):
    """A transformer's numbers: its width, its blocks, its heads, its patches and their stem."""

    dim: int
    depth: int
    num_heads: int
    patch: int = 16
    image: int = 224
    conv_stem: bool = False


PLANS = {
    "vit_small_mocov3": Plan(dim=384, depth=12, num_heads=12),
    "vit_base_mocov3": Plan(dim=768, depth=12, num_heads=12),
    # The stem of four convolutions takes one block's place.
    "vit_conv_small_mocov3": Plan(dim=384, depth=11, num_heads=12, conv_stem=True),
    "vit_conv_base_mocov3": Plan(dim=768, depth=11, num_heads=12, conv_stem=True),
    # For 32-pixel images.
    "vit_digits": Plan(dim=96, depth=4, num_heads=3, patch=4, image=32),
}


def build_vit(
    arch: str, *, num_classes: int, in_chans: int = 3, image_size: int | None = None
) -> nn.Module:
    """Build one of ``PLANS`` with fresh weights from torch's default generator.

    The position embedding and, but for the convolutional stem, the random patch projection are
    never trained: upstream's ``--stop-grad-conv1``, with which all its ViTs were pretrained.

    Args:
        arch: A name in ``PLANS``.
        num_classes: Outputs of ``head``; 0 leaves it out, and the class token is the feature.
        in_chans: Channels of the images.
        image_size: Their side in pixels; the plan's if left out.

    Raises:
        UsageError: If no whole number of patches fits into the images.
    """
    from timm.models.vision_transformer import VisionTransformer

    plan = PLANS[arch]
    size = image_size or plan.image
    if size % plan.patch:
        raise UsageError(
            f"{arch} cuts images into patches of {plan.patch} pixels, and {size} is no multiple "
            "of that. Take another image size."
        )
    network: nn.Module = VisionTransformer(
        img_size=size,
        patch_size=plan.patch,
        in_chans=in_chans,
        num_classes=num_classes,
        embed_dim=plan.dim,
        depth=plan.depth,
        num_heads=plan.num_heads,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        # Xavier's bounds, with queries, keys and values as three matrices; a class token near 0.
        weight_init="moco",
    )
    positions = position_embedding(size // plan.patch, plan.dim)
    network.pos_embed = nn.Parameter(positions, requires_grad=False)
    embedding = network.get_submodule("patch_embed")
    if plan.conv_stem:
        embedding.proj = _conv_stem(in_chans, plan.dim)
    else:
        _init_patches(network.get_submodule("patch_embed.proj").requires_grad_(False))
    return network


def position_embedding(side: int, dim: int) -> Tensor:
    """Sines and cosines of each patch's row and column; zeros for the class token.

    Args:
        side: Patches in a row.
        dim: A multiple of 4.

    Returns:
        ``(1, 1 + side * side, dim)``: by quarters of ``dim`` the sines of the row, its cosines, the
        sines of the column and its cosines, at wavelengths from 2 pi to 10,000 times that.
    """
    quarter = dim // 4
    frequencies = 1 / 10_000.0 ** (torch.arange(quarter) / quarter)
    angles = torch.arange(side)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = waves.repeat_interleave(side, 0), waves.repeat(side, 1)
    class_token = torch.zeros(1, dim)
    return torch.cat([class_token, torch.cat([rows, columns], dim=1)])[None]


def _init_patches(projection: nn.Module) -> None:
    """Xavier's bound for the linear layer that a patch projection is."""
    assert isinstance(projection, nn.Conv2d), f"patches are projected by {projection}"
    dim, *patch = projection.weight.shape
    bound = math.sqrt(6 / (math.prod(patch) + dim))
    nn.init.uniform_(projection.weight, -bound, bound)
    assert projection.bias is not None, "the patch projection has no bias"
    nn.init.zeros_(projection.bias)


def _conv_stem(in_chans: int, dim: int) -> nn.Sequential:
    """Four 3x3 convolutions of stride 2 in place of 16-pixel patches (arXiv:2106.14881)."""
    layers: list[nn.Module] = []
    for channels in (dim // 8, dim // 4, dim // 2, dim):
        layers += [
            nn.Conv2d(in_chans, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        ]
        in_chans = channels
    return nn.Sequential(*layers, nn.Conv2d(dim, dim, 1))
