"""Files of OpenAI's CLIP, and of open_clip."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from layouts.layout import Layout, Written, randomised, saved, under, without, worthless
from moco_eval.data.images import InputSpec

TEXT = {"context_length": 4, "vocab_size": 8, "width": 32, "heads": 1, "layers": 1}
VISION = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
INPUT = InputSpec(
    size=32,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    interpolation="bicubic",
    crop_pct=1.0,
)
ARCH = "timm:vit_medium_patch16_clip_224:depth=2,embed_dim=64,img_size=32,num_heads=2"
QUICK = ARCH.replace("depth", "act_layer=quick_gelu,depth")
NAMES = (
    ("transformer.resblocks", "blocks"),
    ("conv1", "patch_embed.proj"),
    ("class_embedding", "cls_token"),
    ("positional_embedding", "pos_embed"),
    ("ln_pre", "norm_pre"),
    ("ln_post", "norm"),
    ("ln_1", "norm1"),
    ("ln_2", "norm2"),
    ("in_proj_", "qkv."),
    ("out_proj", "proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)


def _clip(kind: str = "CLIP", vision: Any = None, **plan: Any) -> Any:
    import open_clip

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(4)
        model = getattr(open_clip.model, kind)(
            embed_dim=16, vision_cfg=vision or VISION, text_cfg=TEXT, **plan
        )
    return randomised(model)


def _shown(model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors; those that must not get into an encoder are worthless."""
    state = dict(model.state_dict())
    kept = [n for n in state if n.startswith("visual.") and n != "visual.proj"]
    return worthless(state) | {name: state[name] for name in kept}


def _expected(state: dict[str, Tensor]) -> dict[str, Tensor]:
    result = {}
    for name, tensor in state.items():
        renamed = name.removeprefix("visual.")
        if renamed in (name, "proj"):
            continue
        for theirs, ours in NAMES:
            renamed = renamed.replace(theirs, ours)
        result[renamed] = tensor
    result["cls_token"] = result["cls_token"][None, None]
    result["pos_embed"] = result["pos_embed"][None]
    return result


def _seen(model: Any) -> Callable[[Tensor], Tensor]:
    """What the model sees before it projects."""

    def features(images: Tensor) -> Tensor:
        model.visual.proj = None
        return model.visual(images)

    return features


def _folder(folder: Path, state, model_cfg, preprocess_cfg) -> Path:
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    dense = {name: tensor.contiguous() for name, tensor in state.items()}
    safetensors.torch.save_file(dense, folder / "open_clip_model.safetensors")
    return folder


def _vit(folder: Path, quick=False) -> Written:
    model = _clip(quick_gelu=quick)
    state = _shown(model)
    config = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT, "quick_gelu": quick}
    fed = {"mean": INPUT.mean, "std": INPUT.std, "size": 32, "interpolation": "bicubic"}
    return Written(
        path=_folder(folder, state, config, fed),
        expected=_expected(state),
        arch=QUICK if quick else ARCH,
        input=INPUT,
        tower="state_dict",
        author=_seen(model),
    )


def _vit_quick(folder: Path) -> Written:
    return _vit(folder, quick=True)


def _training(folder: Path) -> Written:
    model = _clip()
    state = _shown(model)
    content = {
        "epoch": 9,
        "name": "run",
        "state_dict": under("module.", state),
        "optimizer": {"state": {}},
    }
    hints = {"arch": ARCH, "input": "clip"}
    return Written(
        path=saved(folder / "epoch_9.pt", content),
        expected=_expected(state),
        arch=ARCH,
        input=INPUT,
        tower="state_dict",
        hints=hints,
        author=_seen(model),
    )


def _timm(folder: Path, proj="linear") -> Written:
    vision = {"timm_model_name": "resnet18", "timm_pool": "avg", "timm_proj": proj}
    vision["image_size"] = 32
    model = _clip("CustomTextCLIP", vision)
    state = dict(model.state_dict())
    shown = without(model.visual.trunk.state_dict(), "fc.")
    model.visual.trunk.reset_classifier(0)
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}
    fed = {"mean": [0.5] * 3, "std": [0.5] * 3, "size": [32, 32], "interpolation": "bicubic"}
    return Written(
        path=_folder(folder, worthless(state) | under("visual.trunk.", shown), config, fed),
        expected=shown,
        arch="timm:resnet18:global_pool=avg",
        input=InputSpec(
            size=32, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=1.0
        ),
        tower="state_dict",
        author=model.visual.trunk,
    )


def _timm_projecting(folder: Path) -> Written:
    """The trunk's own classifier projects."""
    return _timm(folder, proj="")


class _Named(nn.Module):
    """A module with given tensors under given names, which TorchScript saves as OpenAI's are."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        inner: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            head, _, rest = name.partition(".")
            if rest:
                inner.setdefault(head, {})[rest] = tensor
            else:
                self.register_buffer(head, tensor)
        for head, held in inner.items():
            self.add_module(head, _Named(held))

    def forward(self, images: Tensor) -> Tensor:
        return images


def _openai(folder: Path) -> Written:
    model = _clip(quick_gelu=True).half().float()
    state = _shown(model)
    numbers = {
        name: torch.tensor(9) for name in ("input_resolution", "context_length", "vocab_size")
    }
    half = {name: tensor.half() for name, tensor in state.items()}
    path = folder / "ViT-B-16.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(_Named(half | numbers)), path)
    return Written(
        path=path,
        expected=_expected(state),
        arch=QUICK.replace("num_heads=2", "num_heads=1"),
        input=INPUT,
        tower="visual",
    )


LAYOUTS = (
    Layout(
        format="openai-clip",
        case="TorchScript, in half precision",
        evidence="synthetic",
        by="openai/CLIP@d05afc4: clip/model.py",
        requires=("open_clip",),
        write=_openai,
    ),
    *(
        Layout(
            format=format,
            case=case,
            evidence="library",
            by="open_clip",
            requires=("open_clip",),
            write=write,
        )
        for format, case, write in (
            ("open-clip", "ViT, the folder", _vit),
            ("open-clip", "ViT with QuickGELU, the folder", _vit_quick),
            ("open-clip", "training checkpoint", _training),
            ("open-clip-timm", "timm's ResNet, the folder", _timm),
            ("open-clip-timm", "timm's ResNet, which projects itself", _timm_projecting),
        )
    ),
)
