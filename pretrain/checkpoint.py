"""Checkpoints in upstream's layout, from which the same command also resumes.

A MoCo checkpoint holds ``{epoch, arch, state_dict, optimizer}`` with ``module.encoder_q.*``,
``module.encoder_k.*``, ``module.queue`` and ``module.queue_ptr``: what facebookresearch/moco's
scripts write and read. One more key, ``moco_eval``, says how it was made. As every random draw is
keyed by its place in training, no generator's state needs to be saved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from moco_eval.encoders.reader import read
from moco_eval.errors import CheckpointError, UsageError
from moco_eval.files import atomic_file
from pretrain.moco import MoCo
from pretrain.supervised import Supervised

NAME = "checkpoint.pth.tar"


def save(
    path: Path,
    model: MoCo | Supervised,
    optimizer: torch.optim.Optimizer,
    *,
    epoch: int,
    arch: str,
    manifest: dict[str, Any],
) -> None:
    """Write the state after ``epoch`` epochs in one piece: the old file stays until it is whole."""
    module, prefix = _saved_module(model)
    content = {
        "epoch": epoch,
        "arch": arch,
        "state_dict": {f"{prefix}{name}": t for name, t in module.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "moco_eval": manifest,
    }
    with atomic_file(path) as file:
        torch.save(content, file)


def resume(
    path: Path,
    model: MoCo | Supervised,
    optimizer: torch.optim.Optimizer,
    *,
    manifest: dict[str, Any],
) -> int:
    """Restore the state that ``save`` wrote and return the number of finished epochs.

    Raises:
        CheckpointError: If the file is damaged or is not one of ours.
        UsageError: If it belongs to another run: each differing setting is named, both values.
    """
    root = read(path).root
    if "moco_eval" not in root:
        raise CheckpointError(
            f"{path} was not written by moco-pretrain. Choose another --output for this run."
        )
    refuse_other_run(path, saved=root["moco_eval"], asked=manifest)
    module, prefix = _saved_module(model)
    tensors = {name.removeprefix(prefix): t for name, t in root["state_dict"].items()}
    module.load_state_dict(tensors, strict=True)
    optimizer.load_state_dict(root["optimizer"])
    return int(root["epoch"])


def refuse_other_run(path: Path, *, saved: dict[str, Any], asked: dict[str, Any]) -> None:
    """Refuse to continue a run under other settings than it began with."""
    old, new = _flat(saved), _flat(asked)
    differing = [
        f"{key} was {old.get(key)!r}, now {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if differing:
        raise UsageError(
            f"{path} belongs to another run: {'; '.join(differing)}. "
            "Choose another --output, or repeat the settings it began with."
        )


def _saved_module(model: MoCo | Supervised) -> tuple[nn.Module, str]:
    # Upstream saves what DistributedDataParallel wraps, hence its prefix.
    return (model, "module.") if isinstance(model, MoCo) else (model.encoder, "")


def _flat(manifest: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in manifest.items():
        flat |= _flat(value) if isinstance(value, dict) else {key: _plain(value)}
    return flat


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
