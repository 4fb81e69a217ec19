"""Folders that Hugging Face's transformers writes."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layouts.layout import WORTHLESS, Layout, Written, randomised, saved
from moco_eval.data.images import InputSpec

PLAN = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}
MLP = {"intermediate_size": 128}
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = InputSpec(size=32, mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0)


def _folder(folder: Path, model: Any, processor: Any) -> Path:
    """Saved as anybody saves it; what must not get into an encoder is worthless."""
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return folder / "model"


def _model(kind: str, config: str, **plan: Any) -> Any:
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = getattr(transformers, kind)(getattr(transformers, config)(**plan))
    randomised(model)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if re.match(r"classifier|decoder|pooler|visual_proj|text_|(.*mask_token)", name):
                tensor.fill_(WORTHLESS)
    return model


def _processor(kind: str, **changes: Any) -> Any:
    import transformers

    return getattr(transformers, kind)(**changes)


VIT_NAMES = (
    (r"^(vit|dinov2)\.", ""),
    (r"^embeddings\.(cls_token|mask_token)", r"\1"),
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^embeddings\.register_tokens", "reg_token"),
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"^(encoder|model)\.", ""),
    (r"^layers?\.", "blocks."),
    (r"attention\.o_proj", "attn.proj"),
    (r"attention\.", "attn."),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"layer_scale(.)\.lambda1", r"ls\1.gamma"),
    (r"^layernorm", "norm"),
)
CLIP_NAMES = (
    (r"^vision_model\.", ""),
    (r"^embeddings\.class_embedding", "cls_token"),
    (r"^embeddings\.position_embedding\.weight", "pos_embed"),
    (r"^embeddings\.patch_embedding", "patch_embed.proj"),
    (r"^pre_layrnorm", "norm_pre"),
    (r"^post_layernorm", "norm"),
    (r"^encoder\.layers", "blocks"),
    (r"layer_norm", "norm"),
    (r"self_attn\.out_proj", "attn.proj"),
    (r"self_attn", "attn"),
)


def _expected(model: nn.Module, names: Any, *, without: str = "$^") -> dict[str, Tensor]:
    """The model's tensors as timm names them; its names in memory are those of transformers 5."""
    result = {}
    for name, tensor in model.state_dict().items():
        renamed = name
        for theirs, ours in names:
            renamed = re.sub(theirs, ours, renamed)
        if not re.match(without, renamed):
            result[renamed] = tensor
    for name in [n for n in result if ".q_proj." in n]:
        parts = [result.pop(name.replace(".q_", f".{part}_"), None) for part in "qkv"]
        if all(part is not None for part in parts):
            result[name.replace("q_proj", "qkv")] = torch.cat(parts)
        else:
            # DINOv3's keys have no bias.
            result[name.replace(".q_proj.", ".q_")] = parts[0]
            result[name.replace(".q_proj.", ".v_")] = parts[2]
    return result


DROPPED = r"classifier|decoder|pooler|mask_token|visual_projection|text_|logit_scale"
EPS = "norm_eps=1e-12,num_heads=2"


def _classes(model: Any) -> Callable[[Tensor], Tensor]:
    return lambda images: model(images).last_hidden_state[:, 0]


def _vit(folder: Path) -> Written:
    model = _model("ViTForImageClassification", "ViTConfig", **PLAN, **MLP)
    path = _folder(folder, model, _processor("ViTImageProcessor", size={"height": 32, "width": 32}))
    return Written(
        path=path,
        expected=_expected(model, VIT_NAMES, without=DROPPED),
        arch=f"timm:vit_tiny_patch16_224:depth=2,embed_dim=64,img_size=32,mlp_ratio=2.0,{EPS}",
        input=HALF,
        author=_classes(model.vit),
    )


def _vit_in_memory(folder: Path) -> Written:
    """torch.save of a state dict, whose names are others than those that are saved."""
    written = _vit(folder)
    model = _model("ViTForImageClassification", "ViTConfig", **PLAN, **MLP)
    (written.path / "model.safetensors").unlink()
    saved(written.path / "pytorch_model.bin", model.state_dict())
    return written


