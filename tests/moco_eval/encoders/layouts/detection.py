"""Files of Detectron2 and Caffe2."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import torch
from torch import nn

from layouts.layout import WORTHLESS, Layout, Written, randomised, saved, under, without
from layouts.resnets import resnet
from moco_eval.data.images import InputSpec
from moco_eval.encoders.networks import build_network

DETECTRON2 = "facebookresearch/detectron2@02b5c4e2"
MOCO = "facebookresearch/moco@7397dfe: detection/convert-pretrain-to-detectron2.py"
# Blue first, on 0-255, of which the deviation is left in: Detectron2's defaults.
BGR = InputSpec(
    mean=(103.53 / 255, 116.28 / 255, 123.675 / 255),
    std=(1 / 255,) * 3,
    channel_order="BGR",
)
HEADS = ("proposal_generator.rpn_head.conv.weight", "roi_heads.box_predictor.cls_score.weight")


def detectron2_name(name: str) -> str:
    """By hand from tools/convert-torchvision-to-d2.py."""
    name = re.sub(r"layer(\d)", lambda stage: f"res{int(stage[1]) + 1}", name)
    name = name if name.startswith("res") else f"stem.{name}"
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    return re.sub(r"bn(\d)", r"conv\1.norm", name)


def _theirs(state):
    # FrozenBatchNorm2d counts nothing.
    counted = "num_batches_tracked"
    return {detectron2_name(n): t for n, t in state.items() if not n.endswith(counted)}


def _heads(*names):
    return {name: torch.full((4, 4), WORTHLESS) for name in names}


def _backbone(path, **others):
    network, state = resnet("resnet18")
    return Written(
        path=path,
        expected=state,
        arch="resnet18",
        **{"input": InputSpec(), "author": network, **others},
    )


def _converted(folder: Path) -> Written:
    """MoCo's converter keeps the projector and BatchNorm's counters."""
    _, state = resnet("resnet18")
    held = {detectron2_name(name): tensor.numpy() for name, tensor in state.items()}
    held |= {"stem.fc.0.weight": np.full((4, 4), WORTHLESS, "f4")}
    path = folder / "moco.pkl"
    content = {"model": held, "__author__": "MOCO", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content))
    return _backbone(path)


def _fpn(folder: Path) -> Written:
    _, state = resnet("resnet18")
    lateral = ("backbone.fpn_lateral2.weight", "backbone.fpn_output2.weight")
    held = under("backbone.bottom_up.", _theirs(state)) | _heads(*HEADS, *lateral)
    held |= _heads("roi_heads.box_head.fc1.weight", "roi_heads.mask_head.deconv.weight")
    path = saved(folder / "model_final.pth", {"model": held, "optimizer": {}, "iteration": 9})
    hints = {"input": "imagenet", "arch": "resnet18"}
    return _backbone(path, tower="backbone", hints=hints)


def c4_model(state):
    """A C4 model: the last stage is the box head's, with MoCo's norm behind it."""
    theirs = _theirs(state)
    last = {name: tensor for name, tensor in theirs.items() if name.startswith("res5.")}
    held = under("backbone.", without(theirs, "res5.")) | under("roi_heads.", last)
    held |= _heads(*HEADS, "roi_heads.res5.norm.weight", "pixel_mean", "pixel_std")
    return {"model": held, "__author__": "Detectron2 Model Zoo"}


def _c4(folder: Path) -> Written:
    network, state = resnet("resnet50_v1")
    return Written(
        path=saved(folder / "model_final.pth", c4_model(state)),
        expected=state,
        arch="resnet50_v1",
        input=BGR,
        tower="backbone",
        hints={"arch": "resnet50_v1", "input": "caffe"},
        author=network,
    )


def _library_c4(folder: Path) -> Written:
    """A Faster R-CNN as its own configuration builds it: ResNet-50, stride in 1x1."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    config = get_cfg()
    config.MODEL.DEVICE = "cpu"
    config.MODEL.ROI_HEADS.NAME = "Res5ROIHeads"
    model = build_model(config).eval()
    _, state = resnet("resnet50_v1")
    theirs = _theirs(state)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            bare = re.sub(r"^(backbone|roi_heads)\.", "", name)
            tensor.copy_(theirs[bare]) if bare in theirs else tensor.fill_(WORTHLESS)

    def features(images):
        maps = model.roi_heads.res5(model.backbone(images)["res4"])
        return maps.mean((2, 3))

    return Written(
        path=saved(folder / "model_final.pth", {"model": model.state_dict(), "iteration": 9}),
        expected=state,
        arch="resnet50_v1",
        input=BGR,
        tower="backbone",
        hints={"arch": "resnet50_v1", "input": "caffe"},
        author=features,
    )


TINY = "class_token=false,depth=2,fc_norm=false,final_norm=false,global_pool=avg,img_size=64"
VIT = f"timm:vit_tiny_patch16_224:{TINY}"


def _vit_written(folder: Path, held, network) -> Written:
    """``held`` as ViTDet's backbone; the class token's row stands before its positions."""
    row = torch.full((1, 1, 192), WORTHLESS)
    state = {name: tensor for name, tensor in held.items() if "rel_pos" not in name}
    positions = {"pos_embed": torch.cat([row, state["pos_embed"]], 1)}
    model = under("backbone.net.", held | positions)
    model |= _heads(*HEADS, "backbone.simfp_2.0.weight", "backbone.simfp_4.0.norm.weight")
    return Written(
        path=saved(folder / "model_final.pth", {"model": model}),
        expected=state,
        arch=VIT,
        input=InputSpec(size=64),
        tower="backbone",
        hints={"input": "imagenet"},
        author=network,
    )


