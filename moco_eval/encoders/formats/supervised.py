"""DeiT, ConvNeXt and BEiT: {model[, model_ema, args, ...]}, as many after them save theirs."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from moco_eval.data.images import InputSpec
from moco_eval.encoders.formats.distillation import CONVNEXT_NAMES
from moco_eval.encoders.formats.inputs import HALF, IMAGENET_BICUBIC
from moco_eval.encoders.formats.layout import CLASSIFIER, Format, Said, Tower, said_at

# The running average is what the authors evaluate.
_TOWERS = tuple(Tower(name=name, containers=((name,),)) for name in ("model_ema", "model"))
_VIT = ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "cls_token")
_DEIT = "facebookresearch/deit@7e160fe: main.py, models.py"


def _beit_input(said: Said) -> InputSpec:
    """BEiT normalises as Inception does unless its command line says otherwise."""
    if said_at(said, ("args", "imagenet_default_mean_and_std")):
        return IMAGENET_BICUBIC
    return dataclasses.replace(HALF, crop_pct=IMAGENET_BICUBIC.crop_pct)


def _with_flat_norms(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The response norms of ConvNeXt V2, ``(1, 1, 1, C)`` at its authors'."""
    return {
        name: value.flatten() if ".mlp.grn." in name else value for name, value in tensors.items()
    }


SUPERVISED = (
    Format(
        name="beit",
        title="BEiT fine-tuned",
        towers=_TOWERS,
        marks=(*_VIT, "blocks.0.attn.relative_position_bias_table", "fc_norm.weight"),
        drop=("*.relative_position_index", f"{CLASSIFIER}.*"),
        arch=("args", "model"),
        family="timm:",
        input=_beit_input,
        source="microsoft/unilm@eda5963: beit/run_class_finetuning.py, beit/datasets.py",
    ),
    Format(
        name="deit-distilled",
        title="DeiT with a distillation token",
        towers=_TOWERS,
        marks=(*_VIT, "dist_token", "head_dist.weight"),
        drop=("head_dist.*", "head.*"),
        input=IMAGENET_BICUBIC,
        source=_DEIT,
    ),
    Format(
        name="deit",
        title="DeiT and DeiT III, with the command line of their training",
        towers=_TOWERS,
        says=(("args", "model"),),
        marks=(*_VIT, "norm.weight", "head.weight"),
        unmarked=("dist_token", "mask_token", "fc_norm.*", "*.relative_position_bias_table"),
        drop=("head.*",),
        input=IMAGENET_BICUBIC,
        source=_DEIT,
    ),
    Format(
        name="convnext",
        title="ConvNeXt and ConvNeXt V2 of their authors",
        towers=_TOWERS,
        marks=("downsample_layers.0.0.weight", "stages.0.0.dwconv.weight", "norm.weight"),
        unmarked=("norms.*",),
        drop=("head.*",),
        rename=CONVNEXT_NAMES,
        transform=_with_flat_norms,
        input=IMAGENET_BICUBIC,
        source="facebookresearch/ConvNeXt@06f7b05: main.py, models/convnext.py",
    ),
)
