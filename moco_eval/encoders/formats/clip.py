"""CLIP as OpenAI and open_clip save it: of images and text, the part that sees images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moco_eval.data.images import InputSpec
from moco_eval.encoders.formats.inputs import CLIP as CLIP_INPUT
from moco_eval.encoders.formats.layout import CLASSIFIER, Format, Pairs, Said, Tower, said_at
from moco_eval.encoders.formats.transforms import from_clip

OPEN_CLIP_CONFIG = "open_clip_config.json"
_OPENAI = "openai/CLIP@d05afc4: clip/model.py, clip/clip.py"
_OPEN_CLIP = "mlfoundations/open_clip@89fb801: src/open_clip/"
# What lies beside the images' part, and the projection into the space that both share.
_BESIDE = (
    *("transformer.*", "token_embedding.*", "positional_embedding", "ln_final.*", "attn_mask"),
    *("text.*", "text_projection*", "logit_scale", "logit_bias", "cls_emb"),
    *("visual.proj", "visual.head.*", "input_resolution", "context_length", "vocab_size"),
)
_NAMES = (
    (r"^visual\.", ""),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.ls_([12])\.gamma$", r".ls\1.gamma"),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
_TRANSFORMER = ("visual.conv1.weight", "visual.class_embedding", "visual.transformer.*")
_TRAINED_OR_SAVED = (
    Tower(name="state_dict_ema", containers=(("state_dict_ema",),)),
    Tower(name="state_dict", containers=(("state_dict",), ())),
)
# What open_clip can build under the same names and is not built here.
_USUAL = {"pool_type": "tok", "attentional_pool": False, "act_kwargs": None}
_USUAL |= dict.fromkeys(("scaled_cosine_attn", "scale_heads", "scale_attn", "scale_fc"), False)
_HEAD_WIDTH = 64


def _vision_config(said: Said) -> Mapping[str, Any]:
    config = said_at(said, (OPEN_CLIP_CONFIG, "model_cfg", "vision_cfg"))
    if not isinstance(config, Mapping):
        raise ValueError(
            f"whether it has QuickGELU, and how it pools, is said by {OPEN_CLIP_CONFIG}, which is "
            "not there. Pass the folder that holds both, or say the architecture as timm names "
            "it: --arch timm:vit_base_patch32_clip_224 or timm:vit_base_patch32_clip_quickgelu_224."
        )
    return config


def _heads(said: Said) -> dict[int, int]:
    config = _vision_config(said)
    width = config.get("width", 768)
    return {width: width // config.get("head_width", _HEAD_WIDTH)}


def _options(said: Said) -> dict[str, Any]:
    config = _vision_config(said)
    for key, value in _USUAL.items():
        if (found := config.get(key, value)) != value:
            raise ValueError(f"its {OPEN_CLIP_CONFIG} says {key} {found}, expected {value}.")
    options = {"norm_eps": (config.get("norm_kwargs") or {}).get("eps", 1e-5)}
    if said_at(said, (OPEN_CLIP_CONFIG, "model_cfg", "quick_gelu")):
        options["act_layer"] = "quick_gelu"
    return options


def _pooled_as_said(said: Said) -> Pairs:
    """How a network of timm's pools is said by the configuration, or is timm's default."""
    config = _vision_config(said)
    pool = config.get("timm_pool", "avg")
    if pool in ("abs_attn", "rot_attn"):
        raise ValueError(f"it pools by {pool}, which is open_clip's own and not built here.")
    return ((r"(.+)", rf"\1:global_pool={pool}"),) if pool else ()


def _fed(said: Said) -> InputSpec | None:
    """How a folder of open_clip's says that images are fed; it leaves out what is CLIP's."""
    config = said_at(said, (OPEN_CLIP_CONFIG, "preprocess_cfg"))
    if not isinstance(config, Mapping):
        return None
    size = config.get("size", CLIP_INPUT.size)
    side = size if isinstance(size, int) else size[0]
    if not isinstance(size, int) and len(set(size)) > 1:
        raise ValueError(f"its {OPEN_CLIP_CONFIG} says size {size}, expected a square.")
    interpolation = config.get("interpolation", CLIP_INPUT.interpolation)
    if interpolation not in ("bilinear", "bicubic"):
        raise ValueError(
            f"its {OPEN_CLIP_CONFIG} says interpolation {interpolation}, expected bilinear or "
            "bicubic."
        )
    return InputSpec(
        size=side,
        mean=tuple(config.get("mean", CLIP_INPUT.mean)),
        std=tuple(config.get("std", CLIP_INPUT.std)),
        interpolation=interpolation,
        crop_pct=1.0,
    )


CLIP = (
    Format(
        name="clip-resnet",
        title="CLIP's ResNets, of OpenAI and open_clip",
        towers=_TRAINED_OR_SAVED,
        marks=("visual.attnpool.*", "visual.conv3.weight"),
        refused=(
            "their names look as torchvision's, but their stem has three convolutions, blocks "
            "average before they stride, and attention pools; that is not built here from these "
            "names. Take CLIP's ViT, or the same network from timm: timm:resnet50_clip.openai."
        ),
        source=_OPENAI,
    ),
    Format(
        name="openai-clip",
        title="OpenAI's CLIP with a ViT, which is a TorchScript archive",
        towers=(Tower(name="visual"),),
        marks=(*_TRANSFORMER, "input_resolution"),
        drop=_BESIDE,
        rename=_NAMES,
        transform=from_clip,
        options={"norm_eps": 1e-5, "act_layer": "quick_gelu"},
        input=CLIP_INPUT,
        source=_OPENAI,
    ),
    Format(
        name="open-clip",
        title="open_clip's ViTs: the folder, or a training checkpoint with --arch",
        towers=_TRAINED_OR_SAVED,
        marks=_TRANSFORMER,
        unmarked=("input_resolution",),
        drop=_BESIDE,
        rename=_NAMES,
        transform=from_clip,
        heads=_heads,
        options=_options,
        input=_fed,
        source=f"{_OPEN_CLIP}factory.py, transformer.py, constants.py",
    ),
    Format(
        name="open-clip-timm",
        title="open_clip's networks of timm's, SigLIP among them: the folder",
        towers=_TRAINED_OR_SAVED,
        marks=("visual.trunk.*",),
        # timm's classifier is open_clip's projection where it has no other.
        drop=(*_BESIDE, f"visual.trunk.{CLASSIFIER}.*"),
        rename=((r"^visual\.trunk\.", ""),),
        arch=(OPEN_CLIP_CONFIG, "model_cfg", "vision_cfg", "timm_model_name"),
        arch_names=_pooled_as_said,
        family="timm:",
        options=_options,
        input=_fed,
        source=f"{_OPEN_CLIP}timm_model.py, factory.py",
    ),
)
