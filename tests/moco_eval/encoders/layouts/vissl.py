"""Files of VISSL."""

from __future__ import annotations

from pathlib import Path

import torch

from layouts.layout import WORTHLESS, Layout, Written, saved, under, worthless
from layouts.resnets import resnet
from moco_eval.data.images import InputSpec

CHECKPOINT = "facebookresearch/vissl@09270ed2: vissl/utils/checkpoint.py"
CONVERTED = "facebookresearch/vissl@09270ed2: extra_scripts/convert_vissl_to_torchvision.py"
BLOCKS = "_feature_blocks."


def _checkpoint(trunks, loss=None):
    heads = {"0.clf.0.weight": torch.full((4, 512), WORTHLESS)}
    state = {
        name: {"model": {"trunk": trunk, "heads": heads}, "meta": {}}
        for name, trunk in trunks.items()
    }
    return {
        "phase_idx": 9,
        "iteration": 90,
        "loss": 0.5,
        "iteration_num": 9,
        "train_phase_idx": 9,
        "classy_state_dict": {"train": True, "loss": loss or {}, "optimizer": {}, **state},
        "type": "consolidated",
    }


def _written(path, state, **others):
    return Written(path=path, expected=state, arch="resnet18", input=InputSpec(), **others)


def _base(folder: Path) -> Written:
    network, state = resnet()
    trunks = {
        "base_model": under(BLOCKS, state),
        "ema_model": under(BLOCKS, worthless(state)),
    }
    path = saved(folder / "model_final_checkpoint_phase99.torch", _checkpoint(trunks))
    return _written(path, state, tower="base_model", author=network)


def _ema(folder: Path) -> Written:
    _, state = resnet()
    inside = f"base_model.{BLOCKS}"
    trunks = {
        "base_model": under(inside, worthless(state)),
        "ema_model": under(inside, state),
    }
    path = saved(folder / "model_phase9.torch", _checkpoint(trunks))
    return _written(path, state, tower="ema_model", hints={"tower": "ema_model"})


def _teacher(folder: Path) -> Written:
    _, state = resnet()
    loss = under(f"momentum_teacher.module.trunk.{BLOCKS}", state)
    loss["momentum_teacher.module.heads.0.last_layer.weight"] = torch.full((4, 8), WORTHLESS)
    loss["center"] = torch.full((1, 4), WORTHLESS)
    trunks = {"base_model": under(BLOCKS, worthless(state))}
    path = saved(folder / "model_phase9.torch", _checkpoint(trunks, loss))
    return _written(path, state, tower="momentum_teacher")


def _model_state_dict(folder: Path) -> Written:
    _, state = resnet()
    content = {"model_state_dict": under(BLOCKS, state)}
    return _written(saved(folder / "model.torch", content), state, tower="trunk")


def _arrays(folder: Path) -> Written:
    _, state = resnet()
    head = {"fc.weight": torch.full((3, 512), WORTHLESS)}
    arrays = {name: tensor.numpy() for name, tensor in (state | head).items()}
    content = {"model_state_dict": arrays}
    return _written(saved(folder / "converted.torch", content), state)


def _bare(folder: Path) -> Written:
    _, state = resnet()
    path = saved(folder / "converted_vissl_rn18.torch", under(BLOCKS, state))
    return _written(path, state, tower="trunk")


LAYOUTS = tuple(
    Layout(format=format, case=case, evidence="synthetic", by=by, write=write)
    for format, case, by, write in (
        ("vissl", "checkpoint with averaged weights beside", CHECKPOINT, _base),
        ("vissl", "averaged weights, inside a base_model", CHECKPOINT, _ema),
        ("vissl", "DINO, whose teacher lies in the loss", CHECKPOINT, _teacher),
        ("vissl-trunk", "under model_state_dict", CONVERTED, _model_state_dict),
        ("torchvision", "VISSL's converted arrays", CONVERTED, _arrays),
        ("vissl-trunk", "bare trunk", CONVERTED, _bare),
    )
)
