"""Files of SimCLR, by Google and by others."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch

from layouts.bundle import bundle
from layouts.layout import WORTHLESS, Layout, Written, saved, under, worthless
from layouts.resnets import resnet
from moco_eval.data.images import InputSpec

# Pixels on 0-1, as none of them normalises.
UNIT = InputSpec(mean=(0, 0, 0), std=(1, 1, 1))
PROJECTOR = {"0.weight": torch.full((8, 512), WORTHLESS), "2.weight": torch.full((4, 8), WORTHLESS)}
BIASES = {"0.bias": torch.full((8,), WORTHLESS), "2.bias": torch.full((4,), WORTHLESS)}
FC = {"fc.weight": torch.full((1000, 2048), WORTHLESS), "fc.bias": torch.full((1000,), WORTHLESS)}


def _written(path, *, arch="resnet18", tower="encoder", is_asked=False):
    network, state = resnet(arch)
    return Written(
        path=path,
        expected=state,
        arch=arch,
        input=UNIT,
        tower=tower,
        hints={"tower": tower} if is_asked else {},
        author=network,
    )


def _sthalles(folder: Path) -> Written:
    _, state = resnet("resnet18")
    held = under("backbone.", state | under("fc.", PROJECTOR | BIASES))
    content = {"epoch": 200, "arch": "resnet18", "state_dict": held, "optimizer": {}}
    return _written(saved(folder / "checkpoint_0200.pth.tar", content))


def _spijkervet(folder: Path) -> Written:
    _, state = resnet("resnet18")
    held = under("encoder.", state) | under("projector.", PROJECTOR)
    return _written(saved(folder / "checkpoint_100.tar", held))


def _spijkervet_lightning(folder: Path) -> Written:
    _, state = resnet("resnet18")
    inner = under("encoder.", worthless(state)) | under("projector.", PROJECTOR)
    held = under("encoder.", state) | under("model.", inner)
    content = {"epoch": 9, "pytorch-lightning_version": "1.4.2", "state_dict": held}
    return _written(saved(folder / "epoch=9.ckpt", content))


def _block(name: str) -> str:
    return ".".join(name.split(".")[:2])


def _tonylins(folder: Path) -> Written:
    _, state = resnet("resnet50")
    blocks = list(dict.fromkeys(map(_block, state)))
    # A block's shortcut is its first member there.
    names = sorted(state, key=lambda name: (blocks.index(_block(name)), ".downsample" not in name))
    held = {name: state[name] for name in names} | FC
    return _written(saved(folder / "resnet50-1x.pth", {"state_dict": held}), arch="resnet50")


def _not_tonylins(folder: Path) -> Written:
    """The same names in torchvision's own order, and so its own normalisation."""
    network, state = resnet("resnet50")
    path = saved(folder / "resnet50.pth", {"state_dict": state | FC})
    return Written(path=path, expected=state, arch="resnet50", input=InputSpec(), author=network)


def _separius_name(name: str) -> str:
    """By hand from its resnet.py: a block's convolutions are members 0, 2, 4 of a list."""
    if not name.startswith("layer"):
        return name.replace("conv1", "net.0.0").replace("bn1", "net.0.1.0")
    stage, block, rest = name.removeprefix("layer").split(".", 2)
    for ours, theirs in {
        "downsample.0": "projection.shortcut",
        "downsample.1": "projection.bn.0",
        "conv1": "net.0",
        "bn1": "net.1.0",
        "conv2": "net.2",
        "bn2": "net.3.0",
        "conv3": "net.4",
        "bn3": "net.5.0",
    }.items():
        rest = rest.replace(ours, theirs) if rest.startswith(ours) else rest
    return f"net.{stage}.blocks.{block}.{rest}"


def _separius(folder: Path) -> Written:
    _, state = resnet("resnet50")
    held = {_separius_name(name): tensor for name, tensor in state.items()} | FC
    head = {"layers.0.weight": torch.full((4, 4), WORTHLESS)}
    path = saved(folder / "r50_1x_sk0.pth", {"resnet": held, "head": head})
    return _written(path, arch="resnet50")


