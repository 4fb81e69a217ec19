"""Files of SwAV, SeLa-v2 and DeepCluster-v2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from layouts.layout import WORTHLESS, Layout, Written, saved, under
from layouts.resnets import resnet
from moco_eval.data.images import InputSpec

SOURCE = "facebookresearch/swav@06b1b7c"
# The s.d. of red is theirs.
INPUT = InputSpec(std=(0.228, 0.224, 0.225))
HEAD = {
    "projection_head.0.weight": torch.full((8, 512), WORTHLESS),
    "projection_head.1.running_mean": torch.full((8,), WORTHLESS),
    "projection_head.3.bias": torch.full((4,), WORTHLESS),
}
PROTOTYPES = torch.full((3, 4), WORTHLESS)


def _written(path, arch="resnet18"):
    network, state = resnet(arch)
    return Written(path=path, expected=state, arch=arch, input=INPUT, author=network)


def _published(folder: Path) -> Written:
    held = resnet("resnet18")[1] | HEAD | {"prototypes.weight": PROTOTYPES}
    return _written(saved(folder / "swav_800ep_pretrain.pth.tar", under("module.", held)))


def _training(folder: Path) -> Written:
    held = resnet("resnet18_w2x")[1] | HEAD | {"prototypes.weight": PROTOTYPES}
    content = {
        "epoch": 10,
        "state_dict": under("module.", held),
        # A schedule of numpy's gives the learning rate.
        "optimizer": {"param_groups": [{"lr": np.float64(0.6)}]},
        "arch": "resnet18w2",
    }
    return _written(saved(folder / "checkpoint.pth.tar", content), "resnet18_w2x")


def _deepcluster(folder: Path) -> Written:
    heads = {f"prototypes.prototypes{number}.weight": PROTOTYPES for number in range(3)}
    held = under("module.", resnet("resnet18")[1] | HEAD | heads)
    content = {"epoch": 10, "state_dict": held, "optimizer": {}, "arch": "resnet18"}
    return _written(saved(folder / "checkpoint.pth.tar", content))


LAYOUTS = (
    Layout(
        format="swav",
        case="published",
        evidence="synthetic",
        by=f"{SOURCE}: hubconf.py",
        write=_published,
    ),
    Layout(
        format="swav",
        case="training checkpoint, twice as wide",
        evidence="synthetic",
        by=f"{SOURCE}: main_swav.py",
        write=_training,
    ),
    Layout(
        format="deepcluster-v2",
        case="training checkpoint",
        evidence="synthetic",
        by=f"{SOURCE}: main_deepclusterv2.py",
        write=_deepcluster,
    ),
)
