"""What wrappers of networks and ways to save them make of a file, of whoever's network."""

from __future__ import annotations

import argparse
import copy
import warnings
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from layouts.layout import Layout, Written, saved, under
from layouts.lightly import spoiled, torchvision_resnet
from layouts.resnets import resnet
from moco_eval.data.images import InputSpec


def _classified():
    """A ResNet-18 of torchvision's with a classifier that must not get into an encoder."""
    network = torchvision_resnet()
    network.fc = spoiled(nn.Linear(512, 3))
    return network


def _written(path, **others):
    return Written(path=path, expected=resnet()[1], arch="resnet18", input=InputSpec(), **others)


def _data_parallel(folder: Path) -> Written:
    # The names are those of DistributedDataParallel, which wants a process group.
    network = nn.DataParallel(_classified())
    return _written(saved(folder / "net.pth", network.state_dict()), author=resnet()[0])


def _compiled(folder: Path) -> Written:
    network = nn.DataParallel(torch.compile(_classified()))
    assert "module._orig_mod.conv1.weight" in network.state_dict()
    return _written(saved(folder / "net.pth", {"model": network.state_dict()}))


def _compiled_stage(folder: Path) -> Written:
    network = _classified()
    network.layer1 = torch.compile(network.layer1)
    network = torch.compile(network)
    assert "_orig_mod.layer1._orig_mod.0.conv1.weight" in network.state_dict()
    return _written(saved(folder / "net.pth", {"state_dict": network.state_dict()}))


def _reference_training(averaged):
    """What torchvision's references/classification/train.py saves: a command line beside."""
    network = _classified()
    spoilt = spoiled(network)
    average = torch.optim.swa_utils.AveragedModel(network if averaged else spoilt)
    args = argparse.Namespace(model="resnet18", epochs=600, model_ema=True)
    return {
        "model": (spoilt if averaged else network).state_dict(),
        "optimizer": {"state": {}},
        "lr_scheduler": {"last_epoch": 1},
        "epoch": 1,
        "args": args,
        "model_ema": average.state_dict(),
    }


def _training(folder: Path) -> Written:
    return _written(saved(folder / "checkpoint.pth", _reference_training(averaged=False)))


def _averaged(folder: Path) -> Written:
    return _written(
        saved(folder / "checkpoint.pth", _reference_training(averaged=True)),
        tower="model_ema",
        hints={"tower": "model_ema"},
    )


def _sharded_names(folder: Path) -> Written:
    """Names as FSDP1 and fairscale have them in a full state dict that was saved inside."""
    state = {
        name.replace(".0.", ".0._checkpoint_wrapped_module.", 1): tensor
        for name, tensor in _classified().state_dict().items()
    }
    outer = under("_fsdp_wrapped_module._fpw_module.", state)
    return _written(saved(folder / "net.pth", outer))


def _checkpointed(folder: Path) -> Written:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    network = _classified()
    network.layer1 = checkpoint_wrapper(network.layer1)
    return _written(saved(folder / "net.pth", network.state_dict()))


def _distributed(folder: Path) -> Written:
    import torch.distributed.checkpoint as dcp

    path = folder / "step-100"
    with warnings.catch_warnings():
        # One process needs no process group, and torch says so.
        warnings.simplefilter("ignore")
        dcp.save({"model": _classified().state_dict()}, checkpoint_id=path)
    return _written(path)


def _whole(folder: Path) -> Written:
    return _written(saved(folder / "model.pt", nn.DataParallel(_classified())))


def _script(folder: Path) -> Written:
    path = folder / "scripted.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(_classified()).save(path)
    return _written(path)


def _safetensors(folder: Path) -> Written:
    path = folder / "model.safetensors"
    safetensors.torch.save_file(copy.copy(_classified().state_dict()), path)
    return _written(path)


LAYOUTS = tuple(
    Layout(format="torchvision", case=case, evidence=evidence, by=by, write=write)
    for case, evidence, by, write in (
        ("DataParallel", "library", "torch", _data_parallel),
        ("torch.compile within DataParallel", "library", "torch", _compiled),
        ("torch.compile, also of a stage", "library", "torch", _compiled_stage),
        ("reference training", "library", "torchvision", _training),
        ("reference training's averaged weights", "library", "torch", _averaged),
        ("names of FSDP and fairscale", "synthetic", "torch 2.15: FSDP1", _sharded_names),
        ("activation checkpointing", "library", "torch", _checkpointed),
        ("distributed checkpoint", "library", "torch", _distributed),
        ("whole module", "library", "torch", _whole),
        ("TorchScript", "library", "torch", _script),
        ("safetensors", "library", "safetensors", _safetensors),
    )
)
