"""A Swin transformer as Detectron2's ``SwinTransformer`` takes it (Liu et al., arXiv:2103.14030).

Its names are the authors', which timm changed in one place: a stage's patches are merged at its
end there, at the beginning of the next stage in timm.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.exports.detectron2 import config_text, weights_bytes
from moco_eval.encoders.exports.export import Evidence, Export, record_of, tensors_of, write_synced
from moco_eval.encoders.reading.reader import read
from moco_eval.errors import UsageError

# The key of PATH.yaml under which its numbers stand.
KEY = "SWIN"
INDEX = "attn.relative_position_index"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The arguments of Detectron2's ``SwinTransformer``; ``norm_eps`` is its norm_layer's."""

    patch_size: int
    in_chans: int
    embed_dim: int
    depths: list[int]
    num_heads: list[int]
    window_size: int
    mlp_ratio: float
    qkv_bias: bool
    norm_eps: float


def is_swin(encoder: Encoder) -> bool:
    """Whether it is timm's Swin transformer, of the first version."""
    from timm.models.swin_transformer import SwinTransformer

    return isinstance(encoder.network, SwinTransformer)


def prepare(encoder: Encoder) -> Export:
    """Weights as ``detectron2.prepare`` writes them, and ``PATH.yaml``.

    Only the last of its output's norms was pretrained; Detectron2 trains those of the other levels
    from scratch. Detectron2 shifts windows even where one spans the whole map, timm does not, so
    both are shown images in which it never does.

    Raises:
        UsageError: If the windows are not the same square in all stages.
    """
    plan = plan_of(encoder)
    last = len(plan.depths) - 1
    tensors = {
        _to_detectron2(name, last): tensor
        for name, tensor in (tensors_of(encoder) | _indices(encoder.network)).items()
        if not name.startswith("head.")
    }
    record = record_of(encoder, encoder.arch)
    size = 2 * plan.window_size * plan.patch_size * 2**last
    network: Any = copy.deepcopy(encoder.network)
    network.set_input_size(img_size=(size, size), window_size=(plan.window_size,) * 2)

    def write(path: Path) -> None:
        write_synced(path, weights_bytes(tensors, record, path))
        text = yaml_of(encoder, plan, path.name)
        write_synced(path.with_name(f"{path.name}.yaml"), text.encode())

    return Export(
        arch=encoder.arch,
        write=write,
        expected=Evidence(
            library="timm", tensors=tensors, outputs=partial(_last_map, network, last)
        ),
        reload=partial(reload_without_detectron2, plan),
        image_size=size,
    )


def reload_without_detectron2(plan: Plan, path: Path) -> Evidence:
    """The file in a Swin transformer of timm's that is built from the same numbers."""
    from timm.models.swin_transformer import SwinTransformer

    tensors: dict[str, Tensor] = dict(read(path).root["model"])
    numbers = dataclasses.asdict(plan)
    norm_layer: Any = partial(nn.LayerNorm, eps=numbers.pop("norm_eps"))
    last = len(plan.depths) - 1
    size = 2 * plan.window_size * plan.patch_size * 2**last
    network: Any = SwinTransformer(img_size=size, num_classes=0, norm_layer=norm_layer, **numbers)
    places = {_to_detectron2(name, last): name for name in network.state_dict()}
    network.load_state_dict({places[n]: t for n, t in tensors.items() if not n.endswith(INDEX)})
    return Evidence(
        library="moco-eval",
        tensors=tensors,
        outputs=partial(_last_map, network.eval(), last),
    )


def yaml_of(encoder: Encoder, plan: Plan, name: str) -> str:
    """What a configuration of Detectron2's Swin must be told about the file ``name``."""
    comments = [
        f"What Detectron2 must be told about {name}: SwinTransformer's arguments, and the input.",
        "norm_eps is that of norm_layer: partial(nn.LayerNorm, eps=...).",
    ]
    return config_text(encoder, comments, section={KEY: dataclasses.asdict(plan)})


def plan_of(encoder: Encoder) -> Plan:
    """Detectron2's arguments of the encoder.

    Raises:
        UsageError: If no such arguments give this network.
    """
    network: Any = encoder.network
    blocks = [block for layer in network.layers for block in layer.blocks]
    windows = sorted({tuple(block.attn.window_size) for block in blocks})
    if len(windows) > 1 or windows[0][0] != windows[0][1]:
        raise UsageError(
            f"{encoder.arch} cannot be written for detectron2: it has windows of {windows}, where "
            "Detectron2's have one size in all stages. Take --to timm."
        )
    first = blocks[0]
    return Plan(
        patch_size=network.patch_embed.patch_size[0],
        in_chans=network.patch_embed.proj.in_channels,
        embed_dim=network.embed_dim,
        depths=[len(layer.blocks) for layer in network.layers],
        num_heads=[layer.blocks[0].attn.num_heads for layer in network.layers],
        window_size=windows[0][0],
        mlp_ratio=first.mlp.fc1.out_features / network.embed_dim,
        qkv_bias=first.attn.qkv.bias is not None,
        norm_eps=first.norm1.eps,
    )


def _to_detectron2(name: str, last: int) -> str:
    """The name that timm gives a tensor as Detectron2's; ``last`` numbers the last stage."""
    merged = re.sub(
        r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name
    )
    return re.sub(r"^norm\.", f"norm{last}.", merged)


def _indices(network: nn.Module) -> dict[str, Tensor]:
    """Which bias belongs to which pair of patches: a buffer that Detectron2 saves and timm not."""
    buffers = network.named_buffers()
    return {name: value.clone() for name, value in buffers if name.endswith(INDEX)}


def _last_map(network: Any, last: int, images: Tensor) -> dict[str, Tensor]:
    with torch.inference_mode():
        return {f"p{last}": network.forward_features(images).permute(0, 3, 1, 2)}
