"""What names and shapes tell of a timm network: its nearest name, and the options that it needs.

Each ``Family`` is read by one function, which serves twice: it reads a file's tensors and those of
the named network, and where the two differ stands an option. So no number of timm's is repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

Shapes = Mapping[str, tuple[int, ...]]
Options = dict[str, Any]

# timm's words for a width, where a name of the pattern exists.
WIDTHS = {"tiny": 192, "small": 384, "medium": 512, "base": 768, "large": 1024}
WIDTHS |= {"so400m": 1152, "huge": 1280, "giant": 1408, "gigantic": 1664}
DINOV2_WIDTHS = {"small": 384, "base": 768, "large": 1024}
DINOV3_WIDTHS = {"tiny": 192, "small": 384, "base": 768, "large": 1024}
DINOV3_GATED_WIDTHS = {"small_plus": 384, "huge_plus": 1280, "7b": 4096}
PATCHES = (16, 14, 32, 8)
IMAGES = (224, 256, 336, 378, 384, 448, 512, 518)
# Channels of the first stage, and blocks of the third.
CONVNEXTS = {"atto": (40, 6), "femto": (48, 6), "pico": (64, 6), "nano": (80, 8), "tiny": (96, 9)}
CONVNEXTS |= {"small": (96, 27), "base": (128, 27), "large": (192, 27), "xlarge": (256, 27)}
CONVNEXTS |= {"huge": (352, 27), "xxlarge": (384, 30)}
SWINS = {"tiny": (96, 6), "small": (96, 18), "base": (128, 18), "large": (192, 18)}


class Family(NamedTuple):
    """Networks that one function of options reads.

    Attributes:
        mark: A tensor that each of them has.
        options: What the tensors tell of their plan, as arguments of ``timm.create_model``; None
            where the argument's absence says it.
        names: timm's names for networks with such tensors and options, the nearest first.
    """

    mark: str
    options: Callable[[Shapes], Options]
    names: Callable[[Shapes, Options], list[str]]


def family_of(shapes: Shapes) -> Family | None:
    """The family of a network by its names; None for ResNets and what nobody knows."""
    vit = "patch_embed.proj.weight" in shapes
    for family in FAMILIES:
        if family.mark in shapes and (vit or not family.mark.startswith("blocks.")):
            return family
    return None


def told_by(family: Family, shapes: Shapes) -> Options | None:
    """The options of ``family`` that the tensors tell; None where they lack one that decides."""
    try:
        return family.options(shapes)
    except (ArithmeticError, LookupError, ValueError):
        return None


def count(shapes: Shapes, prefix: str) -> int:
    """How many different numbers follow ``prefix`` in the names."""
    rests = (name.removeprefix(prefix) for name in shapes if name.startswith(prefix))
    return len({rest.partition(".")[0] for rest in rests})


def _vit_names(shapes: Shapes, options: Options) -> list[str]:
    registers = "_reg4" if options["reg_tokens"] else ""
    if _is_packed(shapes):
        return _existing([f"vit_giant_patch14{registers}_dinov2"])
    widths = WIDTHS
    if "dist_token" in shapes:
        pattern = "deit_{size}_distilled_patch{patch}_{image}"
    elif "attn_pool.latent" in shapes:
        pattern = "vit_{size}_patch{patch}_siglip_{image}"
    elif options["pre_norm"]:
        pattern = "vit_{size}_patch{patch}_clip_{image}"
    elif options["init_values"] and options["no_embed_class"] and not registers:
        pattern = "deit3_{size}_patch{patch}_{image}"
    elif options["init_values"] or registers:
        pattern, widths = f"vit_{{size}}_patch{{patch}}{registers}_dinov2", DINOV2_WIDTHS
    else:
        pattern = "vit_{size}_patch{patch}_{image}"
    return _named(pattern, options, widths)


def _vit_options(shapes: Shapes) -> Options:
    dim, _, _, patch = shapes["patch_embed.proj.weight"]
    has_class, registers = "cls_token" in shapes, shapes.get("reg_token", (1, 0))[1]
    prefix = has_class + registers + ("dist_token" in shapes)
    positions = shapes.get("pos_embed", (1, 0, dim))[-2]
    # Registers have no position in timm's networks; 4 + 5 would be a square with or without them.
    embedded = [n for n in sorted({0, prefix}, reverse=not registers) if _is_square(positions - n)]
    options: Options = {
        "embed_dim": dim,
        "depth": count(shapes, "blocks."),
        "patch_size": patch,
        "mlp_ratio": _ratio(shapes["blocks.0.mlp.fc1.weight"][0], dim),
        "qkv_bias": "blocks.0.attn.qkv.bias" in shapes,
        "qk_norm": "blocks.0.attn.q_norm.weight" in shapes,
        "init_values": 1e-5 if "blocks.0.ls1.gamma" in shapes else None,
        "class_token": has_class,
        "reg_tokens": registers,
        "pre_norm": "norm_pre.weight" in shapes,
        "pos_embed": "learn" if positions else "none",
        **_pooling(shapes, has_class),
    }
    if embedded:
        options["img_size"] = patch * math.isqrt(positions - embedded[0])
        options["no_embed_class"] = bool(prefix) and embedded[0] == 0
    else:
        options["no_embed_class"] = False
    return options


def _pooling(shapes: Shapes, has_class: bool) -> Options:
    """How such a ViT pools, as far as its norms tell: after pooling stands ``fc_norm``."""
    if "attn_pool.latent" in shapes:
        return {"global_pool": "map"}
    if "fc_norm.weight" in shapes:
        return {"global_pool": "avg"}
    final = {} if "norm.weight" in shapes else {"final_norm": False}
    if has_class:
        return {"global_pool": "token", **final}
    return {"global_pool": "avg", "fc_norm": False, **final}


def _eva_names(shapes: Shapes, options: Options) -> list[str]:
    biases = ("_qkvb", "") if options["qkv_bias"] else ("", "_qkvb")
    widths = DINOV3_GATED_WIDTHS if options["swiglu_mlp"] else DINOV3_WIDTHS
    names = [_named("vit_{size}_patch{patch}_dinov3" + bias, options, widths) for bias in biases]
    # Of equal bias, a name of another width is nearer than the same width of another bias.
    return [name for named in names for name in named]


def _eva_options(shapes: Shapes) -> Options:
    dim, _, _, patch = shapes["patch_embed.proj.weight"]
    gated = "blocks.0.mlp.fc1_g.weight" in shapes
    hidden = shapes[f"blocks.0.mlp.{'fc1_g' if gated else 'fc1'}.weight"][0]
    return {
        "embed_dim": dim,
        "depth": count(shapes, "blocks."),
        "patch_size": patch,
        "mlp_ratio": _ratio(hidden, dim),
        "swiglu_mlp": gated,
        "qkv_bias": any(f"blocks.0.attn.{n}" in shapes for n in ("q_bias", "qkv.bias")),
        "class_token": "cls_token" in shapes,
        "num_reg_tokens": shapes.get("reg_token", (1, 0))[1],
        "use_fc_norm": "fc_norm.weight" in shapes,
    }


def _convnext_names(shapes: Shapes, options: Options) -> list[str]:
    family = "convnextv2" if options["use_grn"] else "convnext"
    found = (options["dims"][0], options["depths"][min(2, len(options["depths"]) - 1)])
    return _existing(f"{family}_{size}" for size in _nearest(CONVNEXTS, found))


def _convnext_options(shapes: Shapes) -> Options:
    stages = range(count(shapes, "stages."))
    first = [f"stages.{stage}.blocks.0" for stage in stages]
    kernels = {shapes[f"{block}.conv_dw.weight"][-1] for block in first}
    return {
        "depths": [count(shapes, f"stages.{stage}.blocks.") for stage in stages],
        "dims": [shapes[f"{block}.conv_dw.weight"][0] for block in first],
        "kernel_sizes": kernels.pop() if len(kernels) == 1 else None,
        "patch_size": shapes["stem.0.weight"][-1],
        "conv_mlp": len(shapes[f"{first[0]}.mlp.fc1.weight"]) == 4,
        "conv_bias": "stem.0.bias" in shapes,
        "use_grn": f"{first[0]}.mlp.grn.weight" in shapes,
        "ls_init_value": 1e-6 if f"{first[0]}.gamma" in shapes else None,
        "head_norm_first": "norm_pre.weight" in shapes,
    }


def _swin_names(shapes: Shapes, options: Options) -> list[str]:
    found = (options["embed_dim"], options["depths"][min(2, len(options["depths"]) - 1)])
    tail = "window12_384" if options["window_size"] == 12 else "window7_224"
    sizes = _nearest(SWINS, found)
    return _existing(f"swin_{size}_patch4_{end}" for size in sizes for end in (tail, "window7_224"))


def _swin_options(shapes: Shapes) -> Options:
    dim, _, _, patch = shapes["patch_embed.proj.weight"]
    stages = range(count(shapes, "layers."))
    tables = [shapes[f"layers.{s}.blocks.0.attn.relative_position_bias_table"] for s in stages]
    # (2w - 1)^2 offsets lie within a window of w x w.
    windows = [(math.isqrt(rows) + 1) // 2 for rows, _ in tables]
    # A window is no larger than its stage, so the first that is smaller is its whole stage.
    stage = next((s for s in stages if windows[s] < windows[0]), stages[-1])
    return {
        "embed_dim": dim,
        "depths": [count(shapes, f"layers.{s}.blocks.") for s in stages],
        "num_heads": [heads for _, heads in tables],
        "window_size": windows[0],
        "patch_size": patch,
        "img_size": windows[stage] * patch * 2**stage,
        "mlp_ratio": _ratio(shapes["layers.0.blocks.0.mlp.fc1.weight"][0], dim),
        "qkv_bias": "layers.0.blocks.0.attn.qkv.bias" in shapes,
    }


def _regnet_names(shapes: Shapes, options: Options) -> list[str]:
    from timm.models.regnet import model_cfgs

    depth = sum(count(shapes, f"s{stage}.b") for stage in (1, 2, 3, 4))
    width = shapes["s1.b1.conv1.conv.weight"][0]
    family = "regnety_" if "s1.b1.se.fc1.weight" in shapes else "regnetx_"
    near = sorted(
        (name for name in model_cfgs if name.startswith(family) and name[-1].isdigit()),
        key=lambda name: (
            abs(model_cfgs[name].depth - depth),
            abs(model_cfgs[name].w0 - width),
            name,
        ),
    )
    return _existing(near)


def _named(pattern: str, options: Options, widths: Mapping[str, int] = WIDTHS) -> list[str]:
    """The names of a pattern that timm knows, by nearness of width, then patch, then image."""
    patches = sorted(PATCHES, key=lambda patch: abs(patch - options["patch_size"]))
    image = options.get("img_size", 0)
    images = sorted(IMAGES, key=lambda size: (size != image, size))
    return _existing(
        pattern.format(size=size, patch=patch, image=size_in_pixels)
        for size in _nearest({n: (w,) for n, w in widths.items()}, (options["embed_dim"],))
        for patch in patches
        for size_in_pixels in images
    )


def _nearest(sizes: Mapping[str, tuple[int, ...]], found: tuple[int, ...]) -> list[str]:
    """The words of ``sizes`` by the ratios between their numbers and those found."""

    def distance(word: str) -> tuple[float, ...]:
        return tuple(abs(math.log(a / b)) for a, b in zip(sizes[word], found, strict=True))

    return sorted(sizes, key=distance)


def _existing(names: Iterable[str]) -> list[str]:
    import timm

    return [name for name in dict.fromkeys(names) if timm.is_model(name)]


def _is_packed(shapes: Shapes) -> bool:
    """Whether the MLP is gated, gate and value in one matrix, as DINOv2-giant's SwiGLU."""
    return shapes["blocks.0.mlp.fc1.weight"][0] == 2 * shapes["blocks.0.mlp.fc2.weight"][1]


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def _ratio(hidden: int, dim: int) -> float:
    """A ratio of which ``int(dim * ratio)`` is ``hidden``, whatever floats lose."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else (hidden + 0.5) / dim


FAMILIES = (
    Family("blocks.0.gamma_1", _eva_options, _eva_names),
    Family("blocks.0.attn.qkv.weight", _vit_options, _vit_names),
    Family("layers.0.blocks.0.attn.relative_position_bias_table", _swin_options, _swin_names),
    Family("stages.0.blocks.0.conv_dw.weight", _convnext_options, _convnext_names),
    Family("s1.b1.conv1.conv.weight", lambda shapes: {}, _regnet_names),
)