def _vit_mae(folder: Path) -> Written:
    decoder = {
        "decoder_hidden_size": 32,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
    }
    model = _model("ViTMAEForPreTraining", "ViTMAEConfig", **PLAN, **MLP, **decoder)
    processor = _processor(
        "ViTImageProcessor",
        size={"height": 32, "width": 32},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    return Written(
        path=_folder(folder, model, processor),
        expected=_expected(model, VIT_NAMES, without=DROPPED),
        arch=f"timm:vit_tiny_patch16_224:depth=2,embed_dim=64,img_size=32,mlp_ratio=2.0,{EPS}",
        input=InputSpec(size=32, crop_pct=1.0),
    )


def _msn(folder: Path) -> Written:
    model = _model("ViTMSNModel", "ViTMSNConfig", **PLAN, **MLP)
    path = _folder(folder, model, _processor("ViTImageProcessor", size={"height": 32, "width": 32}))
    return Written(
        path=path,
        expected=_expected(model, VIT_NAMES, without=DROPPED),
        # Its eps, 1e-6, is timm's.
        arch="timm:vit_tiny_patch16_224:depth=2,embed_dim=64,img_size=32,mlp_ratio=2.0,num_heads=2",
        input=HALF,
        author=_classes(model),
    )


def _ijepa(folder: Path) -> Written:
    model = _model("IJepaModel", "IJepaConfig", **PLAN, **MLP)
    path = _folder(folder, model, _processor("ViTImageProcessor", size={"height": 32, "width": 32}))
    return Written(
        path=path,
        expected=_expected(model, VIT_NAMES, without=DROPPED),
        arch=(
            "timm:vit_tiny_patch16_224:class_token=false,depth=2,embed_dim=64,fc_norm=false,"
            f"global_pool=avg,img_size=32,mlp_ratio=2.0,{EPS}"
        ),
        input=HALF,
        author=lambda images: model(images).last_hidden_state.mean(1),
    )


BIT = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}


def _dinov2(folder: Path, kind="Dinov2", registers="", mlp="", **plan) -> Written:
    model = _model(f"{kind}Model", f"{kind}Config", **PLAN, **plan)
    expected = _expected(model, VIT_NAMES, without=DROPPED)
    if registers:
        expected["cls_token"] = expected["cls_token"] + expected["pos_embed"][:, :1]
        expected["pos_embed"] = expected["pos_embed"][:, 1:]
    size = "giant" if mlp else "small"
    return Written(
        path=_folder(folder, model, _processor("BitImageProcessor", **BIT)),
        expected=expected,
        arch=(
            f"timm:vit_{size}_patch14{registers}_dinov2:depth=2,embed_dim=64,img_size=32,"
            f"{mlp}num_heads=2,patch_size=16"
        ),
        # 32 of 40 pixels.
        input=InputSpec(
            size=32, mean=CLIP_MEAN, std=CLIP_STD, interpolation="bicubic", crop_pct=0.8
        ),
        author=_classes(model),
    )


def _dinov2_registers(folder: Path) -> Written:
    return _dinov2(folder, "Dinov2WithRegisters", "_reg4")


def _dinov2_gated(folder: Path) -> Written:
    # 2 * 176 channels: 8/3 of 64 rounded up to a multiple of 8.
    written = _dinov2(folder, mlp="mlp_ratio=5.5,", use_swiglu_ffn=True)
    expected = dict(written.expected)
    for name in [n for n in expected if ".gate_proj." in n]:
        parts = [expected.pop(name), expected.pop(name.replace("gate_proj", "up_proj"))]
        expected[name.replace("gate_proj", "fc1")] = torch.cat(parts)
    for name in [n for n in expected if ".down_proj." in n]:
        expected[name.replace("down_proj", "fc2")] = expected.pop(name)
    return dataclasses.replace(written, expected=expected)


def _dinov2_gated_in_memory(folder: Path) -> Written:
    written = _dinov2_gated(folder)
    model = _model("Dinov2Model", "Dinov2Config", **PLAN, use_swiglu_ffn=True)
    (written.path / "model.safetensors").unlink()
    saved(written.path / "pytorch_model.bin", model.state_dict())
    return written


