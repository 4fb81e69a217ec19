"""Files of BYOL, SimSiam, Barlow Twins and VICReg."""

from __future__ import annotations

import argparse
import pickle
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchvision
from torch import nn

from layouts.layout import WORTHLESS, Layout, Written, randomised, saved, under, without, worthless
from layouts.resnets import resnet
from moco_eval.data.images import InputSpec

LUCIDRAINS = "byol-pytorch"
BARLOW = "facebookresearch/barlowtwins@8e8d284"
VICREG = "facebookresearch/vicreg@4e12602"
HEAD = {
    "0.weight": torch.full((8, 512), WORTHLESS),
    "1.running_mean": torch.full((8,), WORTHLESS),
    "3.weight": torch.full((8, 8), WORTHLESS),
    "6.weight": torch.full((8, 8), WORTHLESS),
}
FC = {"weight": torch.full((1000, 512), WORTHLESS), "bias": torch.full((1000,), WORTHLESS)}


def _written(path, *, tower="encoder", network=None, tower_asked=False, has_author=True):
    ours, state = resnet()
    return Written(
        path=path,
        expected=network.state_dict() if network else state,
        arch="resnet18",
        input=InputSpec(),
        tower=tower,
        hints={"tower": tower} if tower_asked else {},
        author=(network or ours) if has_author else None,
    )


def _learner():
    """BYOL's state, in which only the online encoder's network is of worth, and that network."""
    from byol_pytorch import BYOL

    network = randomised(torchvision.models.resnet18(num_classes=3))
    learner = BYOL(network, image_size=32, projection_size=8, projection_hidden_size=8)
    held = learner.state_dict()
    for name, tensor in held.items():
        # The network lies there twice, in the same memory.
        if not name.startswith(("online_encoder.net.", "net.")) or ".fc." in name:
            tensor.fill_(WORTHLESS)
    network.fc = nn.Identity()
    return held, network


def _lucidrains(folder: Path) -> Written:
    held, network = _learner()
    path = saved(folder / "learner.pt", held)
    return _written(path, tower="online_encoder", network=network)


def _lucidrains_target(folder: Path) -> Written:
    held, network = _learner()
    wanted = under("target_encoder.net.", network.state_dict())
    held = {name: wanted.get(name, torch.full_like(t, WORTHLESS)) for name, t in held.items()}
    content = {"epoch": 9, "pytorch-lightning_version": "2.5.0"}
    path = saved(folder / "epoch=9.ckpt", content | {"state_dict": under("learner.", held)})
    return _written(path, tower="target_encoder", network=network, tower_asked=True)


class _ByolExperimentState(NamedTuple):
    online_params: object
    target_params: object
    online_state: object
    target_state: object
    opt_state: object


class FrozenMapping:
    """What haiku's immutable mapping pickles to."""

    def __init__(self, mapping):
        self._mapping = mapping


def _haiku_module(name: str) -> str:
    """By hand from haiku: counting begins at 0, and a module made in a constructor follows ``~``.

    ``layer2.1.conv1`` is ``block_group_1/~/block_1/~/conv_0``.
    """
    if not name.startswith("layer"):
        return {"conv1": "initial_conv", "bn1": "initial_batchnorm"}[name]
    stage, block, rest = name.removeprefix("layer").split(".", 2)
    rest = rest.replace("downsample.0", "shortcut_conv").replace("downsample.1", "shortcut_bn")
    rest = re.sub(r"(\d)", lambda digit: f"_{int(digit[1]) - 1}", rest).replace("bn", "batchnorm")
    return f"block_group_{int(stage) - 1}/~/block_{block}/~/{rest}"


def _haiku(state):
    params, statistics = {}, {}
    for name, tensor in state.items():
        layer, kind = name.rsplit(".", 1)
        module = f"res_net50/~/{_haiku_module(layer)}"
        if tensor.dim() == 4:
            params[module] = {"w": tensor.permute(2, 3, 1, 0).numpy()}
        elif kind in ("weight", "bias"):
            theirs = {"weight": "scale", "bias": "offset"}[kind]
            params.setdefault(module, {})[theirs] = tensor.reshape(1, 1, 1, -1).numpy()
        elif kind != "num_batches_tracked":
            ema = f"{module}/~/{kind.removeprefix('running_')}_ema"
            average = tensor.reshape(1, 1, 1, -1).numpy()
            hidden = np.full_like(average, WORTHLESS)
            statistics[ema] = {"average": average, "hidden": hidden, "counter": np.array(7)}
    head = np.full((8, 8), WORTHLESS, "f4")
    params["projector/linear"] = params["predictor/linear"] = params["classifier"] = {"w": head}
    statistics["projector/batch_norm/~/mean_ema"] = {"average": head, "hidden": head}
    return [
        FrozenMapping({name: FrozenMapping(values) for name, values in held.items()})
        for held in (params, statistics)
    ]


