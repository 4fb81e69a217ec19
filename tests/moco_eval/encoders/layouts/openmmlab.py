"""Files of OpenMMLab's code bases."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import torch
import torchvision
from torch import nn

from layouts.layout import WORTHLESS, Layout, Written, randomised, saved, under, without, worthless
from layouts.lightly import spoiled, torchvision_resnet
from layouts.resnets import resnet
from moco_eval.data.images import InputSpec
from moco_eval.encoders.formats.inputs import CAFFE
from moco_eval.encoders.networks import build_network

OPENSELFSUP = "open-mmlab/OpenSelfSup@1db69ec: openselfsup/models, tools/train.py"
RUNNER = "open-mmlab/mmengine@25434293: mmengine/runner/runner.py"
MMPRETRAIN = "open-mmlab/mmpretrain@ee7f2e88: mmpretrain/models/backbones"
FED_BY_PILLOW = "img_norm_cfg = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])\n"
FED_BY_OPENCV = """
data_preprocessor = dict(
    mean=(
        123.675,
        116.28,
        103.53,
    ), std=(58.395, 57.12, 57.375), bgr_to_rgb=True)
"""
NECK = {"0.mlp.0.weight": torch.full((4, 512), WORTHLESS)}


def _moco(folder: Path) -> Written:
    network, state = resnet()
    content = {
        "meta": {
            "mmcv_version": "0.6.2",
            "openselfsup_version": "0.3.0",
            "config": "model = dict(type='MOCO')\n" + FED_BY_PILLOW,
        },
        "state_dict": {
            **under("encoder_q.0.", worthless(state)),
            **under("encoder_q.1.", NECK),
            **under("encoder_k.0.", worthless(state)),
            **under("encoder_k.1.", NECK),
            **under("backbone.", state),
            "queue": torch.full((4, 8), WORTHLESS),
            "queue_ptr": torch.zeros(1),
        },
        "optimizer": {},
    }
    return Written(
        path=saved(folder / "epoch_200.pth", content),
        expected=state,
        arch="resnet18",
        input=InputSpec(),
        tower="backbone",
        author=network,
    )


def _byol(folder: Path) -> Written:
    _, state = resnet()
    content = {
        "meta": {"mmselfsup_version": "0.11.0", "config": FED_BY_PILLOW},
        "state_dict": {
            **under("online_net.0.", worthless(state)),
            **under("online_net.1.", NECK),
            **under("target_net.0.", state),
            **under("target_net.1.", NECK),
            **under("backbone.", worthless(state)),
            **under("head.predictor.", NECK),
        },
    }
    return Written(
        path=saved(folder / "epoch_200.pth", content),
        expected=state,
        arch="resnet18",
        input=InputSpec(),
        tower="target_net",
        hints={"tower": "target_net"},
    )


def _by_mmengine(network, config, path, **others):
    """What mmengine writes of a network: as its runner does, with a history of losses beside."""
    import mmengine
    from mmengine.config import Config
    from mmengine.logging import MessageHub
    from mmengine.runner import save_checkpoint, weights_to_cpu

    hub = MessageHub.get_instance(str(path))
    hub.update_scalar("train/loss", WORTHLESS)
    meta = {
        "cfg": Config.fromstring(config, ".py").pretty_text,
        "seed": 1,
        "mmengine_version": mmengine.__version__,
        "epoch": 1,
        "iter": 10,
    }
    state = weights_to_cpu(network.state_dict())
    content = {"meta": meta, "state_dict": state, "message_hub": hub.state_dict(), **others}
    save_checkpoint(content, str(path))
    return path


def _mocov3(folder: Path) -> Written:
    from mmengine.model import ExponentialMovingAverage

    network = torchvision_resnet()
    neck = spoiled(nn.Linear(512, 8))
    momentum = ExponentialMovingAverage(nn.Sequential(spoiled(network), neck))
    last_step = under("module.backbone.", worthless(resnet()[1])) | {"steps": torch.tensor(7)}
    parts = {"backbone": network, "neck": neck, "momentum_encoder": momentum}
    path = _by_mmengine(
        nn.ModuleDict(parts),
        "model = dict(backbone=dict(type='ResNet', style='pytorch'))" + FED_BY_OPENCV,
        folder / "epoch_1.pth",
        ema_state_dict=last_step,
    )
    return Written(
        path=path,
        expected=resnet()[1],
        arch="resnet18",
        input=InputSpec(),
        tower="backbone",
        author=network,
    )


def _last_step(folder: Path) -> Written:
    _, state = resnet()
    content = {
        "meta": {"mmengine_version": "0.10.7", "cfg": FED_BY_OPENCV},
        "state_dict": under("backbone.", worthless(state)),
        "ema_state_dict": {
            **under("module.backbone.", state),
            **under("module.neck.", NECK),
            "steps": torch.tensor(7),
        },
    }
    return Written(
        path=saved(folder / "epoch_1.pth", content),
        expected=state,
        arch="resnet18",
        input=InputSpec(),
        tower="ema_state_dict",
        hints={"tower": "ema_state_dict"},
    )


def _caffe(folder: Path) -> Written:
    """The stride in the first convolution, and pixels less Caffe's mean, blue first."""
    network, state = resnet("resnet50_v1")
    config = """
model = dict(backbone=dict(type='ResNet', depth=50, style="caffe"))
data_preprocessor = dict(mean=[103.53, 116.28, 123.675], std=[1, 1, 1], to_rgb=False)
"""
    content = {
        "meta": {"mmengine_version": "0.10.7", "cfg": config},
        "state_dict": under("backbone.", state),
    }
    return Written(
        path=saved(folder / "epoch_1.pth", content),
        expected=state,
        arch="resnet50_v1",
        input=dataclasses.replace(CAFFE, std=(0.003921568627,) * 3),
        tower="backbone",
        author=network,
    )