DINOV3_NAMES = (
    *VIT_NAMES,
    (r"ls(.)\.gamma", r"gamma_\1"),
    (r"mlp\.gate_proj", "mlp.fc1_g"),
    (r"mlp\.down_proj", "mlp.fc2"),
)


def _dinov3(folder: Path, name="tiny", up="fc1", **plan) -> Written:
    mlp = {"intermediate_size": 256}
    plan |= {"num_register_tokens": 4}
    model = _model("DINOv3ViTModel", "DINOv3ViTConfig", **PLAN, **mlp, **plan)
    names = (*DINOV3_NAMES, (r"mlp\.up_proj", f"mlp.{up}"))
    return Written(
        path=_folder(folder, model, _processor("ViTImageProcessor", image_mean=[0.4] * 3)),
        expected=_expected(model, names, without=DROPPED),
        arch=(
            f"timm:vit_{name}_patch16_dinov3_qkvb:depth=2,embed_dim=64,global_pool=token,"
            "img_size=32,num_heads=2"
        ),
        input=InputSpec(size=32, mean=(0.4,) * 3, std=(0.5,) * 3, crop_pct=1.0),
        author=_classes(model),
    )


def _dinov3_gated(folder: Path) -> Written:
    return _dinov3(folder, "small_plus", "fc1_x", use_gated_mlp=True, hidden_act="silu")


def _clip_expected(model: nn.Module) -> dict[str, Tensor]:
    expected = _expected(model, CLIP_NAMES, without=DROPPED)
    expected["pos_embed"] = expected["pos_embed"][None]
    if "cls_token" in expected:
        expected["cls_token"] = expected["cls_token"][None, None]
    return expected


CLIP_ARCH = (
    "timm:vit_medium_patch16_clip_224:act_layer=quick_gelu,depth=2,embed_dim=64,img_size=32,"
    "mlp_ratio=2.0,num_heads=2"
)
CLIP_INPUT = InputSpec(size=32, mean=CLIP_MEAN, std=CLIP_STD, interpolation="bicubic", crop_pct=1.0)
CLIP_SIZES = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}


def _clip(folder: Path, kind="CLIPVisionModel") -> Written:
    model = _model(kind, "CLIPVisionConfig", **PLAN, **MLP)
    return Written(
        path=_folder(folder, model, _processor("CLIPImageProcessor", **CLIP_SIZES)),
        expected=_clip_expected(model),
        arch=CLIP_ARCH,
        input=CLIP_INPUT,
        author=lambda images: getattr(model, "vision_model", model)(images).pooler_output,
    )


def _clip_projected(folder: Path) -> Written:
    return _clip(folder, "CLIPVisionModelWithProjection")


def _clip_with_text(folder: Path) -> Written:
    import transformers

    vision = transformers.CLIPVisionConfig(**PLAN, **MLP).to_dict()
    text = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 8,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    model = _model("CLIPModel", "CLIPConfig", vision_config=vision, text_config=text)
    return Written(
        path=_folder(folder, model, _processor("CLIPImageProcessor", **CLIP_SIZES)),
        expected=_clip_expected(model),
        arch=CLIP_ARCH,
        input=CLIP_INPUT,
        author=lambda images: model.vision_model(images).pooler_output,
    )


SIGLIP_HEAD = (
    (r"^head\.probe", "attn_pool.latent"),
    (r"^head\.attention\.in_proj_", "attn_pool.qkv."),
    (r"^head\.attention\.out_proj", "attn_pool.proj"),
    (r"^head\.layernorm", "attn_pool.norm"),
    (r"^head\.mlp", "attn_pool.mlp"),
)


