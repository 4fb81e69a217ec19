"""Which architecture a file's tensors are of, by their names and shapes."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from moco_eval.encoders.encoder import is_counter
from moco_eval.encoders.networks import build_network
from moco_eval.encoders.networks.mocov3_vit import PLANS
from moco_eval.encoders.networks.resnets import STEM_CHANNELS, candidates, resnets
from moco_eval.encoders.networks.shapes import Family, Options, Shapes, count, family_of, told_by
from moco_eval.encoders.networks.timm_networks import (
    NORM_EPS,
    PREFIX,
    join_arch,
    split_arch,
    timm_knows,
)
from moco_eval.errors import UsageError

# Heads are 64 wide in most transformers, which no tensor tells.
HEAD_DIM = 64
# Of pooled means; the norm then comes after the pooling unless fc_norm says otherwise.
MEAN_POOLINGS = ("avg", "avgmax", "max")
RESNET_DEPTHS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
RESNET_DEPTHS |= {101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# Where the channels of the images stand.
STEMS = (
    *("conv1.weight", "conv1.0.weight", "stem.0.weight", "stem.conv.weight"),
    *("patch_embed.proj.weight", "patch_embed.proj.0.weight"),
)
# A network may be the second or third nearest by what is counted; more are not worth the time.
MOST_BUILT = 3
# CLIP's own GELU is a quicker one.
_QUICK = (
    *("base_patch16_clip{}_224", "base_patch32_clip{}_224", "large_patch14_clip{}_224"),
    *("large_patch14_clip{}_336", "huge_patch14_clip{}_224", "huge_patch14_clip{}_378"),
    "gigantic_patch14_clip{}_224",
)
# Architectures that have the same names and shapes and compute something else: another pooling in
# the strides, another activation, another eps, other heads, the stride at another place.
TWINS: tuple[tuple[str, ...], ...] = (
    ("resnet18", "timm:resnetblur18"),
    ("resnet50", "resnet50_v1", "timm:resnetaa50", "timm:resnetblur50"),
    ("resnet101", "resnet101_v1"),
    ("resnet152", "resnet152_v1"),
    ("timm:resnet34d", "timm:resnetaa34d"),
    ("timm:resnet50d", "timm:resnetaa50d", "timm:resnetblur50d"),
    ("timm:resnet101d", "timm:resnetaa101d", "timm:resnetblur101d"),
    ("timm:vit_small_patch16_224", "vit_small_mocov3"),
    *((f"timm:vit_{name.format('')}", f"timm:vit_{name.format('_quickgelu')}") for name in _QUICK),
)


def infer_arch(
    tensors: Mapping[str, Tensor],
    *,
    heads: Mapping[int, int] | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[str, float]:
    """The architecture whose names and shapes are nearest to ``tensors``.

    Args:
        tensors: Under canonical names, torchvision's for ResNets and timm's for others, without
            classifier.
        heads: How many heads a transformer of a width has where its format knows another number
            than the named network has, or than one for 64 channels.
        options: What the format knows and weights cannot tell, as options of timm's: ``norm_eps``,
            ``act_layer``, ``global_pool``.

    Returns:
        The architecture, with as few options as it takes, and on how many of all names, theirs
        and its own, both agree: 1 is equality.

    Raises:
        UsageError: If nothing says how many heads a transformer has.
    """
    shapes = {n: tuple(t.shape) for n, t in tensors.items() if not is_counter(n)}
    in_chans = next((shapes[n][1] for n in STEMS if len(shapes.get(n, ())) == 4), 3)
    family = family_of(shapes)
    told = told_by(family, shapes) if family else None
    if family is None or told is None:
        archs = _resnets(shapes)
    else:
        names = family.names(shapes, told)[:MOST_BUILT]
        known = _Known(heads or {}, options or {})
        archs = (_with_options(family, name, shapes, told, known) for name in names)
    best, agreement = "", -1.0
    for arch in itertools.islice(archs, MOST_BUILT):
        share = _share(set(shapes.items()), arch, in_chans)
        if share > agreement:
            best, agreement = arch, share
        if agreement == 1:
            break
    return best, agreement


def twins_of(arch: str) -> tuple[str, ...]:
    """Architectures with the names and shapes of ``arch`` that compute something else."""
    name, _ = split_arch(arch)
    return tuple(other for group in TWINS if name in group for other in group if other != name)


class _Known(NamedTuple):
    """What the format knows: heads by width, and options."""

    heads: Mapping[int, int]
    options: Mapping[str, Any]


def _with_options(family: Family, name: str, shapes: Shapes, told: Options, known: _Known) -> str:
    """The network ``name`` of timm's, with options where the tensors or the format differ."""
    network = _planned(PREFIX + name, 3)
    own = family.options({n: tuple(t.shape) for n, t in network.state_dict().items()})
    own["global_pool"] = getattr(network, "global_pool", None)
    wanted = {**told, **known.options}
    eps = wanted.pop(NORM_EPS, None)
    if eps is not None and any(norm.eps != eps for norm in _layer_norms(network)):
        wanted[NORM_EPS] = eps
    if "fc_norm" in wanted or wanted.get("global_pool") != told.get("global_pool"):
        wanted |= _norm_place(shapes, wanted)
    if "num_heads" not in told and "embed_dim" in told:
        own["num_heads"] = network.get_submodule("blocks.0.attn").num_heads
        wanted["num_heads"] = _heads(told["embed_dim"], own, known.heads)
    beyond = {k: v for k, v in wanted.items() if v is not None and v != own.get(k)}
    return join_arch(PREFIX + name, beyond)


