"""Hugging Face's transformers: folders whose configurations say what their tensors cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from moco_eval.data.images import InputSpec
from moco_eval.encoders.formats.layout import Format, Pairs, Said, Tower, said_at
from moco_eval.encoders.formats.transforms import (
    from_hf_clip,
    from_hf_dinov2,
    from_hf_dinov3,
    with_joined_qkv,
)
from moco_eval.encoders.reading.reader import CONFIG

PREPROCESSOR = "preprocessor_config.json"
_SOURCE = "huggingface/transformers 5.24.0: src/transformers/models/"
_SQUASHED = (
    "images that are not square lose their sides, where the author's processor may squash them"
)


class _Defaults(NamedTuple):
    """What a configuration leaves out where it is so."""

    width: int
    heads: int
    eps: float
    activation: str


# By ``model_type``; other types have names like these and compute something else.
DEFAULTS = {
    "vit": _Defaults(768, 12, 1e-12, "gelu"),
    "vit_mae": _Defaults(768, 12, 1e-12, "gelu"),
    "vit_msn": _Defaults(768, 12, 1e-6, "gelu"),
    "ijepa": _Defaults(768, 12, 1e-12, "gelu"),
    "dinov2": _Defaults(768, 12, 1e-6, "gelu"),
    "dinov2_with_registers": _Defaults(768, 12, 1e-6, "gelu"),
    "dinov3_vit": _Defaults(384, 6, 1e-5, "gelu"),
    "clip_vision_model": _Defaults(768, 12, 1e-5, "quick_gelu"),
    "siglip_vision_model": _Defaults(768, 12, 1e-6, "gelu_pytorch_tanh"),
}
# timm's names of activations; None is what its networks have anyway.
ACTIVATIONS = {
    "gelu": None,
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
# PIL's numbers.
RESAMPLING = {2: "bilinear", 3: "bicubic"}
# From this side on, ConvNeXt's processor, which ResNets use too, crops nothing.
SQUASHED_FROM = 384


def _vision_config(said: Said) -> tuple[Mapping[str, Any], _Defaults]:
    config = said_at(said, (CONFIG,))
    if not isinstance(config, Mapping):
        raise ValueError(
            "its heads, its LayerNorms' eps and its activation are said by config.json, which is "
            "not there. Pass the folder that holds both, or say --arch NAME."
        )
    # Of a network of images and text, the part that sees.
    config = config.get("vision_config", config)
    kind = config.get("model_type")
    if kind not in DEFAULTS:
        raise ValueError(
            f"its config.json says model_type {kind}, expected one of {', '.join(DEFAULTS)}."
        )
    return config, DEFAULTS[kind]


def _heads(said: Said) -> dict[int, int]:
    config, defaults = _vision_config(said)
    width = config.get("hidden_size", defaults.width)
    return {width: config.get("num_attention_heads", defaults.heads)}


def _options(said: Said) -> dict[str, Any]:
    config, defaults = _vision_config(said)
    activation = config.get("hidden_act", defaults.activation)
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"its activation is {activation}, expected one of {', '.join(ACTIVATIONS)}."
        )
    options = {
        "norm_eps": config.get("layer_norm_eps", defaults.eps),
        "act_layer": ACTIVATIONS[activation],
    }
    return {key: value for key, value in options.items() if value is not None}


def _dinov3_options(said: Said) -> dict[str, Any]:
    config, defaults = _vision_config(said)
    is_gated = config.get("use_gated_mlp", False)
    expected = {"hidden_act": "silu" if is_gated else "gelu", "rope_theta": 100.0}
    for key, value in expected.items():
        if (found := config.get(key, value)) != value:
            raise ValueError(f"its config.json says {key} {found}, expected {value}.")
    return {
        "global_pool": "token",
        # Rotary positions fit any size: only the configuration says which one is meant.
        "img_size": config.get("image_size", 224),
        "norm_eps": config.get("layer_norm_eps", defaults.eps),
    }


def _resnet_names(said: Said) -> Pairs:
    """Where the strides stand is said by the configuration alone."""
    config = said_at(said, (CONFIG,))
    if not isinstance(config, Mapping):
        raise ValueError(
            "where its strides stand is said by config.json, which is not there. Pass the folder "
            "that holds both, or say --arch NAME."
        )
    expected = {"hidden_act": "relu", "downsample_in_first_stage": False}
    for key, value in expected.items():
        if (found := config.get(key, value)) != value:
            raise ValueError(f"its config.json says {key} {found}, expected {value}.")
    return ((r"(.+)", r"\1_v1"),) if config.get("downsample_in_bottleneck") else ()


def fed(said: Said) -> InputSpec | None:
    """How a folder's preprocessor feeds images; None where there is none, or it says too little.

    Raises:
        ValueError: If that is nothing an ``InputSpec`` can say.
    """
    config = said_at(said, (PREPROCESSOR,))
    needed = ("image_mean", "image_std", "size", "resample")
    if not isinstance(config, Mapping) or any(config.get(key) is None for key in needed):
        return None
    scale = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    if abs(scale * 255 - 1) > 1e-3 or config["resample"] not in RESAMPLING:
        raise ValueError(
            f"its {PREPROCESSOR} multiplies pixels by {scale:.5g} and resamples by "
            f"{config['resample']}, expected 1/255 and one of {RESAMPLING}."
        )
    size, crop_pct = _side(config["size"]), 1.0
    if config.get("crop_pct"):
        crop_pct = config["crop_pct"] if size < SQUASHED_FROM else 1.0
    elif config.get("do_center_crop") and config.get("crop_size"):
        crop = _side(config["crop_size"])
        size, crop_pct = crop, min(1.0, crop / size)
    is_normalised = config.get("do_normalize", True)
    return InputSpec(
        size=size,
        mean=tuple(config["image_mean"]) if is_normalised else (0.0,) * 3,
        std=tuple(config["image_std"]) if is_normalised else (1.0,) * 3,
        interpolation=RESAMPLING[config["resample"]],  # type: ignore[arg-type]
        crop_pct=crop_pct,
    )


def _side(size: Any) -> int:
    """The short side of what a configuration calls a size: a number, or sides by their names."""
    if isinstance(size, int):
        return size
    sides = [size[key] for key in ("shortest_edge", "height", "width") if key in size]
    if not sides or len(set(sides)) > 1:
        raise ValueError(f"its {PREPROCESSOR} says size {size}, expected a square.")
    return int(sides[0])


# Saved names, and those in memory since transformers 5, which torch.save writes.
_VIT_NAMES = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"^(encoder\.|model\.)?layers?\.(\d+)\.", r"blocks.\2."),
    (r"\.attention\.attention\.([qkv])(uery|ey|alue)\.", r".attn.\1."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.(intermediate\.dense|mlp\.weights_in)\.", ".mlp.fc1."),
    (r"\.(output\.dense|mlp\.weights_out|mlp\.down_proj)\.", ".mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
)
_DINOV3_NAMES = (
    *_VIT_NAMES,
    (r"\.ls([12])\.gamma$", r".gamma_\1"),
    (r"\.mlp\.gate_proj\.", ".mlp.fc1_g."),
)
_CLIP_NAMES = (
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    # So it is spelt.
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^post_layernorm\.", "norm."),
    (r"^encoder\.layers\.(\d+)\.", r"blocks.\1."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.in_proj_", "attn_pool.qkv."),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
)
_RESNET_NAMES = (
    (r"^embedder\.embedder\.convolution\.", "conv1."),
    (r"^embedder\.embedder\.normalization\.", "bn1."),
    *((rf"^encoder\.stages\.{n}\.layers\.", f"layer{n + 1}.") for n in range(4)),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    *((rf"\.layer\.{n}\.convolution\.", f".conv{n + 1}.") for n in range(3)),
    *((rf"\.layer\.{n}\.normalization\.", f".bn{n + 1}.") for n in range(3)),
)

HUGGINGFACE = (
    Format(
        name="hf-dinov3",
        title="a DINOv3 ViT of Hugging Face's transformers: the folder",
        towers=(Tower(prefixes=("dinov3_vit.", "")),),
        marks=("*layer_scale1.lambda1", "*embeddings.patch_embeddings.weight"),
        drop=("embeddings.mask_token", "classifier.*"),
        rename=_DINOV3_NAMES,
        transform=from_hf_dinov3,
        heads=_heads,
        options=_dinov3_options,
        input=fed,
        caveat=_SQUASHED,
        source=f"{_SOURCE}dinov3_vit/modeling_dinov3_vit.py",
    ),
    Format(
        name="hf-dinov2",
        title="a DINOv2 of Hugging Face's transformers, with registers or without: the folder",
        towers=(Tower(prefixes=("dinov2.", "dinov2_with_registers.", "")),),
        marks=("*layer_scale1.lambda1", "*embeddings.patch_embeddings.projection.weight"),
        drop=("embeddings.mask_token", "classifier.*"),
        rename=_VIT_NAMES,
        transform=from_hf_dinov2,
        heads=_heads,
        options=_options,
        input=fed,
        source=f"{_SOURCE}dinov2/modeling_dinov2.py, dinov2_with_registers",
    ),
    Format(
        name="hf-vit",
        title="a ViT, ViTMAE, MSN or I-JEPA of Hugging Face's transformers: the folder",
        towers=(Tower(prefixes=("vit.", "ijepa.", "")),),
        marks=("*layernorm_before.weight", "*embeddings.patch_embeddings.projection.weight"),
        drop=("pooler.*", "classifier.*", "decoder.*", "embeddings.mask_token"),
        rename=_VIT_NAMES,
        transform=with_joined_qkv,
        heads=_heads,
        options=_options,
        input=fed,
        caveat=_SQUASHED,
        source=f"{_SOURCE}vit/modeling_vit.py, vit_mae, vit_msn, ijepa; conversion_mapping.py",
    ),
    Format(
        name="hf-clip",
        title="the images' half of a CLIP or SigLIP of Hugging Face's transformers: the folder",
        towers=(Tower(prefixes=("vision_model.", "")),),
        marks=("*embeddings.patch_embedding.weight", "*encoder.layers.0.self_attn.q_proj.weight"),
        drop=(
            *("text_model.*", "*_projection.weight", "logit_scale", "logit_bias", "classifier.*"),
            "embeddings.position_ids",
        ),
        rename=_CLIP_NAMES,
        transform=from_hf_clip,
        heads=_heads,
        options=_options,
        input=fed,
        caveat=_SQUASHED,
        source=f"{_SOURCE}clip/modeling_clip.py, siglip/modeling_siglip.py",
    ),
    Format(
        name="hf-resnet",
        title="a ResNet of Hugging Face's transformers: the folder",
        towers=(Tower(prefixes=("resnet.", "")),),
        marks=("*embedder.embedder.convolution.weight", "*encoder.stages.0.layers.0.layer.0.*"),
        drop=("classifier.*",),
        rename=_RESNET_NAMES,
        arch_names=_resnet_names,
        input=fed,
        source=f"{_SOURCE}resnet/modeling_resnet.py",
    ),
)
