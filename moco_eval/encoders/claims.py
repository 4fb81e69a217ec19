"""Whose layout a checkpoint file has: the first row of ``FORMATS`` whose marks it bears."""

from __future__ import annotations

import dataclasses
import glob
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from moco_eval.encoders.formats import FORMATS, format_named
from moco_eval.encoders.formats.layout import (
    CLASSIFIER,
    Format,
    bears,
    said_at,
    strip_wrappers,
)
from moco_eval.encoders.hints import Hints
from moco_eval.encoders.reading.reader import RECORD, CheckpointFile, shortened
from moco_eval.errors import CheckpointError, UsageError

# How deep a file of no known layout is searched for tensors.
DEPTH = 4
# What VISSL calls a file that holds a part of a network, or the names of the files that do.
VISSL_PARTS = ("shard", "shard_list", "slice", "slice_list")
# What torch and fairscale call the parameters that FSDP flattened, of which each process has a cut.
FLAT = ("_flat_param", "flat_param")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A file that a format claims: its tensors under their author's names, and what it says.

    Attributes:
        source: The file, as errors name it.
        format: The row that claims it.
        tower: Which of its networks is taken.
        prefix: What leads the stripped names of that network's tensors.
        tensors: What lies in the tower's container.
        said: What the file says beside tensors.
        others: Formats without marks of their own as which the user may have it read instead.
    """

    source: str
    format: Format
    tower: str
    prefix: str
    tensors: Mapping[str, Any]
    said: Mapping[str, Any]
    others: tuple[str, ...] = ()


def claim(file: CheckpointFile, hints: Hints) -> Claim:
    """Find the format of ``file`` and the network in it that is meant.

    Raises:
        CheckpointError: If no row of ``FORMATS`` bears its marks, it holds no tensors, not the
            network that the user names, or none that is an encoder.
        UsageError: If the user must name the network, or names a format that there is not.
    """
    said = _facts(file)
    _refuse_parts(file, said)
    if hints.prefix is not None:
        return _led_by(file, said, hints.prefix)
    named = format_named(hints.format) if hints.format else None
    for row in [named] if named else FORMATS:
        if not named and row.asked:
            continue
        held = list(_towers(file, said, row))
        if held and row.refused:
            raise CheckpointError(
                f"{file.path} is of format '{row.name}', {row.title}: {row.refused}"
            )
        if held:
            others = () if named else _asked_about(file, said)
            return dataclasses.replace(_chosen(held, hints.tower), others=others)
    raise _unclaimed(file, said, named)


def _refuse_parts(file: CheckpointFile, said: Mapping[str, Any]) -> None:
    """Refuse a part of a network: the rest of it lies in the files of other processes.

    The files that a list names are not opened: their paths are whatever the file says.
    """
    kind = said.get("type")
    if isinstance(kind, str) and kind in VISSL_PARTS:
        raise CheckpointError(
            f"{file.path} is a {kind} of VISSL's, expected a consolidated checkpoint: the tensors "
            "lie in pieces in several files. Put them together where VISSL is installed, with "
            "sharded_to_consolidated_checkpoint of vissl/utils/checkpoint.py."
        )
    names = (name for _, tensors in containers_of(file.root) for name in tensors)
    flat = next((n for n in names if any(part.startswith(FLAT) for part in n.split("."))), None)
    if flat is not None:
        raise CheckpointError(
            f"{file.path} holds what one process of FSDP had: {flat} is a cut of many tensors in "
            "one, and the other cuts lie in the other processes' files. Save the whole network: "
            "a full state dict (torch's StateDictType.FULL_STATE_DICT), or a folder of "
            "torch.distributed.checkpoint."
        )


def _towers(file: CheckpointFile, said: Mapping[str, Any], row: Format) -> Iterator[Claim]:
    """A claim for each of the row's networks that the file holds."""
    if any(said_at(said, path) is None for path in row.says):
        return
    for tower in row.towers:
        for container in tower.containers:
            tensors = tensors_at(file.root, container, nested=tower.nested)
            names = [strip_wrappers(name) for name in tensors]
            led = (p for p in tower.prefixes if any(name.startswith(p) for name in names))
            prefix = next(led, None)
            if tensors and prefix is not None and bears(names, row):
                yield Claim(
                    source=str(file.path),
                    format=row,
                    tower=tower.name,
                    prefix=prefix,
                    tensors=tensors,
                    said=said,
                )
                break


def _asked_about(file: CheckpointFile, said: Mapping[str, Any]) -> tuple[str, ...]:
    """The formats without marks of their own that the file may be of."""
    return tuple(row.name for row in FORMATS if row.asked and any(_towers(file, said, row)))


def _chosen(held: list[Claim], asked: str | None) -> Claim:
    """The network that the user names, or else the one that the format's authors take."""
    names = [found.tower for found in held]
    if asked:
        for found in held:
            if found.tower == asked:
                return found
        raise CheckpointError(
            f"{held[0].source} holds no tower '{asked}'. It is of format "
            f"'{held[0].format.name}' and holds {' and '.join(names)}."
        )
    if held[0].format.equal_towers and len(held) > 1:
        raise UsageError(
            f"{held[0].source} holds several networks, {' and '.join(names)}, and its format "
            f"'{held[0].format.name}' does not say which one is meant. Say it: --tower NAME."
        )
    return held[0]