def _siglip(folder: Path) -> Written:
    model = _model("SiglipVisionModel", "SiglipVisionConfig", **PLAN, **MLP)
    # As Google's, whose configurations leave out what is usual.
    expected = _clip_expected(model)
    for name in list(expected):
        for theirs, ours in SIGLIP_HEAD:
            if re.match(theirs, name):
                expected[re.sub(theirs, ours, name)] = expected.pop(name)
    for kind in ("weight", "bias"):
        joined = expected.pop(f"attn_pool.qkv.{kind}")
        expected[f"attn_pool.q.{kind}"] = joined[:64]
        expected[f"attn_pool.kv.{kind}"] = joined[64:]
    sizes = {"size": {"height": 32, "width": 32}}
    path = _folder(folder, model, _processor("SiglipImageProcessor", **sizes))
    config = json.loads((path / "config.json").read_text())
    for usual in ("hidden_act", "layer_norm_eps", "vision_use_head"):
        del config[usual]
    (path / "config.json").write_text(json.dumps({"vision_config": config}))
    return Written(
        path=path,
        expected=expected,
        arch=(
            "timm:vit_base_patch16_siglip_224:act_layer=gelu_tanh,depth=2,embed_dim=64,"
            "img_size=32,mlp_ratio=2.0,num_heads=2"
        ),
        input=InputSpec(
            size=32, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=1.0
        ),
        author=lambda images: model(images).pooler_output,
    )


RESNET_NAMES = (
    (r"^resnet\.", ""),
    (r"^embedder\.embedder\.convolution", "conv1"),
    (r"^embedder\.embedder\.normalization", "bn1"),
    (r"^encoder\.stages\.0\.layers", "layer1"),
    (r"^encoder\.stages\.1\.layers", "layer2"),
    (r"^encoder\.stages\.2\.layers", "layer3"),
    (r"^encoder\.stages\.3\.layers", "layer4"),
    (r"shortcut\.convolution", "downsample.0"),
    (r"shortcut\.normalization", "downsample.1"),
    (r"layer\.0\.convolution", "conv1"),
    (r"layer\.1\.convolution", "conv2"),
    (r"layer\.2\.convolution", "conv3"),
    (r"layer\.0\.normalization", "bn1"),
    (r"layer\.1\.normalization", "bn2"),
    (r"layer\.2\.normalization", "bn3"),
)


def _resnet(folder: Path, arch="resnet18", **plan) -> Written:
    plan = {
        "embedding_size": 64,
        "hidden_sizes": [64, 128, 256, 512],
        "depths": [2, 2, 2, 2],
        "layer_type": "basic",
    } | plan
    model = _model("ResNetForImageClassification", "ResNetConfig", **plan)
    processor = _processor(
        "ConvNextImageProcessor",
        size={"shortest_edge": 224},
        crop_pct=0.875,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    return Written(
        path=_folder(folder, model, processor),
        expected=_expected(model, RESNET_NAMES, without=DROPPED),
        arch=arch,
        input=InputSpec(interpolation="bicubic"),
        author=lambda images: model.resnet(images).pooler_output.flatten(1),
    )


def _resnet_of_v1(folder: Path) -> Written:
    return _resnet(
        folder,
        "resnet50_v1",
        layer_type="bottleneck",
        hidden_sizes=[256, 512, 1024, 2048],
        depths=[3, 4, 6, 3],
        downsample_in_bottleneck=True,
    )


LAYOUTS = tuple(
    Layout(
        format=format,
        case=case,
        evidence="library",
        by="transformers",
        requires=("transformers",),
        write=write,
    )
    for format, case, write in (
        ("hf-vit", "ViT with a classifier", _vit),
        ("hf-vit", "ViT, names in memory", _vit_in_memory),
        ("hf-vit", "MAE with its decoder", _vit_mae),
        ("hf-vit", "MSN", _msn),
        ("hf-vit", "I-JEPA", _ijepa),
        ("hf-dinov2", "DINOv2", _dinov2),
        ("hf-dinov2", "DINOv2 with registers", _dinov2_registers),
        ("hf-dinov2", "DINOv2 with SwiGLU", _dinov2_gated),
        ("hf-dinov2", "DINOv2 with SwiGLU, names in memory", _dinov2_gated_in_memory),
        ("hf-dinov3", "DINOv3", _dinov3),
        ("hf-dinov3", "DINOv3 with a gated MLP", _dinov3_gated),
        ("hf-clip", "CLIP's images", _clip),
        ("hf-clip", "CLIP's images, projected", _clip_projected),
        ("hf-clip", "CLIP with its text", _clip_with_text),
        ("hf-clip", "SigLIP's images", _siglip),
        ("hf-resnet", "ResNet-18", _resnet),
        ("hf-resnet", "ResNet-50, strides as in v1", _resnet_of_v1),
    )
)
