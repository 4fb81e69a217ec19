"""Files of torchvision and timm."""

from __future__ import annotations

from pathlib import Path

import torchvision
from layouts.layout import Layout, Written, randomised, saved, without

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


LAYOUTS = (
    Layout(
        format="torchvision",
        case="bare state dict",
        evidence="library",
        by="torchvision",
        write=_torchvision,
    ),
)
