"""Checkpoints that are spread over the files of a folder: torch's DCP, and Hugging Face's shards.

torch itself unpickles the ``.metadata`` of a distributed checkpoint in full, which runs whatever it
asks for; here it is a tree of inert notes. The layout is that of torch.distributed.checkpoint's
metadata.py and filesystem.py.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections import defaultdict
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moco_eval.encoders.reading.archives import read_zip
from moco_eval.encoders.reading.inert import Inert, parse
from moco_eval.encoders.reading.plain import NoStorages, plain
from moco_eval.encoders.reading.refusals import damage_named
from moco_eval.errors import CheckpointError

METADATA = ".metadata"
MAX_DEPTH = 32
INDEX = ".index.json"
TENSOR = "torch.distributed.checkpoint.metadata.TensorStorageMetadata"


def read_sharded(folder: Path) -> tuple[dict[str, Any], list[Path]]:
    """Read a distributed checkpoint's tensors, nested as they were saved; other entries stay out.

    Returns:
        The outermost mapping, and the files that it was read from.

    Raises:
        CheckpointError: If a shard is missing, lies elsewhere, overlaps another, or is damaged.
    """
    path = folder / METADATA
    size = path.stat().st_size
    with damage_named(path), path.open("rb") as file:
        root = plain(parse(file, path, size=size).root, path, storages=NoStorages(), size=size)
        said = _said(root)
        entries = {
            name: _said(entry)
            for name, entry in said["state_dict_metadata"].items()
            if entry.kind == TENSOR
        }
        pieces = [
            _Piece(folder, _said(place), _said(index))
            for index, place in said["storage_data"].items()
        ]
    pieces = [piece for piece in pieces if piece.name in entries]
    by_name, by_file = defaultdict(list), defaultdict(list)
    for piece in pieces:
        by_name[piece.name].append(piece)
        by_file[piece.path].append(piece)
    with damage_named(path):
        for shard, within in by_file.items():
            _require_within(shard, within)
        tensors = {
            name: _assembled(path, name, tuple(entry["size"]), by_name[name])
            for name, entry in entries.items()
        }
        nested = _nested(tensors, said.get("planner_data"))
    return nested, [path, *sorted(by_file)]


class _Piece:
    """A part of one tensor: where its bytes lie, and where in the tensor it begins."""

    def __init__(self, folder: Path, place: Mapping[str, Any], index: Mapping[str, Any]) -> None:
        self.name: str = index["fqn"]
        self.origin: tuple[int, ...] = tuple(index.get("offset") or ())
        self.path = folder / _bare(folder, place["relative_path"])
        self.offset: int = place["offset"]
        self.length: int = place["length"]
        if place.get("transform_descriptors"):
            raise CheckpointError(
                f"{folder}: the tensor {self.name} was saved compressed or otherwise transformed "
                f"({place['transform_descriptors']}), which is not read. Save it without."
            )

    def read(self) -> Tensor:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.length)
        found = read_zip(io.BytesIO(content), self.path, size=self.length)
        if not isinstance(found, Tensor):
            raise TypeError(f"{self.path.name} has a {type(found).__name__} for {self.name}")
        return found


def _require_within(shard: Path, pieces: list[_Piece]) -> None:
    """Refuse pieces that lie beyond the end of ``shard``, or that share bytes of it."""
    if not shard.is_file():
        raise CheckpointError(
            f"{shard} is missing: a part of {pieces[0].name} lies in it. Fetch all shards again."
        )
    size, end = shard.stat().st_size, 0
    for piece in sorted(pieces, key=lambda piece: piece.offset):
        if piece.offset < end or not 0 < piece.length <= size - piece.offset:
            raise EOFError(
                f"a part of {piece.name} lies in bytes {piece.offset} to "
                f"{piece.offset + piece.length} of {shard.name}, which is {size} bytes long and "
                f"holds another up to {end}"
            )
        end = piece.offset + piece.length


def _assembled(path: Path, name: str, shape: tuple[int, ...], pieces: list[_Piece]) -> Tensor:
    """The tensor ``name``, each of whose numbers lies in exactly one piece."""
    parts = [(piece.origin or (0,) * len(shape), piece.read()) for piece in pieces]
    found = sum(part.numel() for _, part in parts)
    # Compared before the whole is allocated; the second allocation is no larger than the parts.
    if found != prod(shape) or len({part.dtype for _, part in parts}) != 1:
        raise CheckpointError(
            f"{path} declares {name} of shape {list(shape)}, {prod(shape)} numbers; its shards "
            f"hold {found}. A shard is missing or belongs to another save: fetch all of them again."
        )
    whole = torch.empty(shape, dtype=parts[0][1].dtype)
    filled = torch.zeros(shape, dtype=torch.bool)
    for origin, part in parts:
        where = tuple(slice(o, o + n) for o, n in zip(origin, part.shape, strict=True))
        whole[where] = part
        filled[where] = True
    if not filled.all():
        raise CheckpointError(
            f"{path}: the shards of {name} overlap and leave {int((~filled).sum())} of its numbers "
            "without a value. They belong to different saves: fetch all of them again."
        )
    return whole


def _nested(tensors: Mapping[str, Tensor], paths: Any) -> dict[str, Any]:
    """Each tensor under the path that the planner noted for its name, or under its name."""
    root: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *outer, last = paths.get(name, (name,)) if isinstance(paths, Mapping) else (name,)
        if len(outer) > MAX_DEPTH:
            raise ValueError(f"{name} lies {len(outer)} deep")
        inner = root
        for key in outer:
            inner = inner.setdefault(key, {})
        inner[last] = tensor
    return root


def _said(node: Any) -> dict[str, Any]:
    """The attributes of one of DCP's own records."""
    if not isinstance(node, Inert) or not isinstance(node.state, dict):
        raise pickle.UnpicklingError(f"it has {node!r:.60} in place of a record of DCP's")
    return node.state


def _bare(source: Path, name: Any) -> str:
    """``name``, if it is that of a file in the same folder."""
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
        raise CheckpointError(
            f"{source} is refused: it names {str(name)[:80]!r} as a file with weights, which does "
            "not lie beside it. Fetch the checkpoint from its author again."
        )
    return name


def read_indexed(path: Path, read: Callable[[Path], Any]) -> tuple[dict[str, Any], list[Path]]:
    """Read the shards that Hugging Face's ``path`` names, each by ``read``.

    Raises:
        CheckpointError: If the index is damaged, or a shard lacks what it should hold.
    """
    with damage_named(path):
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted({_bare(path, name) for name in places.values()})
        content = {name: read(path.with_name(name)) for name in shards}
        missing = sorted(name for name, shard in places.items() if name not in content[shard])
        if missing:
            raise CheckpointError(
                f"{path} says that {missing[0]} lies in {places[missing[0]]}, which lacks it. The "
                "shards belong to different saves: fetch all of them again."
            )
        root = {name: content[shard][name] for name, shard in places.items()}
    return root, [path.with_name(name) for name in shards]


def sha256_of_all(files: list[Path]) -> str:
    """The hexadecimal SHA-256 of the bytes of all ``files``, one after the other."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
