"""Files of solo-learn, PyContrast and PixPro."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import torch

from layouts.layout import WORTHLESS, Layout, Written, saved, under, worthless
from layouts.resnets import resnet
from moco_eval.data.images import InputSpec

SOLO = "vturrisi/solo-learn@9187ea3: solo/methods/base.py"
CONTRAST = "HobbitLong/PyContrast@84f94ea: learning/contrast_trainer.py"
PIXPRO = "zdaxie/PixPro@e390d6b: main_pretrain.py"
HEAD = {"weight": torch.full((4, 512), WORTHLESS), "bias": torch.full((4,), WORTHLESS)}
CIFAR10 = InputSpec(
    size=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), crop_pct=1.0
)


def _written(path, *, tower="encoder", is_asked=False):
    network, state = resnet("resnet18")
    return Written(
        path=path,
        expected=state,
        arch="resnet18",
        input=InputSpec(),
        tower=tower,
        hints={"tower": tower} if is_asked else {},
        author=network,
    )


def solo(folder: Path, networks):
    """solo-learn's file of networks by their names; what lies beside them is worthless."""
    heads = ("classifier", "projector.0", "projector.2", "predictor.0", "momentum_projector.0")
    held = {"queue": HEAD["weight"], "queue_ptr": torch.zeros(1)}
    for name, state in networks.items():
        held |= under(f"{name}.", state)
    for name in (*heads, "momentum_classifier"):
        held |= under(f"{name}.", HEAD)
    content = {"epoch": 999, "global_step": 9, "pytorch-lightning_version": "2.1.0", "loops": {}}
    return saved(folder / "mocov2plus-ep=999.ckpt", content | {"state_dict": held})


def _solo(folder: Path) -> Written:
    _, state = resnet("resnet18")
    path = solo(folder, {"backbone": state, "momentum_backbone": worthless(state)})
    return _written(path, tower="backbone")


def _solo_momentum(folder: Path) -> Written:
    _, state = resnet("resnet18")
    path = solo(folder, {"backbone": worthless(state), "momentum_backbone": state})
    return _written(path, tower="momentum_backbone", is_asked=True)


def _solo_old(folder: Path) -> Written:
    _, state = resnet("resnet18")
    path = solo(folder, {"encoder": state, "momentum_encoder": worthless(state)})
    return _written(path, tower="backbone")


def _solo_cifar(folder: Path) -> Written:
    network, state = resnet("resnet18_cifar_pad2")
    return Written(
        path=solo(folder, {"backbone": state}),
        expected=state,
        arch="resnet18_cifar_pad2",
        input=CIFAR10,
        tower="backbone",
        hints={"input": "cifar10"},
        author=network,
    )


def _pycontrast(folder: Path, *, ema: bool = False) -> Written:
    _, state = resnet("resnet18")
    head, jig = under("head.0.", HEAD), under("head_jig.fc1.", HEAD)
    right = under("module.", under("encoder.", state) | head | jig)
    wrong = under("module.", under("encoder.", worthless(state)) | head)
    content = {
        "opt": argparse.Namespace(arch="resnet18"),
        "model": wrong if ema else right,
        "model_ema": right if ema else wrong,
        "contrast": {"memory": HEAD["weight"]},
        "optimizer": {},
        "epoch": 800,
    }
    path = saved(folder / "InfoMin_800.pth", content)
    return _written(path, tower="model_ema" if ema else "model", is_asked=ema)


def _pixpro(folder: Path) -> Written:
    _, state = resnet("resnet18")
    held = (
        under("encoder.", state)
        | under("encoder_k.", worthless(state))
        | under("projector.linear1.", HEAD)
        | under("projector_k.linear1.", HEAD)
        | under("value_transform.", HEAD)
    )
    content = {
        "opt": argparse.Namespace(arch="resnet18", epochs=100),
        "model": under("module.", held),
        "optimizer": {},
        "scheduler": {},
        "epoch": 100,
    }
    return _written(saved(folder / "ckpt_epoch_100.pth", content))


LAYOUTS = (
    Layout(
        format="solo-learn",
        case="with a momentum network",
        evidence="synthetic",
        by=SOLO,
        write=_solo,
    ),
    Layout(
        format="solo-learn",
        case="the momentum network",
        evidence="synthetic",
        by=SOLO,
        write=_solo_momentum,
    ),
    Layout(
        format="solo-learn",
        case="of an older version",
        evidence="synthetic",
        by=SOLO,
        write=_solo_old,
    ),
    Layout(
        format="solo-learn",
        case="of CIFAR-10",
        evidence="synthetic",
        by=f"{SOLO}, solo/data/pretrain_dataloader.py",
        write=_solo_cifar,
    ),
    Layout(
        format="pycontrast",
        case="training checkpoint",
        evidence="synthetic",
        by=CONTRAST,
        write=_pycontrast,
    ),
    Layout(
        format="pycontrast",
        case="averaged network",
        evidence="synthetic",
        by=CONTRAST,
        write=functools.partial(_pycontrast, ema=True),
    ),
    Layout(
        format="pixpro",
        case="training checkpoint",
        evidence="synthetic",
        by=PIXPRO,
        write=_pixpro,
    ),
)
