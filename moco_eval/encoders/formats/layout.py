"""How one author lays a checkpoint out, and how a name in it is read."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from moco_eval.data.images import InputSpec
from moco_eval.encoders.reading.reader import RECORD

# Stands in a drop rule for what the network calls its classifier.
CLASSIFIER = "{classifier}"

# What DistributedDataParallel, torch.compile, FSDP and activation checkpointing put into names.
# DistributedDataParallel's stands at the beginning only; inside a name "module" is the author's.
WRAPPERS = frozenset(
    ("_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module")
)

Said = Mapping[str, Any]
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Tower:
    """One of the networks that a file may hold.

    Attributes:
        name: What ``--tower`` and manifests call it.
        containers: Where its tensors may lie, as paths of keys; the first that holds some is
            taken. ``()`` is the root.
        prefixes: What may lead its tensors' names; the first that leads one is taken.
        nested: Whether tensors lie in mappings inside the container; slashes join the keys.
    """

    name: str = "encoder"
    containers: tuple[tuple[str, ...], ...] = ((),)
    prefixes: tuple[str, ...] = ("",)
    nested: bool = False


@dataclass(frozen=True, kw_only=True)
class Format:
    """One author's way to lay a checkpoint out.

    Rules apply to names from which ``strip_wrappers`` removed what DistributedDataParallel and
    torch.compile put there. In ``marks``, ``unmarked`` and ``drop`` a ``*`` stands for any
    characters.

    Attributes:
        name: What errors, manifests and users call it.
        title: What it is, in a few words.
        towers: The networks that such a file may hold; the first that is there is taken, or the
            one that ``--tower`` names.
        equal_towers: Whether nobody documents which tower is meant: where a file holds more than
            one, the user must say.
        says: Paths of keys under which every such file says something beside its tensors.
        marks: Each matches at least one name in the tower's container.
        unmarked: None matches a name there.
        order: Two names of which the first comes before the second in the file.
        asked: Whether the file bears no mark of its author, so that it is read this way only where
            the user says so: ``--format``.
        refused: Why no encoder can be made of such a file, and what to do; empty where one can.
        drop: The names that are left out, before or after the prefix is removed. Another tower's
            names always are.
        rename: Pairs of a regular expression for their names, without prefix, and what takes its
            place; applied in order.
        transform: What remains to be done to make the tensors ours, under the renamed names; a
            ``ValueError`` says what is not as it must be.
        arch: Path to the architecture's name in what the file says; ``()`` where names and shapes
            tell.
        arch_names: Pairs of a regular expression for a whole name of an architecture, said or
            inferred, and our name of it; or how to find them in what the file says. What two
            authors do under one name, or with the same names and shapes, is told apart here.
        twins: Whether its authors use several architectures of the same names and shapes, so that
            the user must say which of ``TWINS`` it is.
        family: What ``build_network`` wants before that name.
        heads: Numbers of attention heads by width, where a head is not 64 wide; or how to find
            them in what the file says. Whatever is found so may raise a ``ValueError`` that says
            what the file lacks.
        options: What else names and shapes cannot tell of the architecture, as ``timm:NAME:...``
            takes it, or how to find it in what the file says.
        input: How such encoders are fed, or how to find it in what the file says; None where
            timm's configuration tells, or the user must.
        input_unless: A regular expression for whole names of architectures that are fed otherwise,
            so that the user must say how.
        caveat: In which respect the encoder computes something else here than at its author's.
        licence: Path to the licence in what the file says.
        source: Where the layout is written down.
    """

    name: str
    title: str
    towers: tuple[Tower, ...] = (Tower(),)
    equal_towers: bool = False
    says: tuple[tuple[str, ...], ...] = ()
    marks: tuple[str, ...] = ()
    unmarked: tuple[str, ...] = ()
    order: tuple[str, str] | None = None
    asked: bool = False
    refused: str = ""
    drop: tuple[str, ...] = ()
    rename: Pairs = ()
    transform: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    arch: tuple[str, ...] = ()
    arch_names: Pairs | Callable[[Said], Pairs] = ()
    twins: bool = False
    family: str = ""
    heads: Mapping[int, int] | Callable[[Said], Mapping[int, int]] = field(default_factory=dict)
    options: Mapping[str, Any] | Callable[[Said], Mapping[str, Any]] = field(default_factory=dict)
    input: InputSpec | Callable[[Said], InputSpec | None] | None = None
    input_unless: str = ""
    caveat: str = ""
    licence: tuple[str, ...] = ()
    source: str


def needs_of(row: Format) -> str:
    """What a user must say for a file of this format to load, as options."""
    if row.refused:
        return "another file: no encoder can be made of it"
    needs = []
    if row.asked:
        needs.append(f"--format {row.name}")
    if row.equal_towers:
        needs.append("--tower where it holds several")
    recorded = any(RECORD in path for path in row.says)
    if row.input is None and not row.family and not recorded:
        needs.append("--input, or --arch timm:NAME.TAG")
    elif callable(row.input) or row.input_unless:
        needs.append("--input where it does not say it")
    if row.twins:
        needs.append("--arch where its names and shapes have several")
    return "; ".join(needs) or "nothing"


def strip_wrappers(name: str) -> str:
    """Remove what wrappers of a network put into a name; see ``WRAPPERS``."""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    while parts[:1] == ["module"]:
        del parts[0]
    return ".".join(parts)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a stripped name matches one of a row's patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def bears(names: Iterable[str], row: Format) -> bool:
    """Whether the stripped names of a container are as the format's marks say."""
    held = list(names)
    if row.order:
        places = [held.index(name) for name in row.order if name in held]
        if len(places) < len(row.order) or places != sorted(places):
            return False
    marked = all(fnmatch.filter(held, mark) for mark in row.marks)
    return marked and not any(fnmatch.filter(held, mark) for mark in row.unmarked)


def to_ours(name: str, row: Format, prefix: str) -> str | None:
    """The canonical name of a stripped one, or None where the prefix does not lead it."""
    if not name.startswith(prefix):
        return None
    renamed = name.removeprefix(prefix)
    for theirs, ours in row.rename:
        renamed = re.sub(theirs, ours, renamed)
    return renamed


def said_at(said: Any, path: Iterable[str]) -> Any:
    """What a file says under a path of keys; None where it says nothing there.

    A parsed command line is looked into as a mapping is.
    """
    for key in path:
        if isinstance(said, Mapping):
            said = said.get(key)
        else:
            said = getattr(said, "__dict__", {}).get(key)
    return said