def _vitdet(folder: Path) -> Written:
    network = randomised(build_network(VIT))
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    tables = ("blocks.0.attn.rel_pos_h", "blocks.1.attn.rel_pos_w")
    return _vit_written(folder, state | _heads(*tables), network)


def _library_vitdet(folder: Path) -> Written:
    """Relative positions of 0, as they begin, change nothing: its own network can be asked."""
    from moco_eval.encoders.exports.vitdet import Plan
    from moco_eval.engines.detectron.backbones import build_vit

    plan = Plan(
        patch_size=16,
        in_chans=3,
        embed_dim=192,
        depth=2,
        num_heads=3,
        mlp_ratio=4.0,
        qkv_bias=True,
        norm_eps=1e-6,
        pretrain_img_size=64,
        pretrain_use_cls_token=False,
    )
    network = build_vit(plan, use_rel_pos=True)
    held = dict(randomised(network).state_dict())
    for name, tensor in held.items():
        if "rel_pos" in name:
            tensor.zero_()
    return _vit_written(folder, held, lambda images: network(images)["last_feat"].mean((2, 3)))


def _caffe2_name(name: str) -> str:
    """By hand from checkpoint/c2_model_loading.py: ``res2_0_branch2a_bn_s``."""
    kinds = {"weight": "w", "bias": "b"}
    layer, kind = name.rsplit(".", 1)
    if not layer.startswith("layer"):
        return {"conv1": "conv1_w", "bn1": f"res_conv1_bn_{'s' if kind == 'weight' else 'b'}"}[
            layer
        ]
    stage, block, part = layer.removeprefix("layer").split(".", 2)
    is_norm = part.startswith("bn") or part == "downsample.1"
    branch = "1" if part.startswith("downsample") else f"2{'abc'[int(part[-1]) - 1]}"
    end = ("bn_s" if kind == "weight" else "bn_b") if is_norm else kinds[kind]
    return f"res{int(stage) + 1}_{block}_branch{branch}_{end}"


def _caffe2_state():
    """A network whose norms are affine layers: what a mean and a variance did, they do."""
    network = randomised(build_network("resnet50_v1", num_classes=3))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
            module.running_var.fill_(1 - module.eps)
            # Nothing is divided, so that features would grow without bound.
            module.weight.data.mul_(0.05)
    network.fc = nn.Identity()
    return network, network.state_dict()


def _caffe2(folder: Path) -> Written:
    network, state = _caffe2_state()
    # The first convolution has a bias there; the mean that is subtracted after it takes it up.
    bias = torch.linspace(-1, 1, 64)
    network.bn1.running_mean.copy_(-bias)
    blobs = {
        _caffe2_name(name): tensor.numpy()
        for name, tensor in state.items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }
    blobs |= {"conv1_b": bias.numpy()}
    blobs |= {f"{name}_momentum": np.full_like(blobs[name], WORTHLESS) for name in list(blobs)[:9]}
    blobs |= {name: np.full((4, 4), WORTHLESS, "f4") for name in ("fc1000_w", "pred_w", "lr")}
    path = folder / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": blobs}))
    return Written(path=path, expected=state, arch="resnet50_v1", input=BGR, author=network)


def _caffe2_norms(folder: Path) -> Written:
    """The file that Detectron2 fetches: norms with statistics, and no mapping around them."""
    network, state = resnet("resnet50_v1")
    ends = {"bn_s": "bn_gamma", "bn_b": "bn_beta"}
    arrays = {}
    for name, tensor in state.items():
        layer, kind = name.rsplit(".", 1)
        if kind.startswith("running"):
            theirs = _caffe2_name(f"{layer}.weight").replace("bn_s", f"bn_{kind}")
        elif kind != "num_batches_tracked":
            theirs = re.sub("bn_[sb]$", lambda end: ends[end[0]], _caffe2_name(name))
        else:
            continue
        arrays[theirs] = tensor.numpy()
    arrays |= {"fc1000_b": np.full((4,), WORTHLESS, "f4")}
    path = folder / "R-50.pkl"
    path.write_bytes(pickle.dumps(arrays))
    return Written(path=path, expected=state, arch="resnet50_v1", input=BGR, author=network)


LAYOUTS = (
    Layout(
        format="detectron2",
        case="converted from MoCo, .pkl",
        evidence="synthetic",
        by=MOCO,
        write=_converted,
    ),
    Layout(
        format="detectron2-model",
        case="FPN",
        evidence="synthetic",
        by=DETECTRON2,
        write=_fpn,
    ),
    Layout(
        format="detectron2-model",
        case="C4",
        evidence="synthetic",
        by=DETECTRON2,
        write=_c4,
    ),
    Layout(
        format="detectron2-model",
        case="C4 of its own configuration",
        evidence="library",
        by="detectron2",
        requires=("detectron2",),
        write=_library_c4,
    ),
    Layout(
        format="vitdet",
        case="training checkpoint",
        evidence="synthetic",
        by=f"{DETECTRON2}: modeling/backbone/vit.py",
        write=_vitdet,
    ),
    Layout(
        format="vitdet",
        case="ViT of the library",
        evidence="library",
        by="detectron2",
        requires=("detectron2",),
        write=_library_vitdet,
    ),
    Layout(
        format="caffe2",
        case="MSRA's ResNet-50",
        evidence="synthetic",
        by=f"{DETECTRON2}: checkpoint/c2_model_loading.py",
        write=_caffe2,
    ),
    Layout(
        format="caffe2",
        case="with statistics",
        evidence="synthetic",
        by=f"{DETECTRON2}: checkpoint/c2_model_loading.py",
        write=_caffe2_norms,
    ),
)