class _ConvModule(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, images):
        return self.bn(self.conv(images)).relu()


def v1d():
    """mmpretrain's ResNetV1d-18, of torchvision's parts, and its state under its own names."""
    network = torchvision.models.resnet18()
    network.conv1 = nn.Sequential(
        _ConvModule(3, 32, stride=2), _ConvModule(32, 32), _ConvModule(32, 64)
    )
    network.bn1, network.fc = nn.Identity(), nn.Identity()
    for layer in (network.layer2, network.layer3, network.layer4):
        conv, norm = layer[0].downsample
        conv.stride = (1, 1)
        pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
        layer[0].downsample = nn.Sequential(pool, conv, norm)
    state = randomised(network).state_dict()
    return network, {re.sub(r"^conv1\.", "stem.", name): value for name, value in state.items()}


def _deep(folder: Path) -> Written:
    network, state = v1d()
    content = {
        "meta": {"mmengine_version": "0.10.7", "cfg": FED_BY_OPENCV},
        "state_dict": under("backbone.", state),
    }
    names = {
        **{f"stem.{i}.conv": f"conv1.{3 * i}" for i in (0, 1, 2)},
        **{"stem.0.bn": "conv1.1", "stem.1.bn": "conv1.4", "stem.2.bn": "bn1"},
    }
    expected = {}
    for name, tensor in state.items():
        module, _, last = name.rpartition(".")
        expected[f"{names.get(module, module)}.{last}"] = tensor
    return Written(
        path=saved(folder / "epoch_1.pth", content),
        expected=expected,
        arch="timm:resnet18d",
        input=InputSpec(),
        tower="backbone",
        author=network,
    )


# timm's names of a ViT's tensors, and mmpretrain's.
VIT_NAMES = (
    ("blocks.", "layers."),
    (".norm1.", ".ln1."),
    (".norm2.", ".ln2."),
    (".mlp.fc1.", ".ffn.layers.0.0."),
    (".mlp.fc2.", ".ffn.layers.1."),
    (".ls1.gamma", ".attn.gamma1.weight"),
    (".ls2.gamma", ".ffn.gamma2.weight"),
    ("patch_embed.proj.", "patch_embed.projection."),
)


def _vit_state(network):
    state = {}
    for name, tensor in without(network.state_dict(), "head.").items():
        theirs = f"ln1.{name.removeprefix('norm.')}" if name.startswith("norm.") else name
        for ours, mms in VIT_NAMES:
            theirs = theirs.replace(ours, mms)
        state[theirs] = tensor
    return state


def _vit(folder: Path, arch: str, config: str) -> Written:
    network = randomised(build_network(arch))
    content = {
        "meta": {"mmengine_version": "0.10.7", "cfg": config + FED_BY_OPENCV},
        "state_dict": {
            **under("backbone.", _vit_state(network)),
            **under("head.", NECK),
            **under("data_preprocessor.", NECK),
        },
        "message_hub": {},
    }
    return Written(
        path=saved(folder / "epoch_1.pth", content),
        expected=network.state_dict(),
        arch=arch,
        input=InputSpec(),
        tower="backbone",
    )


def _small_vit(folder: Path) -> Written:
    """768 wide with 8 heads, and not 12 as everybody's."""
    arch = "timm:vit_base_patch16_224:depth=8,mlp_ratio=3.0,num_heads=8"
    return _vit(folder, arch, "model = dict(backbone=dict(arch='small'))")


def _scaled_vit(folder: Path) -> Written:
    arch = "timm:vit_small_patch14_dinov2:depth=2,img_size=224,patch_size=16"
    return _vit(folder, arch, "model = dict(backbone=dict(arch=dict(embed_dims=384)))")


def _mocov3_vit(folder: Path) -> Written:
    return _vit(folder, "vit_small_mocov3", "model = dict(backbone=dict(arch='mocov3-small'))")


LAYOUTS = (
    Layout(
        format="mmengine",
        case="MoCo v3, averaged weights",
        evidence="library",
        by="mmengine",
        requires=("mmengine",),
        write=_mocov3,
    ),
    *(
        Layout(format=row, case=case, evidence="synthetic", by=by, write=write)
        for row, case, by, write in (
            ("openselfsup", "MoCo", OPENSELFSUP, _moco),
            ("mmselfsup-0", "BYOL's target network", OPENSELFSUP, _byol),
            ("mmengine", "weights before averaging", RUNNER, _last_step),
            ("mmengine", "Caffe's style, told by the configuration", MMPRETRAIN, _caffe),
            ("mmengine-v1d", "ResNet-D", MMPRETRAIN, _deep),
            ("mmengine", "ViT-small with 8 heads", MMPRETRAIN, _small_vit),
            ("mmengine", "ViT with LayerScale", MMPRETRAIN, _scaled_vit),
            ("mmengine", "MoCo v3's ViT with 12 heads", MMPRETRAIN, _mocov3_vit),
        )
    ),
)
