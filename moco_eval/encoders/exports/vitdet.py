"""A vision transformer as Detectron2's ViTDet takes it (Li et al., arXiv:2203.16527).

Its ``ViT`` has timm's names and no class token: patches attend to patches alone. What it has no
place for is folded exactly (LayerScale), left out (what comes after the blocks), or refused.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.exports.detectron2 import config_text, weights_bytes
from moco_eval.encoders.exports.export import Evidence, Export, record_of, tensors_of, write_synced
from moco_eval.encoders.reading.reader import read, shortened
from moco_eval.errors import UsageError

# The key of PATH.yaml under which ViTDet's numbers stand: its own configurations are programs.
KEY = "VITDET"
# What follows the blocks, and the token that ViTDet does not have. A bare norm.weight would also
# match every norm of its pyramid.
LEFT_OUT = ("cls_token", "mask_token", "norm.", "fc_norm.", "head.", "attn_pool.")
PARTS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The arguments of Detectron2's ``ViT``; ``norm_eps`` is its norm_layer's."""

    patch_size: int
    in_chans: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    qkv_bias: bool
    norm_eps: float
    pretrain_img_size: int
    pretrain_use_cls_token: bool


def is_transformer(encoder: Encoder) -> bool:
    """Whether it has a transformer's patches and blocks, by its names."""
    names = encoder.tensors()
    return any(n.startswith("patch_embed.") for n in names) and "blocks.0.attn.proj.weight" in names


def prepare(encoder: Encoder, *, position_size: int | None = None) -> Export:
    """Weights as ``detectron2.prepare`` writes them, and ``PATH.yaml``.

    Args:
        encoder: A plain vision transformer of timm's.
        position_size: Side in pixels of the images for which positions are resampled; those of
            the encoder if left out. ViTDet itself resamples them to each image.

    Raises:
        UsageError: If ViTDet has no such transformer, with all reasons.
    """
    if reasons := objections(encoder):
        raise UsageError(
            f"{encoder.arch} cannot be written for detectron2: it has {shortened(reasons)}. "
            "Take --to timm, and a detector on timm's own network."
        )
    positions = _positions(encoder.network, position_size)
    plan = plan_of(encoder.network, positions)
    tensors = folded_tensors(encoder) | {"pos_embed": positions}
    record = record_of(encoder, encoder.arch)

    def write(path: Path) -> None:
        write_synced(path, weights_bytes(tensors, record, path))
        text = yaml_of(encoder, plan, path.name)
        write_synced(path.with_name(f"{path.name}.yaml"), text.encode())

    outputs = partial(_blocks_on_patches, encoder.network, positions)
    return Export(
        arch=encoder.arch,
        write=write,
        expected=Evidence(library="timm", tensors=tensors, outputs=outputs),
        reload=partial(reload_without_detectron2, plan),
        image_size=plan.pretrain_img_size,
    )


def reload_without_detectron2(plan: Plan, path: Path) -> Evidence:
    """The file in a transformer of timm's that has nothing but what ViTDet's has."""
    from timm.models.vision_transformer import VisionTransformer

    tensors: dict[str, Tensor] = dict(read(path).root["model"])
    numbers = dataclasses.asdict(plan)
    eps, size = numbers.pop("norm_eps"), numbers.pop("pretrain_img_size")
    cls_rows = int(numbers.pop("pretrain_use_cls_token"))
    network = VisionTransformer(
        **numbers,
        img_size=size,
        class_token=False,
        global_pool="",
        final_norm=False,
        num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=eps),
    )
    network.load_state_dict(tensors | {"pos_embed": tensors["pos_embed"][:, cls_rows:]})
    network.eval()

    def outputs(images: Tensor) -> dict[str, Tensor]:
        with torch.inference_mode():
            return {"last_feat": _as_map(network(images))}

    return Evidence(library="moco-eval", tensors=tensors, outputs=outputs)


def yaml_of(encoder: Encoder, plan: Plan, name: str) -> str:
    """What a ViTDet configuration must be told about the file ``name``."""
    comments = [
        f"What ViTDet must be told about {name}: model.backbone.net's arguments, and the input.",
        "norm_eps is that of norm_layer: partial(nn.LayerNorm, eps=...). The class token is left",
        "out: in ViTDet patches attend to patches alone.",
    ]
    return config_text(encoder, comments, section={KEY: dataclasses.asdict(plan)})


def objections(encoder: Encoder) -> list[str]:
    """What ViTDet cannot express of a transformer, each in a few words; empty if it fits."""
    return list(_structure_objections(encoder.network)) or _misfits(encoder)


def _structure_objections(network: nn.Module) -> Iterator[str]:
    """What ViTDet cannot express, each in a few words."""
    from timm.models.vision_transformer import VisionTransformer

    parts: Any = network
    if not isinstance(network, VisionTransformer):
        rotary = "rotary positions (RoPE)" if getattr(parts, "rope", None) is not None else ""
        yield rotary or f"the blocks of a {type(network).__name__}, which are no plain ViT's"
        return
    yield from _stem_objections(parts)
    if getattr(parts, "reg_token", None) is not None:
        yield f"{parts.num_reg_tokens} register tokens, to which all patches attend"
    if hasattr(parts, "dist_token"):
        yield "a distillation token"
    if not isinstance(parts.norm_pre, nn.Identity):
        yield "a norm before the blocks (norm_pre), as CLIP's have"
    yield from _block_objections(parts)