def simclr_variables(state, scope):
    """TensorFlow's variables of a ResNet, numbered as they are created: a shortcut comes first."""
    order = ["conv1"]
    for name in state:
        if name.endswith(".conv1.weight"):
            block = name.removesuffix(".conv1.weight")
            shortcut = [f"{block}.downsample.0"] * (f"{block}.downsample.0.weight" in state)
            order += [*shortcut, *(f"{block}.conv{number}" for number in (1, 2, 3))]
    parts = {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    }
    variables = {}
    for number, conv in enumerate(order):
        end = f"_{number}" if number else ""
        norm = conv.replace("conv", "bn").replace("downsample.0", "downsample.1")
        # (out, in, height, width) there is (height, width, in, out).
        kernel = state[f"{conv}.weight"].permute(2, 3, 1, 0)
        variables[f"{scope}/conv2d{end}/kernel"] = kernel.contiguous().numpy()
        for ours, theirs in parts.items():
            name = f"{scope}/batch_normalization{end}/{theirs}"
            variables[name] = state[f"{norm}.{ours}"].numpy()
    return variables


def _tensorflow(folder: Path, *, tower: str, scopes: tuple[str, str]) -> Written:
    """The first of two scopes is of worth, and is the tower."""
    variables = simclr_variables(resnet("resnet50")[1], scopes[0])
    others = dict(list(simclr_variables(resnet("resnet50")[1], scopes[1]).items())[:9])
    # Of the same shapes as the encoder's, and not it.
    others |= {f"{name}/Momentum": value for name, value in list(variables.items())[:9]}
    others = {name: np.full_like(value, WORTHLESS) for name, value in others.items()}
    for head in ("head_contrastive/nl_0", "ema_model/head_contrastive/nl_0"):
        others[f"{head}/dense/kernel"] = np.full((4, 8), WORTHLESS, "f4")
    others["global_step"] = np.array(250228)
    path = folder / "model.ckpt-250228.index"
    bundle(path, variables | others)
    return _written(path, arch="resnet50", tower=tower, is_asked=tower == "ema_model")


BASE, EMA = "base_model", "ema_model/base_model"
LAYOUTS = (
    Layout(
        format="simclr-sthalles",
        case="training checkpoint",
        evidence="synthetic",
        by="sthalles/SimCLR@1848fc9: simclr.py",
        write=_sthalles,
    ),
    Layout(
        format="simclr-spijkervet",
        case="bare state dict",
        evidence="synthetic",
        by="Spijkervet/SimCLR@2738efa: simclr/simclr.py",
        write=_spijkervet,
    ),
    Layout(
        format="simclr-spijkervet",
        case="Lightning",
        evidence="synthetic",
        by="Spijkervet/SimCLR@2738efa: main_pl.py",
        write=_spijkervet_lightning,
    ),
    Layout(
        format="simclr-tonylins",
        case="1x",
        evidence="synthetic",
        by="tonylins/simclr-converter@139d3cb: convert.py",
        write=_tonylins,
    ),
    Layout(
        format="torchvision",
        case="names like tonylins' SimCLR",
        evidence="synthetic",
        by="pytorch/vision 0.29.2: torchvision/models/resnet.py",
        write=_not_tonylins,
    ),
    Layout(
        format="simclr-separius",
        case="r50_1x_sk0",
        evidence="synthetic",
        by="Separius/SimCLRv2-Pytorch@f4c2f41: convert.py",
        write=_separius,
    ),
    Layout(
        format="simclr-tensorflow",
        case="base model",
        evidence="synthetic",
        by="google-research/simclr@383d414: resnet.py, model.py",
        write=functools.partial(_tensorflow, tower="base_model", scopes=(BASE, EMA)),
    ),
    Layout(
        format="simclr-tensorflow",
        case="averaged model",
        evidence="synthetic",
        by="google-research/simclr@383d414: resnet.py, model.py",
        write=functools.partial(_tensorflow, tower="ema_model", scopes=(EMA, BASE)),
    ),
)
