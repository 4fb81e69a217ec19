"""What renaming alone does not do to make a transformer's tensors timm's: they are joined or cut.

Each function takes tensors under the names that a row's ``rename`` gives, changes none of them, and
says with a ``ValueError`` what is not as it must be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

# DINOv3's rotary positions: in steps of a head's quarter from a period of 1 to this one.
LONGEST_PERIOD = 100.0
# Published periods are rounded to bfloat16, which has 8 bits.
PERIOD_TOLERANCE = 2**-7


def with_registers(tensors: Tensors) -> Tensors:
    """DINOv2's positions as timm has them where there are registers: of patches alone.

    The class token's position, which the authors add to the token, becomes a part of it.
    """
    if "reg_token" not in tensors or "cls_token" not in tensors:
        return dict(tensors)
    positions = tensors["pos_embed"]
    return tensors | {
        "cls_token": tensors["cls_token"] + positions[:, :1],
        "pos_embed": positions[:, 1:],
    }


def with_joined_qkv(tensors: Tensors) -> Tensors:
    """Queries, keys and values, three layers at their author's, as one: ``attn.qkv``."""
    return _joined(tensors, ("attn.q", "attn.k", "attn.v"), "attn.qkv")


def from_hf_dinov2(tensors: Tensors) -> Tensors:
    """Hugging Face's DINOv2: layers joined, and positions of patches alone.

    In memory the gate and what it lets through are two layers as well.
    """
    joined = _joined(with_joined_qkv(tensors), ("mlp.gate_proj", "mlp.up_proj"), "mlp.fc1")
    return with_registers(joined)


def from_dinov3(tensors: Tensors) -> Tensors:
    """DINOv3's attention, whose keys have no bias: timm keeps those of queries and values.

    The authors keep a bias of all three and a mask that removes the keys', and the rotary
    positions' periods, which timm computes.

    Raises:
        ValueError: If keys have a bias, or periods are other than timm's.
    """
    result = dict(tensors)
    _require_periods(result.pop("rope_embed.periods", None))
    for block, _ in _blocks(tensors, r"attn\.qkv\.(bias)"):
        bias = result.pop(f"{block}attn.qkv.bias")
        mask = result.pop(f"{block}attn.qkv.bias_mask", torch.ones_like(bias))
        # A product would make a number of what the mask removes only where that is one.
        queries, keys, values = torch.where(mask == 0, 0, bias * mask).chunk(3)
        if keys.count_nonzero():
            raise ValueError(f"the keys of {block}attn have a bias, and DINOv3's have none.")
        result |= {f"{block}attn.q_bias": queries, f"{block}attn.v_bias": values}
    return result


def from_hf_dinov3(tensors: Tensors) -> Tensors:
    """Hugging Face's DINOv3: three layers joined, of which queries and values have a bias.

    The layer that goes up is an MLP's first, and beside a gate what the gate lets through.

    Raises:
        ValueError: If keys have a bias.
    """
    result = dict(tensors)
    for block, _ in _blocks(tensors, r"attn\.q\.(bias)"):
        if f"{block}attn.k.bias" in result:
            raise ValueError(f"the keys of {block}attn have a bias, and DINOv3's have none.")
        for part in ("q", "v"):
            result[f"{block}attn.{part}_bias"] = _taken(result, f"{block}attn.{part}.bias")
    for block, kind in _blocks(tensors, r"mlp\.up_proj\.(weight|bias)"):
        first = "fc1_x" if f"{block}mlp.fc1_g.weight" in result else "fc1"
        result[f"{block}mlp.{first}.{kind}"] = result.pop(f"{block}mlp.up_proj.{kind}")
    return with_joined_qkv(result)


def from_clip(tensors: Tensors) -> Tensors:
    """CLIP's class token ``(D,)`` and positions ``(N, D)`` with the dimensions that timm's have."""
    return {
        name: value.reshape(1, -1, value.shape[-1]) if name in ("cls_token", "pos_embed") else value
        for name, value in tensors.items()
    }


def from_hf_clip(tensors: Tensors) -> Tensors:
    """Hugging Face's CLIP and SigLIP: as ``from_clip``, and three layers joined.

    SigLIP's pooling attends with a matrix of queries, keys and values; timm's keeps the queries'
    apart.
    """
    result = with_joined_qkv(from_clip(tensors))
    for kind in ("weight", "bias"):
        if f"attn_pool.qkv.{kind}" in result:
            queries, keys, values = result.pop(f"attn_pool.qkv.{kind}").chunk(3)
            result[f"attn_pool.q.{kind}"] = queries
            result[f"attn_pool.kv.{kind}"] = torch.cat([keys, values])
    return result


def _joined(tensors: Tensors, parts: tuple[str, ...], whole: str) -> Tensors:
    result = dict(tensors)
    for block, kind in _blocks(tensors, rf"{re.escape(parts[0])}\.(weight|bias)"):
        layers = [_taken(result, f"{block}{part}.{kind}") for part in parts]
        result[f"{block}{whole}.{kind}"] = torch.cat(layers)
    return result


def _blocks(tensors: Tensors, ending: str) -> Iterator[tuple[str, str]]:
    """What stands before ``ending`` in names that end so, and its group."""
    for name in tensors:
        if found := re.fullmatch(rf"(.*\.){ending}", name):
            yield found[1], found[2]


def _taken(tensors: Tensors, name: str) -> Tensor:
    if name not in tensors:
        raise ValueError(f"it lacks {name}, which is joined with others.")
    return tensors.pop(name)


def _require_periods(periods: Tensor | None) -> None:
    if periods is None:
        return
    exponents = torch.arange(len(periods)) / len(periods)
    off = (periods.float() / LONGEST_PERIOD**exponents - 1).abs().max()
    # Written so that a NaN is refused.
    if not off <= PERIOD_TOLERANCE:
        raise ValueError(
            f"its rotary positions' periods are not 1 to {LONGEST_PERIOD:.0f} as DINOv3's: "
            f"{[round(float(period), 2) for period in periods[:4]]}, ..."
        )