def _norm_place(shapes: Shapes, wanted: Options) -> Options:
    """Whether the last norm comes after the pooling, where timm would have it otherwise."""
    if "reg_tokens" not in wanted:
        return {}
    after = "fc_norm.weight" in shapes
    usual = wanted["global_pool"] in MEAN_POOLINGS
    return {"fc_norm": after if after != usual else None}


def _heads(dim: int, own: Options, heads: Mapping[int, int]) -> int:
    """How many heads a transformer has that is ``dim`` wide; ``own`` is the named network's."""
    if dim in heads:
        return heads[dim]
    if dim == own["embed_dim"]:
        number: int = own["num_heads"]
        return number
    if dim % HEAD_DIM:
        raise UsageError(
            f"A transformer {dim} wide does not say how many heads it has, and its format does "
            "not know. Say it with the architecture, as in "
            f"--arch timm:vit_tiny_patch16_224:embed_dim={dim},num_heads=3."
        )
    return dim // HEAD_DIM


def _layer_norms(network: nn.Module) -> Iterator[nn.LayerNorm]:
    return (module for module in network.modules() if isinstance(module, nn.LayerNorm))


def _share(found: set[tuple[str, tuple[int, ...]]], arch: str, in_chans: int) -> float:
    state = _planned(arch, in_chans).state_dict()
    expected = {(n, tuple(value.shape)) for n, value in state.items() if not is_counter(n)}
    return len(found & expected) / max(len(found | expected), 1)


@functools.lru_cache(maxsize=16)
def _planned(arch: str, in_chans: int) -> nn.Module:
    """The network on no device: its names and shapes."""
    with torch.device("meta"):
        return build_network(arch, in_chans=in_chans)


def _resnets(shapes: Shapes) -> Iterator[str]:
    """Names of networks that are like it in blocks, groups and stem, the nearest first."""
    if "patch_embed.proj.0.weight" in shapes:
        yield from (name for name, plan in PLANS.items() if plan.conv_stem)
        return
    blocks = tuple(count(shapes, f"layer{stage}.") for stage in (1, 2, 3, 4))
    is_bottleneck = "layer1.0.conv3.weight" in shapes
    deep = "d" if "conv1.0.weight" in shapes else ""
    depth = 2 + sum(blocks) * (3 if is_bottleneck else 2)
    if (deep or depth not in RESNET_DEPTHS) and timm_knows(f"{PREFIX}resnet{depth}{deep}"):
        yield f"{PREFIX}resnet{depth}{deep}"
    stem = shapes.get("conv1.weight", ())
    names = candidates(torch.empty(stem, device="meta")) if len(stem) == 4 else resnets()
    found = (blocks, is_bottleneck, shapes.get("layer1.0.conv2.weight", ())[:2], stem[::3])

    def mismatches(arch: str) -> tuple[int, ...]:
        number, *others = _resnet_plan(arch)
        differences = (abs(a - b) for a, b in zip(number, blocks, strict=True))
        return (sum(differences), *(a != b for a, b in zip(others, found[1:], strict=True)))

    yield from sorted(names, key=mismatches)


def _resnet_plan(
    arch: str,
) -> tuple[tuple[int, ...], bool, tuple[int, ...], tuple[int, ...]]:
    """A ResNet's blocks, their kind, the first grouped convolution, the stem: as shapes say it."""
    match = re.search(r"resne[xX]?t(\d+)", arch)
    depth = int(match[1]) if match else 0
    width = int(w[1]) if (w := re.search(r"_w(\d)x", arch)) else 1
    groups, channels = 1, STEM_CHANNELS
    if grouped := re.search(r"_(\d+)x(\d+)d", arch):
        groups, channels = int(grouped[1]), int(grouped[2])
    elif arch.startswith("wide_"):
        channels = 2 * STEM_CHANNELS
    small = arch.startswith("resnet10_small")
    channels, stem = (16, 16) if small else (channels, STEM_CHANNELS)
    side = 3 if small or "_cifar" in arch else 7
    conv = (groups * channels * width, channels * width)
    return RESNET_DEPTHS.get(depth, (0, 0, 0, 0)), depth >= 50, conv, (stem * width, side)