def _stem_objections(parts: Any) -> Iterator[str]:
    projection = getattr(parts.patch_embed, "proj", None)
    if not isinstance(projection, nn.Conv2d) or projection.kernel_size != projection.stride:
        yield "a stem of several convolutions in the place of a patch projection"
        return
    height, width = projection.kernel_size
    if height != width or height & (height - 1):
        yield f"patches of {height}x{width} pixels: ViTDet's pyramid needs a power of two"
    if not isinstance(getattr(parts.patch_embed, "norm", None), (nn.Identity, type(None))):
        yield "a norm in its patch embedding"
    if parts.pos_embed is None:
        yield "no absolute positions"
    elif len(set(parts.patch_embed.grid_size)) > 1:
        yield f"positions on a grid of {parts.patch_embed.grid_size}, which is no square"


def _block_objections(parts: Any) -> Iterator[str]:
    from timm.layers.attention import Attention
    from timm.layers.layer_scale import LayerScale
    from timm.layers.mlp import Mlp
    from timm.models.vision_transformer import Block

    # Also where networks are made without memory.
    probe = torch.linspace(-3, 3, 7, device="cpu")
    for block in parts.blocks:
        if type(block) is not Block or not isinstance(block.attn, Attention):
            yield f"blocks of the kind {type(block).__name__}"
            return
        if not isinstance(block.mlp, Mlp):
            yield f"an MLP of the kind {type(block.mlp).__name__}, such as SwiGLU"
            return
        if not torch.allclose(block.mlp.act(probe), F.gelu(probe), atol=1e-6):
            yield f"the activation {type(block.mlp.act).__name__}, where ViTDet's is the exact GELU"
        if not isinstance(block.attn.q_norm, nn.Identity):
            yield "norms of queries and keys (q_norm)"
        if not all(isinstance(norm, nn.LayerNorm) for norm in (block.norm1, block.norm2)):
            yield f"norms of the kind {type(block.norm1).__name__}"
        if not all(isinstance(s, (LayerScale, nn.Identity)) for s in (block.ls1, block.ls2)):
            yield f"a scale of the kind {type(block.ls1).__name__}"
        break


def _misfits(encoder: Encoder) -> list[str]:
    """Tensors that ViTDet has no place for, and those that it has and the encoder lacks."""
    blocks: Any = encoder.network.get_submodule("blocks")
    places = {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    for number in range(len(blocks)):
        places |= {
            f"blocks.{number}.{part}.{kind}" for part in PARTS for kind in ("weight", "bias")
        }
    names = {
        name
        for name in tensors_of(encoder)
        if not name.startswith(LEFT_OUT) and not name.endswith((".ls1.gamma", ".ls2.gamma"))
    }
    lacking = {name for name in places - names if not name.endswith("attn.qkv.bias")}
    return [f"{name}, for which ViTDet has no place" for name in sorted(names - places)] + [
        f"no {name}" for name in sorted(lacking)
    ]


def _positions(network: nn.Module, size: int | None) -> Tensor:
    """The position embedding, its class token's row first if it has one, for ``size`` pixels."""
    from timm.layers.pos_embed import resample_abs_pos_embed

    parts: Any = network
    positions: Tensor = parts.pos_embed.detach().clone()
    patch: int = parts.patch_embed.patch_size[0]
    if size is None:
        return positions
    if size % patch:
        raise UsageError(
            f"Positions for images of {size} pixels need whole patches of {patch}. "
            "Take a multiple of that."
        )
    old, new = list(parts.patch_embed.grid_size), [size // patch] * 2
    prefix = positions.shape[1] - math.prod(old)
    resampled: Tensor = resample_abs_pos_embed(positions, new, old, num_prefix_tokens=prefix)
    return resampled.contiguous()


def plan_of(network: nn.Module, positions: Tensor) -> Plan:
    """What ViTDet is told of ``network``, whose position embedding is ``positions``."""
    parts: Any = network
    block, patch = parts.blocks[0], parts.patch_embed.patch_size[0]
    side = math.isqrt(positions.shape[1])
    return Plan(
        patch_size=patch,
        in_chans=parts.patch_embed.proj.in_channels,
        embed_dim=parts.embed_dim,
        depth=len(parts.blocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=block.mlp.fc1.out_features / parts.embed_dim,
        qkv_bias=block.attn.qkv.bias is not None,
        norm_eps=block.norm1.eps,
        pretrain_img_size=patch * side,
        # A square number of rows and one more: the class token's.
        pretrain_use_cls_token=positions.shape[1] != side * side,
    )


def folded_tensors(encoder: Encoder) -> dict[str, Tensor]:
    """Patch projection and blocks; each LayerScale multiplied into the layer before it."""
    tensors = tensors_of(encoder)
    for name in [name for name in tensors if name.endswith(".gamma")]:
        gamma = tensors.pop(name)
        layer = name.replace("ls1.gamma", "attn.proj").replace("ls2.gamma", "mlp.fc2")
        tensors[f"{layer}.weight"] *= gamma[:, None]
        tensors[f"{layer}.bias"] *= gamma
    return {name: value for name, value in tensors.items() if not name.startswith(LEFT_OUT)}


def _blocks_on_patches(network: nn.Module, positions: Tensor, images: Tensor) -> dict[str, Tensor]:
    """What timm's own blocks make of patches without a class token, before the last norm."""
    parts: Any = network
    with torch.inference_mode():
        patches = parts.patch_embed.proj(images).flatten(2).transpose(1, 2)
        hidden = parts.blocks(patches + positions[:, -patches.shape[1] :])
        return {"last_feat": _as_map(hidden)}


def _as_map(tokens: Tensor) -> Tensor:
    """``(N, side * side, D)`` to ``(N, D, side, side)``."""
    side = math.isqrt(tokens.shape[1])
    return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)