def _led_by(file: CheckpointFile, said: Mapping[str, Any], prefix: str) -> Claim:
    """The tensors that a user points at by what leads their names."""
    held = [
        (path, tensors)
        for path, tensors in containers_of(file.root)
        if any(strip_wrappers(name).startswith(prefix) for name in tensors)
    ]
    if len(held) != 1:
        where = " and ".join(f"'{'.'.join(path)}'" for path, _ in held)
        found = f"lies in each of {where}" if held else "leads no tensor's name"
        raise CheckpointError(
            f"{file.path}: --prefix {prefix} {found}. It must lead the names of one network."
            + ("" if held else f"\n{_contents(file)}")
        )
    path, tensors = held[0]
    # The rest of the file is other networks': that is what the user says.
    others = (strip_wrappers(n) for n in tensors if not strip_wrappers(n).startswith(prefix))
    row = Format(
        name="custom",
        title="what --prefix points at",
        drop=(f"{CLASSIFIER}.*", *map(glob.escape, others)),
        source="the command line",
    )
    return Claim(
        source=str(file.path),
        format=row,
        tower=".".join((*path, prefix)).strip("."),
        prefix=prefix,
        tensors=tensors,
        said=said,
    )


def other_prefixes(found: Claim) -> tuple[str, ...]:
    """What leads the names of the format's other networks, in the container that was taken."""
    others = [p for tower in found.format.towers for p in tower.prefixes if p != found.prefix]
    # One that also leads the names that are taken leads no other network's.
    return tuple(p for p in others if p and not found.prefix.startswith(p))


def tensors_at(
    root: Mapping[str, Any], container: tuple[str, ...], *, nested: bool = False
) -> Mapping[str, Any]:
    """The mapping under ``container`` if any of its values is a tensor, else an empty one.

    Args:
        root: What a file holds.
        container: A path of keys.
        nested: Whether the mapping holds mappings, whose keys slashes shall join.
    """
    found = said_at(root, container)
    if nested and isinstance(found, Mapping):
        found = dict(_joined(found))
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        return {}
    return found if any(isinstance(value, Tensor) for value in found.values()) else {}


def _joined(
    found: Mapping[str, Any], above: str = "", depth: int = DEPTH
) -> Iterator[tuple[str, Any]]:
    for key, value in found.items():
        if isinstance(value, Mapping) and depth:
            yield from _joined(value, f"{above}{key}/", depth - 1)
        else:
            yield f"{above}{key}", value


def containers_of(
    root: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every mapping of a file that holds tensors under names, with where it lies."""
    if tensors := tensors_at(root, ()):
        yield path, tensors
    if len(path) < DEPTH:
        for key, value in root.items():
            if isinstance(value, Mapping) and isinstance(key, str):
                yield from containers_of(value, (*path, key))


def _facts(file: CheckpointFile) -> dict[str, Any]:
    """What a file says beside its tensors; JSON in its metadata is parsed."""
    said = {key: value for key, value in file.root.items() if not isinstance(value, Tensor)}
    for key, text in file.metadata.items():
        if key != RECORD and not key.endswith(".json"):
            said.setdefault(key, text)
            continue
        try:
            said[key] = json.loads(text)
        except json.JSONDecodeError as error:
            raise CheckpointError(f"{file.path}: its {key} is no JSON: {error}.") from error
    return said


def _unclaimed(
    file: CheckpointFile, said: Mapping[str, Any], named: Format | None
) -> CheckpointError:
    """Show what the file holds, and which format comes nearest."""
    if named:
        return CheckpointError(f"{file.path} does not bear the marks of '{named.name}'.\n{ADVICE}")
    lines = [_contents(file)]
    names = [strip_wrappers(name) for _, tensors in containers_of(file.root) for name in tensors]
    if not names:
        return CheckpointError(
            f"{lines[0]} No tensors lie there under their names: is it a checkpoint of a network?"
        )
    if near := _nearest(names):
        lines.append(f"  the nearest format: {near}")
    if asked := _asked_about(file, said):
        lines.append(f"  it bears no author's mark; it may be --format {' or '.join(asked)}")
    return CheckpointError("\n".join([*lines, ADVICE]))


def _contents(file: CheckpointFile) -> str:
    held = [_summary(key, value) for key, value in file.root.items() if key != RECORD]
    text = f"{file.path} is of no known layout. It holds {shortened(held) or 'nothing'}."
    largest = max((tensors for _, tensors in containers_of(file.root)), key=len, default={})
    shown = [f"{n} {list(t.shape)}" for n, t in largest.items() if isinstance(t, Tensor)]
    return f"{text}\n  its first tensors: {shortened(shown)}" if shown else text


def _summary(key: Any, value: Any) -> str:
    if isinstance(value, Tensor) or not isinstance(value, Mapping):
        return str(key)
    return f"{key} ({len(value)} entries)"


def _nearest(names: list[str]) -> str:
    """The format whose marks the names bear once a prefix of theirs is removed."""
    for row in FORMATS:
        for prefix in _prefixes(names):
            inner = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
            if row.marks and bears(inner, row):
                return f"'{row.name}', if '{prefix}' led no name"
    return ""


def _prefixes(names: Iterable[str]) -> list[str]:
    """What leads the names, shortest first: ``a.`` and ``a.b.`` of ``a.b.c``."""
    parts = [name.split(".") for name in names]
    return sorted(
        {".".join(part[:depth]) + "." for part in parts for depth in (1, 2) if len(part) > depth},
        key=lambda prefix: (prefix.count("."), prefix),
    )


ADVICE = (
    "Known formats: moco-eval formats. For another author's layout say --prefix PREFIX, --arch "
    "NAME and --input INPUT, or add a row to moco_eval/encoders/formats."
)
