"""Files of DeiT, ConvNeXt and BEiT."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from pathlib import Path

from layouts.distillation import CONVNEXT, facebook_convnext
from layouts.layout import Layout, Written, saved, worthless
from layouts.vits import TINY, transformer, wrong
from moco_eval.data.images import InputSpec

DEIT = "facebookresearch/deit@7e160fe: main.py"
CONVNEXTS = "facebookresearch/ConvNeXt@06f7b05: main.py, models/convnext.py"
BEITS = "microsoft/unilm@eda5963: beit/run_class_finetuning.py"
DISTILLED = TINY.replace("vit_tiny", "deit_tiny_distilled")
CONVNEXT_V2 = CONVNEXT.replace("convnext_atto:conv_mlp=false,", "convnextv2_atto:")
BEIT = "timm:beit_base_patch16_224:depth=1,embed_dim=64,img_size=32,num_heads=1"
HEAD = ("head.weight", "head.bias")


def _written(path, state, arch, size, tower="model", **others):
    fed = InputSpec(size=size, interpolation="bicubic")
    return Written(path=path, expected=state, arch=arch, input=fed, tower=tower, **others)


def _training(state, model, **others):
    return {
        "model": state | wrong(*HEAD),
        "optimizer": {"state": {}},
        "epoch": 299,
        "args": Namespace(model=model, input_size=224),
        **others,
    }


def _deit(folder: Path) -> Written:
    network, state = transformer()
    content = _training(worthless(state), "deit_tiny_patch16_224")
    content["model_ema"] = state | wrong(*HEAD)
    path = saved(folder / "checkpoint.pth", content)
    return _written(path, state, TINY, 32, "model_ema", author=network)


def _deit_distilled(folder: Path) -> Written:
    network, state = transformer(DISTILLED)
    content = {"model": state | wrong(*HEAD, "head_dist.weight", "head_dist.bias")}
    path = saved(folder / "deit_tiny_distilled_patch16_224.pth", content)
    return _written(path, state, DISTILLED, 32, author=network)


def _convnext(folder: Path) -> Written:
    network, state = transformer(CONVNEXT)
    path = saved(folder / "convnext.pth", {"model": facebook_convnext(state) | wrong(*HEAD)})
    return _written(path, state, CONVNEXT, 224, author=network)


def _convnext_v2(folder: Path) -> Written:
    network, state = transformer(CONVNEXT_V2)
    theirs = {}
    for name, tensor in facebook_convnext(state).items():
        if "grn" in name:
            weight = name.replace("mlp.grn.weight", "grn.gamma")
            theirs[weight.replace("mlp.grn.bias", "grn.beta")] = tensor[None, None, None]
        else:
            theirs[name] = tensor
    path = saved(folder / "convnextv2.pt", {"model": theirs | wrong(*HEAD)})
    return _written(path, state, CONVNEXT_V2, 224, author=network)


def _beit(folder: Path, default=False) -> Written:
    network, state = transformer(BEIT)
    # The network's name is the author's; a small one needs timm's options after it.
    content = _training(state, BEIT.removeprefix("timm:"))
    content["model"] |= wrong("blocks.0.attn.relative_position_index")
    content["args"].imagenet_default_mean_and_std = default
    written = _written(saved(folder / "c.pth", content), state, BEIT, 32, author=network)
    half = InputSpec(size=32, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic")
    return written if default else dataclasses.replace(written, input=half)


def _beit_on_imagenet(folder: Path) -> Written:
    return _beit(folder, default=True)


LAYOUTS = tuple(
    Layout(format=format, case=case, evidence="synthetic", by=by, write=write)
    for format, case, by, write in (
        ("beit", "fine-tuned", BEITS, _beit),
        ("beit", "fine-tuned with ImageNet's mean", BEITS, _beit_on_imagenet),
        ("deit", "training, averaged weights beside", DEIT, _deit),
        ("deit-distilled", "published", DEIT, _deit_distilled),
        ("convnext", "published", CONVNEXTS, _convnext),
        ("convnext", "version 2, published", CONVNEXTS, _convnext_v2),
    )
)