def _deepmind(folder: Path) -> Written:
    _, state = resnet()
    online, target = _haiku(state), _haiku(worthless(state))
    byol = _ByolExperimentState(online[0], target[0], online[1], target[1], opt_state=("lars", 1))
    path = folder / "pretrain_res50x1.pkl"
    path.write_bytes(pickle.dumps({"experiment_state": byol, "step": 5, "rng": np.zeros(2, "u4")}))
    # haiku pads otherwise: there is no author to ask.
    return _written(path, tower="online", has_author=False)


def _simsiam(folder: Path) -> Written:
    held = under("encoder.", resnet()[1] | under("fc.", HEAD)) | under("predictor.", HEAD)
    content = {"epoch": 100, "arch": "resnet18", "state_dict": under("module.", held)}
    return _written(saved(folder / "checkpoint_0099.pth.tar", content | {"optimizer": {}}))


def _barlow(folder: Path) -> Written:
    held = under("backbone.", resnet()[1]) | under("projector.", HEAD)
    held |= {"bn.running_mean": torch.full((8,), WORTHLESS)}
    content = {"epoch": 1000, "model": under("module.", held), "optimizer": {}}
    return _written(saved(folder / "checkpoint.pth", content))


def _vicreg(folder: Path) -> Written:
    held = under("backbone.", resnet()[1]) | under("projector.", HEAD)
    content = {"epoch": 1000, "model": under("module.", held), "optimizer": {}}
    return _written(saved(folder / "model.pth", content))


def _backbone_only(folder: Path) -> Written:
    return _written(saved(folder / "resnet50.pth", resnet()[1]))


def _evaluated(held):
    return {
        "epoch": 100,
        "best_acc": argparse.Namespace(top1=73.2, top5=91.1),
        "model": under("module.", held),
        "optimizer": {},
        "scheduler": {},
    }


def _barlow_linear(folder: Path) -> Written:
    held = without(resnet()[1], "fc.") | under("fc.", FC)
    return _written(saved(folder / "checkpoint.pth", _evaluated(held)))


def _vicreg_linear(folder: Path) -> Written:
    held = under("0.", resnet()[1]) | under("1.", FC)
    return _written(saved(folder / "checkpoint.pth", _evaluated(held)))


LAYOUTS = (
    Layout(
        format="byol-lucidrains",
        case="state dict",
        evidence="library",
        by=LUCIDRAINS,
        requires=("byol_pytorch",),
        write=_lucidrains,
    ),
    Layout(
        format="byol-lucidrains",
        case="Lightning, target encoder",
        evidence="library",
        by=LUCIDRAINS,
        requires=("byol_pytorch",),
        write=_lucidrains_target,
    ),
    Layout(
        format="byol-deepmind",
        case="training state",
        evidence="synthetic",
        by="google-deepmind/deepmind-research@f5de0ed: byol/byol_experiment.py",
        write=_deepmind,
    ),
    Layout(
        format="simsiam",
        case="training checkpoint",
        evidence="synthetic",
        by="facebookresearch/simsiam@a7bc177: main_simsiam.py",
        write=_simsiam,
    ),
    Layout(
        format="barlow-twins",
        case="training checkpoint",
        evidence="synthetic",
        by=f"{BARLOW}: main.py",
        write=_barlow,
    ),
    Layout(
        format="vicreg",
        case="training checkpoint",
        evidence="synthetic",
        by=f"{VICREG}: main_vicreg.py",
        write=_vicreg,
    ),
    Layout(
        format="torchvision",
        case="backbone of Barlow Twins or VICReg",
        evidence="synthetic",
        by=f"{BARLOW}: main.py; {VICREG}: hubconf.py",
        write=_backbone_only,
    ),
    Layout(
        format="torchvision",
        case="linear evaluation of Barlow Twins",
        evidence="synthetic",
        by=f"{BARLOW}: evaluate.py",
        write=_barlow_linear,
    ),
    Layout(
        format="vicreg-linear",
        case="linear evaluation",
        evidence="synthetic",
        by=f"{VICREG}: evaluate.py",
        write=_vicreg_linear,
    ),
)
