"""Files of MAE, MSN and I-JEPA."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import torch

from layouts.layout import WORTHLESS, Layout, Written, saved, under, worthless
from layouts.vits import TINY, transformer, wrong
from moco_eval.data.images import InputSpec

MAE = "facebookresearch/mae@efb2a80: models_mae.py, util/misc.py"
MOCOV3 = "facebookresearch/moco-v3@c349e6e: convert_to_deit.py"
# Of MAE's own width, so that its heads are 16 where one of 64 channels would make 20.
HUGE = "timm:vit_huge_patch14_224:depth=1,img_size=28"
BASE = "timm:vit_base_patch16_224:depth=1,img_size=32"
POOLED = "timm:vit_tiny_patch16_224:depth=2,embed_dim=64,global_pool=avg,img_size=32,num_heads=1"
JEPA = (
    "timm:vit_tiny_patch16_224:class_token=false,depth=2,embed_dim=64,fc_norm=false,"
    "global_pool=avg,img_size=32,num_heads=1"
)
# 1408 channels, whose heads are 16.
JEPA_GIANT = (
    "timm:vit_giant_patch14_224:class_token=false,depth=1,fc_norm=false,global_pool=avg,img_size=28"
)


def _written(path, state, arch=TINY, size=32, interpolation="bicubic", **others):
    fed = InputSpec(size=size, interpolation=interpolation)
    return Written(path=path, expected=state, arch=arch, input=fed, **others)


def _training(state):
    return {
        "model": state,
        "optimizer": {"state": {}},
        "epoch": 799,
        "scaler": {},
        "args": Namespace(model="mae_vit_base_patch16"),
    }


def _mae(folder: Path) -> Written:
    network, state = transformer()
    decoder = wrong("mask_token", "decoder_embed.weight", "decoder_pos_embed")
    decoder |= under("decoder_", worthless(state))
    return _written(saved(folder / "c.pth", _training(state | decoder)), state, author=network)


def _mae_finetuned(folder: Path) -> Written:
    network, state = transformer(POOLED)
    content = _training(state | wrong("head.weight", "head.bias"))
    return _written(saved(folder / "c.pth", content), state, POOLED, author=network)


def _mae_linprobe(folder: Path) -> Written:
    network, state = transformer()
    head = wrong("head.0.running_mean", "head.0.running_var", "head.1.weight", "head.1.bias")
    head["head.0.num_batches_tracked"] = torch.tensor(9)
    return _written(saved(folder / "c.pth", _training(state | head)), state, author=network)


def _mae_encoder(folder: Path) -> Written:
    network, state = transformer(HUGE)
    path = saved(folder / "mae_pretrain_vit_huge.pth", {"model": state})
    return _written(path, state, HUGE, 28, author=network)


def _mocov3_base(folder: Path) -> Written:
    network, state = transformer(BASE)
    path = saved(folder / "vit-b.pth", {"model": state})
    hints = {"format": "mocov3-deit"}
    return _written(path, state, BASE, 32, "bilinear", hints=hints, author=network)


def _mocov3_small(folder: Path) -> Written:
    network, state = transformer("vit_small_mocov3")
    path = saved(folder / "vit-s.pth", {"model": state})
    hints = {"format": "mocov3-deit"}
    return _written(path, state, "vit_small_mocov3", 224, "bilinear", hints=hints, author=network)


MSN_HEAD = ("fc.fc1.weight", "fc.bn1.weight", "fc.bn1.running_mean", "fc.fc3.weight")


def _msn_file(encoder, target):
    return {
        "encoder": encoder,
        "opt": {"state": {}},
        "prototypes": torch.full((4, 8), WORTHLESS),
        "target_encoder": target,
        "epoch": 300,
        "loss": 0.5,
        "batch_size": 16,
        "world_size": 8,
        "lr": 0.1,
        "temperature": 0.1,
    }


def _msn(folder: Path) -> Written:
    network, state = transformer()
    projector = wrong(*MSN_HEAD)
    content = _msn_file(
        under("module.", worthless(state) | projector), under("module.", state | projector)
    )
    path = saved(folder / "vits16_800ep.pth.tar", content)
    return _written(path, state, TINY, 32, "bilinear", tower="target_encoder", author=network)


def _msn_without_target(folder: Path) -> Written:
    _, state = transformer()
    content = _msn_file(under("module.", state | wrong(*MSN_HEAD)), None)
    path = saved(folder / "msn.pth.tar", content)
    return _written(path, state, TINY, 32, "bilinear")


def _ijepa(folder: Path, arch=JEPA, size=32) -> Written:
    network, state = transformer(arch)
    predictor = wrong("module.predictor_blocks.0.norm1.weight", "module.mask_token")
    content = {
        "encoder": under("module.", worthless(state)),
        "predictor": predictor,
        "target_encoder": under("module.", state),
        "opt": {"state": {}},
        "scaler": None,
        "epoch": 300,
        "loss": 0.1,
    }
    path = saved(folder / "IN1K-vit.h.14-300e.pth.tar", content)
    return _written(path, state, arch, size, "bilinear", tower="target_encoder", author=network)


def _ijepa_giant(folder: Path) -> Written:
    return _ijepa(folder, JEPA_GIANT, 28)


LAYOUTS = tuple(
    Layout(format=format, case=case, evidence="synthetic", by=by, write=write)
    for format, case, by, write in (
        ("mae", "encoder and decoder", MAE, _mae),
        ("mae-encoder", "published encoder", MAE, _mae_encoder),
        (
            "mae-finetuned",
            "fine-tuned",
            "facebookresearch/mae@efb2a80: models_vit.py",
            _mae_finetuned,
        ),
        (
            "mae-linprobe",
            "linear probe",
            "facebookresearch/mae@efb2a80: main_linprobe.py",
            _mae_linprobe,
        ),
        ("mocov3-deit", "ViT-B", MOCOV3, _mocov3_base),
        ("mocov3-deit", "ViT-S of 12 heads", MOCOV3, _mocov3_small),
        ("msn", "target encoder", "facebookresearch/msn@4388dc1: src/msn_train.py", _msn),
        (
            "msn",
            "no target encoder",
            "facebookresearch/msn@4388dc1: src/msn_train.py",
            _msn_without_target,
        ),
        ("ijepa", "target encoder", "facebookresearch/ijepa@52c1ae9: src/train.py", _ijepa),
        (
            "ijepa",
            "giant, of 16 heads",
            "facebookresearch/ijepa@52c1ae9: src/train.py",
            _ijepa_giant,
        ),
    )
)
