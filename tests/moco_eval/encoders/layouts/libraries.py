"""Files of torchvision and timm."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import timm
import torch
import torchvision

from layouts.layout import WORTHLESS, Layout, Written, randomised, saved, without
from layouts.vits import TINY
from moco_eval.data.images import InputSpec


def _torchvision(folder: Path) -> Written:
    network = randomised(torchvision.models.resnet18())
    state = network.state_dict()
    network.fc = torchvision.ops.Permute([0, 1])
    return Written(
        path=saved(folder / "resnet18.pth", state),
        expected=without(state, "fc."),
        arch="resnet18",
        input=InputSpec(),
        author=network,
    )


def _timm_folder(folder: Path) -> Written:
    plan = {"depth": 2, "embed_dim": 64, "img_size": 32, "num_heads": 1}
    network = randomised(timm.create_model("vit_tiny_patch16_224", num_classes=3, **plan))
    network.pretrained_cfg |= {"input_size": (3, 32, 32), "mean": (0.3,) * 3, "crop_pct": 0.8}
    timm.models.save_for_hf(network, folder, model_args=plan)
    state = network.state_dict()
    network.reset_classifier(0)
    return Written(
        path=folder,
        expected=without(state, "head."),
        arch=TINY.replace("img_size=32", "img_size=[32,32]"),
        # 0.5 is the s.d. of AugReg's ViTs.
        input=InputSpec(
            size=32, mean=(0.3,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=0.8
        ),
        author=network,
    )


def _timm_bare(folder: Path) -> Written:
    arch = "timm:vit_tiny_patch16_224.augreg_in21k"
    network = randomised(timm.create_model("vit_tiny_patch16_224", num_classes=3))
    state = network.state_dict()
    network.reset_classifier(0)
    return Written(
        path=saved(folder / "vit.pth", state),
        expected=without(state, "head."),
        arch=arch,
        # So the tag's configuration says.
        input=InputSpec(mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=0.9),
        hints={"arch": arch},
        author=network,
    )


def _timm_training(folder: Path) -> Written:
    network = timm.create_model("resnet18", num_classes=3)
    averaged = timm.utils.ModelEmaV3(network)
    randomised(averaged.module)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.fill_(WORTHLESS)
    saver = timm.utils.CheckpointSaver(
        network,
        torch.optim.SGD(network.parameters(), lr=0.1),
        args=Namespace(model="resnet18", interpolation="bilinear", crop_pct=0.9),
        model_ema=averaged,
        checkpoint_dir=str(folder),
        recovery_dir=str(folder),
    )
    saver.save_checkpoint(3, metric=0.5)
    state = averaged.module.state_dict()
    averaged.module.reset_classifier(0)
    return Written(
        path=folder / "last.pth.tar",
        expected=without(state, "fc."),
        arch="timm:resnet18",
        # What the command line says goes before the configuration.
        input=InputSpec(crop_pct=0.9),
        tower="state_dict_ema",
        author=averaged.module,
    )


LAYOUTS = (
    Layout(
        format="torchvision",
        case="bare state dict",
        evidence="library",
        by="torchvision",
        write=_torchvision,
    ),
    Layout(
        format="timm",
        case="the folder, with arguments of the model",
        evidence="library",
        by="timm",
        write=_timm_folder,
    ),
    Layout(
        format="timm-training",
        case="with averaged weights",
        evidence="library",
        by="timm",
        write=_timm_training,
    ),
    Layout(
        format="timm-vit",
        case="bare, with its tag from the user",
        evidence="library",
        by="timm",
        write=_timm_bare,
    ),
)
