"""Whose layout a checkpoint file has: the first row of ``FORMATS`` whose marks it bears."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from moco_eval.encoders.formats import FORMATS, Format, strip_wrappers
from moco_eval.encoders.reader import CONFIG, RECORD, CheckpointFile, shortened
from moco_eval.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A file that a format claims: its tensors under their author's names, and what it says."""

    source: str
    format: Format
    tensors: Mapping[str, Any]
    said: Mapping[str, Any]


def claim(file: CheckpointFile) -> Claim:
    """Find the format of ``file``.

    Raises:
        CheckpointError: If no row of ``FORMATS`` bears its marks, or it holds no tensors.
    """
    said = _facts(file)
    for row in FORMATS:
        if any(key not in said for key in row.root_keys):
            continue
        for container in row.containers:
            tensors = _tensors_at(file.root, container)
            if tensors and _bears(tensors, row):
                return Claim(source=str(file.path), format=row, tensors=tensors, said=said)
    raise _unknown_layout(file)


def said_at(said: Any, path: tuple[str, ...]) -> Any:
    """What a file says under a path of keys; None where it says nothing there."""
    for key in path:
        said = said.get(key) if isinstance(said, Mapping) else None
    return said


def _facts(file: CheckpointFile) -> dict[str, Any]:
    """What a file says beside its tensors; JSON in its metadata is parsed."""
    said = {key: value for key, value in file.root.items() if not isinstance(value, Tensor)}
    for key in (CONFIG, RECORD):
        if key in file.metadata:
            try:
                said[key] = json.loads(file.metadata[key])
            except json.JSONDecodeError as error:
                raise CheckpointError(f"{file.path}: its {key} is no JSON: {error}.") from error
    return said


def _tensors_at(root: Mapping[str, Any], container: tuple[str, ...]) -> Mapping[str, Any]:
    """The mapping under ``container`` if any of its values is a tensor, else an empty one."""
    found = said_at(root, container)
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        return {}
    return found if any(isinstance(value, Tensor) for value in found.values()) else {}


def _bears(names: Iterable[str], row: Format, *, prefix: str = "") -> bool:
    stripped = [strip_wrappers(name) for name in names]
    inner = [name.removeprefix(prefix) for name in stripped if name.startswith(prefix)]
    return all(fnmatch.filter(inner, mark) for mark in row.marks)


def _unknown_layout(file: CheckpointFile) -> CheckpointError:
    """Show what the file holds, and which format it would be but for a prefix."""
    held = [_summary(key, value) for key, value in file.root.items() if key != RECORD]
    containers = [(), *((key,) for key in file.root)]
    tensors = next(filter(None, (_tensors_at(file.root, path) for path in containers)), None)
    text = f"{file.path} is of no known layout. It holds {shortened(held) or 'nothing'}."
    if tensors is None:
        return CheckpointError(
            f"{text} No tensors lie there under their names: is it a checkpoint of a network?"
        )
    shown = [f"{n} {list(t.shape)}" for n, t in tensors.items() if isinstance(t, Tensor)]
    text += f"\n  its first tensors: {shortened(shown)}"
    for row in FORMATS:
        for prefix in _prefixes(tensors):
            if row.marks and _bears(tensors, row, prefix=prefix):
                text += f"\n  the nearest format: '{row.name}', if '{prefix}' led no name"
                return CheckpointError(f"{text}\n{ADVICE}")
    return CheckpointError(f"{text}\n{ADVICE}")


def _prefixes(names: Iterable[str]) -> list[str]:
    """What leads the names, shortest first: ``a.`` and ``a.b.`` of ``a.b.c``."""
    parts = [strip_wrappers(name).split(".") for name in names]
    return sorted(
        {".".join(part[:depth]) + "." for part in parts for depth in (1, 2) if len(part) > depth},
        key=lambda prefix: (prefix.count("."), prefix),
    )


def _summary(key: str, value: Any) -> str:
    if isinstance(value, Tensor):
        return str(key)
    return f"{key} ({len(value)} entries)" if isinstance(value, Mapping) else str(key)


ADVICE = (
    "Known formats: moco-eval formats. For another author's layout add a row to "
    "moco_eval/encoders/formats.py."
)
