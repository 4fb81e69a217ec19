"""Files of PyTorch Lightning."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from layouts.layout import Layout, Written
from layouts.lightly import checkpoint_of, spoiled, torchvision_resnet
from layouts.resnets import resnet
from moco_eval.encoders.formats.inputs import HALF


def _written(path, **others):
    hints = {"input": "half", **others.pop("hints", {})}
    return Written(
        path=path, expected=resnet()[1], arch="resnet18", input=HALF, hints=hints, **others
    )


def _one(folder: Path) -> Written:
    network = torchvision_resnet()
    network.fc = spoiled(nn.Linear(512, 3))
    parts = {"model": network, "projector": spoiled(nn.Linear(512, 8))}
    return _written(checkpoint_of(parts, folder / "epoch=1.ckpt"), tower="model")


def _two(folder: Path) -> Written:
    network = torchvision_resnet()
    parts = {"student": spoiled(network), "teacher": network}
    path = checkpoint_of(parts, folder / "last.ckpt")
    return _written(path, tower="teacher", hints={"tower": "teacher"})


LAYOUTS = tuple(
    Layout(
        format="lightning",
        case=case,
        evidence="library",
        by="pytorch_lightning",
        requires=("pytorch_lightning",),
        write=write,
    )
    for case, write in (("one network", _one), ("the teacher of two networks", _two))
)
