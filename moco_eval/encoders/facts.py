"""What a claimed file says of its encoder, or its format knows: its architecture, its input."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from moco_eval.data.images import InputSpec
from moco_eval.encoders.claims import Claim
from moco_eval.encoders.formats.layout import said_at
from moco_eval.encoders.hints import Hints
from moco_eval.encoders.networks.infer import infer_arch, twins_of
from moco_eval.encoders.networks.resnets import is_resnet
from moco_eval.encoders.reading.reader import RECORD
from moco_eval.encoders.timm_facts import timm_arch, timm_input
from moco_eval.errors import CheckpointError

# Names and shapes that agree this far are a damaged file of that architecture; less is another.
NEARLY = 0.9


def arch_of(found: Claim, tensors: Mapping[str, Tensor], hints: Hints) -> tuple[str, str]:
    """The architecture, and who says it: the user, the file, or its names and shapes."""
    if hints.arch:
        return hints.arch, "user"
    if isinstance(recorded := record_of(found).get("arch"), str):
        return recorded, "file"
    row = found.format
    said = said_at(found.said, row.arch) if row.arch else None
    if isinstance(said, str):
        named = f"{row.family}{_our_arch(said, found)}"
        return (timm_arch(named, found.said) if row.family else named), "file"
    heads, options = _by_what_is_said(row.heads, found), _by_what_is_said(row.options, found)
    nearest, agreement = infer_arch(tensors, heads=heads, options=options)
    if agreement >= NEARLY and row.twins and (twins := twins_of(nearest)):
        raise CheckpointError(
            f"{found.source} is of format '{row.name}', and its names and shapes are those of "
            f"{nearest} as well as of {' and '.join(twins)}, which compute something else. "
            "Its configuration tells which one it is. Say it: --arch NAME."
        )
    if agreement >= NEARLY:
        return _our_arch(nearest, found), "shapes"
    raise CheckpointError(
        f"{found.source} is of format '{row.name}' but does not say its architecture, and its "
        f"names and shapes fit none: the nearest, {nearest}, agrees on {agreement:.0%}. "
        "Say it: --arch NAME."
    )


def _our_arch(name: str, found: Claim) -> str:
    """Our name of an architecture that the file names, or that was inferred from it."""
    for theirs, ours in _by_what_is_said(found.format.arch_names, found):
        if match := re.fullmatch(theirs, name):
            return match.expand(ours)
    return name


def recorded_input(found: Claim) -> InputSpec | None:
    """How the file's record says that the encoder is fed."""
    recorded = record_of(found).get("input")
    if not recorded:
        return None
    try:
        return InputSpec(**recorded)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{found.source}: its record's input: {error}") from error


def input_of(found: Claim, network: nn.Module, arch: str, *, asked: bool) -> InputSpec | None:
    """How the encoder is fed where no record says it: as its format's row does, else timm.

    timm's configuration speaks of its own weights: it counts for timm's files, and where the user
    says whose weights they are (``asked``).
    """
    row = found.format
    if row.input_unless and re.fullmatch(row.input_unless, arch):
        return None
    fed: InputSpec | None = _by_what_is_said(row.input, found)
    if fed is None and row.family:
        fed = timm_input(found.source, network, found.said)
    elif fed is None and asked:
        fed = timm_input(found.source, network, {})
    return sized(fed, arch, network) if fed else None


def unfed(found: Claim) -> CheckpointError:
    """Ask how images are normalised, or whose file it is."""
    whose = f"whose it is (--format {' or '.join(found.others)}), or " if found.others else ""
    return CheckpointError(
        f"{found.source} does not say how its images are normalised, and format "
        f"'{found.format.name}' has no rule for it. Say {whose}how: --input imagenet, --input half "
        "or --input mean=R/G/B,std=R/G/B; or say the architecture as timm names it, with the tag "
        "of its training: --arch timm:NAME.TAG."
    )


def _by_what_is_said(rule: Any, found: Claim) -> Any:
    """What a format's rule is, or finds in what the file says."""
    if not callable(rule):
        return rule
    try:
        return rule(found.said)
    except ValueError as error:
        raise CheckpointError(
            f"{found.source} cannot be read as '{found.format.name}': {error}"
        ) from error


def sized(fed: InputSpec, arch: str, network: nn.Module) -> InputSpec:
    """``fed``, at the size for which the network is made where that is not ImageNet's."""
    if is_resnet(arch) and "_cifar" in arch:
        return dataclasses.replace(fed, size=32, crop_pct=1.0)
    return dataclasses.replace(fed, size=own_size(network) or fed.size)


def own_size(network: nn.Module) -> int | None:
    """The side in pixels of the images that the network takes; None where it takes any."""
    size = getattr(getattr(network, "patch_embed", None), "img_size", None)
    return int(size[0]) if size else None


def record_of(found: Claim) -> dict[str, Any]:
    """What our own programs wrote into the file about it."""
    record = found.said.get(RECORD)
    return dict(record) if isinstance(record, Mapping) else {}
