"""Checkpoints from which the same command resumes as if it had never stopped.

A checkpoint is a folder ``checkpoints/step-00004400/`` with two files. ``checkpoint.pth.tar`` holds
``{epoch, arch, state_dict, optimizer}``: what facebookresearch/moco's scripts write and read; the
key ``moco_eval`` says how it was made. ``manifest.json`` holds its size and sha256. The folder is
written beside its place and renamed, so that one without a manifest does not exist. As every random
draw is keyed by its place in training, no generator's state needs to be saved.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Generic, TypeVar, cast

import torch
from torch import nn

from moco_eval import __version__, distributed
from moco_eval.encoders.reading.reader import RECORD, read
from moco_eval.errors import CheckpointError, DataError, RankError, UsageError
from moco_eval.files import atomic_file, atomic_folder, sha256_of, sync_folder, write_text

NAME = "checkpoint.pth.tar"
MANIFEST = "manifest.json"
FOLDER = "checkpoints"
FORMAT = 1
# Two, so that one is good while another is written, read or found to be damaged.
NUM_KEPT = 2
# A new checkpoint beside an old one, and some room for metrics and pictures.
SPACE_NEEDED = 2.2

Model = TypeVar("Model", bound=nn.Module)


@dataclass
class State(Generic[Model]):
    """Everything that training changes.

    Attributes:
        model: What is trained, and what follows it.
        optimizer: With its momentum.
        scaler: Of fp16's gradients; without a state in other precisions.
        part: The name of the submodule whose tensors are saved; empty for the whole model.
        prefix: Before each tensor's name in the file, such as ``module.``.
    """

    model: Model
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    part: str = ""
    prefix: str = ""

    @property
    def saved(self) -> nn.Module:
        """The module whose tensors a checkpoint holds."""
        return self.model.get_submodule(self.part)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        output: The run's folder.
        arch: What the encoder is called in the files.
        run: What the run is: recipe, data, seed. Another run's checkpoints are refused.
        option: With which option of the command line the user names the folder.
    """

    def __init__(
        self, output: Path, *, arch: str, run: Mapping[str, Any], option: str = "--output"
    ) -> None:
        self.final = output / NAME
        self.folder = output / FOLDER
        self.arch = arch
        self.run = dict(run)
        self.option = option

    def save(self, state: State[Any], *, step: int, epoch: int) -> Path:
        """Write the state after ``step`` steps, in one piece, and return the file's path.

        Raises:
            OutputError: If it cannot be written; older checkpoints stay as they are.
        """
        content = {
            "epoch": epoch,
            "step": step,
            "arch": self.arch,
            "state_dict": {
                f"{state.prefix}{name}": t for name, t in state.saved.state_dict().items()
            },
            "optimizer": state.optimizer.state_dict(),
            "scaler": state.scaler.state_dict(),
            RECORD: self.run,
        }
        path = self.folder / f"step-{step:08d}"
        with atomic_folder(path) as folder:
            with (folder / NAME).open("wb") as file:
                hashed = _Hashing(file)
                torch.save(_canonical(content), cast(IO[bytes], hashed))
                file.flush()
                os.fsync(file.fileno())
            described = {"size": hashed.size, "sha256": hashed.sha256}
            manifest = {
                "format": FORMAT,
                "step": step,
                "epoch": epoch,
                "world_size": distributed.world_size(),
                "files": {NAME: described},
                "code": __version__,
                "torch": torch.__version__,
            }
            write_text(folder / MANIFEST, json.dumps(manifest, indent=1))
        self._drop_old()
        return path / NAME

    def resume(self, state: State[Any], *, allow_world_size_change: bool) -> int:
        """Restore the newest good checkpoint and return its step; 0 where there is none.

        Rank 0 chooses and the others follow. One whose bytes are not those that were written is put
        aside as ``*.corrupt``, and the one before it is taken.

        Raises:
            CheckpointError: If there were checkpoints and none is good, or one is not ours.
            UsageError: If it belongs to another run, or to another number of processes.
            DataError: If only the images differ.
        """
        newest = torch.tensor([self._tidy_newest() if distributed.rank() == 0 else 0])
        step = int(distributed.broadcast(newest.to(_device_of(state.model))))
        if step < 0:
            raise CheckpointError(
                f"{self.folder} holds no checkpoint that is as it was written, see above. Choose "
                f"another {self.option}, or remove that folder to begin again."
            )
        if step == 0:
            return 0
        path = self.folder / f"step-{step:08d}"
        if not (path / NAME).exists():
            raise RankError(f"Rank {distributed.rank()} does not see {path}, which rank 0 reads.")
        self._refuse_other_world_size(path, allow_world_size_change)
        root = read(path / NAME).root
        refuse_other_run(path, saved=root.get(RECORD, {}), asked=self.run, option=self.option)
        tensors = {name.removeprefix(state.prefix): t for name, t in root["state_dict"].items()}
        try:
            state.saved.load_state_dict(tensors, strict=True)
            state.optimizer.load_state_dict(root["optimizer"])
            state.scaler.load_state_dict(root["scaler"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{path} does not hold this run's state: {error}") from error
        if root.get("step") != step:
            raise CheckpointError(f"{path} says that it is of step {root.get('step')}.")
        return step

    def publish(self, step: int) -> None:
        """Give the last checkpoint the name under which others look for it, unless it has it."""
        newest = self.folder / f"step-{step:08d}" / NAME
        if self.final.exists() and sha256_of(self.final) == sha256_of(newest):
            return
        with atomic_file(self.final) as file, newest.open("rb") as content:
            shutil.copyfileobj(content, file)

    def require_space(self, state: State[Any]) -> None:
        """Refuse to begin a run whose checkpoints do not fit on the disk.

        Raises:
            UsageError: With what is needed and what is free.
        """
        needed = SPACE_NEEDED * _num_bytes(state)
        parent = next(p for p in (self.folder, *self.folder.absolute().parents) if p.exists())
        free = shutil.disk_usage(parent).free
        if free < needed:
            raise UsageError(
                f"{self.folder} has {free / 2**20:,.0f} MiB free, and the checkpoints of this run "
                f"need {needed / 2**20:,.0f} MiB. Choose another {self.option}."
            )

    def _tidy_newest(self) -> int:
        """The step of the newest checkpoint whose bytes are as written; 0: none; -1: none left."""
        leftovers = list(self.folder.glob(".step-*.tmp"))
        for path in leftovers:
            shutil.rmtree(path, ignore_errors=True)
        if leftovers:
            print(f"{self.folder}: removed {len(leftovers)} half-written checkpoints.", flush=True)
        for step in self._steps():
            path = self.folder / f"step-{step:08d}"
            damage = _damage(path, step)
            if damage is None:
                return step
            aside = path.with_name(f"{path.name}.corrupt")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            print(f"{path} is damaged ({damage}); put aside as {aside.name}.", flush=True)
        # What was put aside counts: the same command again must not begin anew unasked.
        return -1 if any(self.folder.glob("step-*.corrupt")) else 0

    def _steps(self) -> list[int]:
        """Steps of the checkpoints, newest first."""
        found = [path.name[5:] for path in self.folder.glob("step-*")]
        return sorted((int(number) for number in found if number.isdigit()), reverse=True)

    def _drop_old(self) -> None:
        for step in self._steps()[NUM_KEPT:]:
            path = self.folder / f"step-{step:08d}"
            # Renamed first: a kill while it is removed leaves nothing that looks whole.
            doomed = path.with_name(f".{path.name}.tmp")
            path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        sync_folder(self.folder)

    def _refuse_other_world_size(self, path: Path, allowed: bool) -> None:
        saved = json.loads((path / MANIFEST).read_text())["world_size"]
        now = distributed.world_size()
        if saved != now and not allowed:
            raise UsageError(
                f"{path} was written by {saved} processes, now there are {now}. Start {saved}, or "
                "pass --allow-world-size-change: every step then sees the same images, but sums "
                "are formed in another order, so that the last digits differ."
            )


def refuse_other_run(
    path: Path, *, saved: Mapping[str, Any], asked: Mapping[str, Any], option: str = "--output"
) -> None:
    """Refuse to continue a run under other settings than it began with.

    Raises:
        UsageError: With each setting that differs and both values.
        DataError: If only the images differ.
    """
    old, new = _flat(saved), _flat(asked)
    differing = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    if not differing:
        return
    told = "; ".join(f"{key} was {old.get(key)!r}, now {new.get(key)!r}" for key in differing)
    error = DataError if differing == ["data"] else UsageError
    raise error(
        f"{path} belongs to another run: {told}. "
        f"Choose another {option}, or repeat the settings it began with."
    )


class _Hashing:
    """A file that knows the hash of what was written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.size = 0
        self._digest = hashlib.sha256()

    def write(self, block: bytes) -> int:
        self._digest.update(block)
        self.size += len(block)
        written: int = self.file.write(block)
        return written

    def flush(self) -> None:
        self.file.flush()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def _damage(folder: Path, step: int) -> str | None:
    """What is wrong with the bytes of the checkpoint of ``step``; None if nothing is."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        described, _ = manifest["step"], manifest["world_size"]
        file = manifest["files"][NAME]
        expected_size, expected_sha256 = file["size"], file["sha256"]
        size = (folder / NAME).stat().st_size
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its {MANIFEST} cannot be used: {error!r}"
    if described != step:
        return f"its {MANIFEST} is of step {described}"
    if size != expected_size:
        return f"{NAME} has {size} of {expected_size} bytes"
    if sha256_of(folder / NAME) != expected_sha256:
        return f"{NAME} has another sha256 than was written"
    return None


def _canonical(value: Any) -> Any:
    """Equal content as equal bytes: pickle writes a string again unless it is the same object."""
    if isinstance(value, dict):
        return {_canonical(key): _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    return sys.intern(str(value)) if isinstance(value, str) else value


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _num_bytes(state: State[Any]) -> int:
    """What a checkpoint will take: the model, and what the optimizer keeps of each gradient."""
    module = state.saved
    held = sum(t.numel() * t.element_size() for t in module.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    copies = 2 if isinstance(state.optimizer, torch.optim.AdamW) else 1
    needed: int = held + copies * trained
    return needed


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value) if isinstance(value, Mapping) else {key: _plain(value)}
    return flat


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
