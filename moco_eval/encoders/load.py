"""The one gate for weights: a specification becomes an encoder, or an error says why not."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moco_eval.data.images import DIGITS_INPUT, InputSpec
from moco_eval.encoders.account import (
    Sorted,
    channels_of,
    fill,
    position_size,
    sort_tensors,
    without_initialisation,
)
from moco_eval.encoders.claims import Claim, claim
from moco_eval.encoders.encoder import Encoder, Manifest
from moco_eval.encoders.formats.inputs import UNIT, parse_input
from moco_eval.encoders.formats.layout import said_at
from moco_eval.encoders.hints import NO_HINTS, Hints
from moco_eval.encoders.networks import build_network
from moco_eval.encoders.networks.adapt import resized, with_channels
from moco_eval.encoders.networks.infer import infer_arch, twins_of
from moco_eval.encoders.networks.resnets import is_resnet
from moco_eval.encoders.published import from_hub, from_timm, from_torchvision
from moco_eval.encoders.reading.reader import RECORD, read
from moco_eval.encoders.timm_facts import timm_arch, timm_input
from moco_eval.errors import CheckpointError, UsageError

# How architectures are fed whose images are not ImageNet's.
OWN_INPUTS = {
    "resnet10_small": DIGITS_INPUT,
    "vit_digits": DIGITS_INPUT,
    "pixels": dataclasses.replace(UNIT, size=8, crop_pct=1.0),
}
# Names and shapes that agree this far are a damaged file of that architecture; less is another.
NEARLY = 0.9
KINDS = ("random", "torchvision", "timm", "hf")


def load_encoder(
    spec: str,
    *,
    arch: str | None = None,
    format: str | None = None,
    tower: str | None = None,
    prefix: str | None = None,
    input: str | None = None,
) -> Encoder:
    """Load the encoder that ``spec`` names.

    Every tensor of a file is loaded or dropped by a named rule, every tensor of the architecture
    is filled, and shapes are equal. The global random state stays as it was.

    Args:
        spec: A checkpoint's path, of a file or a folder; ``random:ARCH[@SEED]`` for fresh weights,
            seed 0 if left out; ``torchvision:NAME[@WEIGHTS]``, ``timm:NAME[.TAG]`` or
            ``hf:ORG/NAME`` for published ones, fetched by those libraries; ``pixels`` for the
            image itself.
        arch: The architecture, where a file does not say or is wrong.
        format: The row of ``FORMATS`` by which a file is read that bears no author's mark.
        tower: Which of a file's networks is taken, where not the one that its authors take.
        prefix: What leads the names of the tensors that are taken, in a file of no known layout.
        input: How the encoder is fed, where that is not known or shall be changed: a name or
            ``key=value`` of ``InputSpec``, between commas. Another size or number of channels
            changes the network, and the manifest says how.

    Raises:
        CheckpointError: If the file is not, tensor for tensor, an encoder of a known format, or
            published weights cannot be fetched.
        UsageError: If nobody knows the architecture, or a hint is none.
    """
    hints = Hints(arch=arch, format=format, tower=tower, prefix=prefix, input=input)
    kind, colon, name = spec.partition(":")
    is_file = spec != "pixels" and not (colon and kind in KINDS)
    unfit = dataclasses.replace(hints, input=None)
    if unfit != NO_HINTS and not is_file and kind != "hf":
        raise UsageError(f"{unfit.options()} is for checkpoint files; {spec} names its own.")
    with torch.random.fork_rng(devices=[]):
        if is_file or kind == "hf":
            file = read(Path(spec) if is_file else from_hub(spec, name))
            encoder = _from_claim(claim(file, hints), spec, hints, file_sha256=file.sha256)
        elif kind == "torchvision":
            found, arch = from_torchvision(spec, name)
            encoder = _from_claim(found, spec, dataclasses.replace(hints, arch=arch))
        else:
            network, manifest = from_timm(spec, name) if kind == "timm" else _random(spec, name)
            encoder = _encoder(network, manifest, manifest.input, hints)
        _require_features(encoder)
    return encoder


def _random(spec: str, name: str) -> tuple[nn.Module, Manifest]:
    arch, at, seed = (name or spec).partition("@")
    if at and not seed.isdecimal():
        raise UsageError(f"'{spec}': the seed after @ is a whole number, found '{seed}'.")
    torch.default_generator.manual_seed(int(seed or 0))
    network = build_network(arch)
    manifest = Manifest(
        source=spec,
        format="random" if network.state_dict() else "pixels",
        tower="encoder",
        arch=arch,
        input=OWN_INPUTS.get(arch)
        or timm_input(spec, network, {})
        or _sized(InputSpec(), arch, network),
        num_loaded=0,
    )
    return network, manifest


def _from_claim(found: Claim, spec: str, hints: Hints, *, file_sha256: str = "") -> Encoder:
    """Build the claimed file's architecture and fill it, every tensor accounted for."""
    record = _record_of(found)
    recorded = _recorded_input(found)
    tensors = sort_tensors(found).found
    arch, arch_by = _arch_of(found, tensors, hints)
    try:
        network, in_chans = _network_for(arch, tensors, recorded)
    except UsageError as error:
        raise CheckpointError(f"{found.source}: {error} --arch NAME says another one.") from error
    held = fill(network, found, arch=arch)
    fed = recorded or _input_of(found, network, arch, asked=hints.arch is not None)
    if fed is None and not hints.input:
        raise _unfed(found)
    licence = said_at(found.said, found.format.licence) if found.format.licence else None
    manifest = Manifest(
        source=spec,
        format=found.format.name,
        tower=found.tower,
        arch=arch,
        arch_by=arch_by,
        input=fed or _sized(InputSpec(), arch, network),
        num_loaded=len(held.found),
        loaded=_keys(held),
        dropped=tuple(held.dropped),
        caveat=found.format.caveat,
        file_sha256=file_sha256,
        licence=licence if isinstance(licence, str) else "",
        pretrain={k: v for k, v in record.items() if k not in ("input", "arch", "tensor_sha256")},
    )
    _refuse_damage(found, network, manifest)
    return _encoder(network, manifest, fed, hints, in_chans=in_chans)


def _keys(held: Sorted) -> tuple[str, ...]:
    return tuple(held.theirs.values())


def _encoder(
    network: nn.Module,
    manifest: Manifest,
    known: InputSpec | None,
    hints: Hints,
    *,
    in_chans: int | None = None,
) -> Encoder:
    """The encoder, adapted to how the user wants to feed it.

    Args:
        network: Filled.
        manifest: Its ``input`` has the network's own size.
        known: How the encoder is fed; None where nobody says how images are normalised.
        hints: The user's.
        in_chans: How many channels the network's images have; as many as ``known`` where left out.
    """
    native = manifest.input.size
    if hints.input:
        fed = parse_input(hints.input, known)
        if "size=" not in hints.input and (known or _own_size(network)):
            fed = dataclasses.replace(fed, size=native)
    else:
        assert known is not None, f"nobody says how {manifest.source} is fed"
        fed = known
    adapted = []
    in_chans = in_chans or len(manifest.input.mean)
    if hints.input and len(fed.mean) != in_chans and "mean=" in hints.input:
        adapted.append(with_channels(network, len(fed.mean)))
    elif len(fed.mean) != in_chans:
        raise CheckpointError(
            f"{manifest.source} is an encoder of images of {in_chans} channels, and mean and std "
            f"are known for {len(fed.mean)}. Say them: --input mean=A/B/...,std=A/B/..."
        )
    if fed.size != native and (sentence := resized(network, fed.size)):
        adapted.append(sentence)
    return Encoder(network, dataclasses.replace(manifest, input=fed, adapted=tuple(adapted)))


def _network_for(
    arch: str, tensors: Mapping[str, Tensor], recorded: InputSpec | None
) -> tuple[nn.Module, int]:
    """The architecture for images of as many pixels as the file's were, and of as many channels."""
    size = recorded.size if recorded else None
    with without_initialisation():
        network = build_network(arch, image_size=size)
        if not recorded and not arch.startswith("timm:"):
            # A name of timm's says its size; of others the positions tell.
            size = position_size(network, tensors)
        in_chans = channels_of(network, tensors)
        if in_chans != 3 or (size and not recorded):
            network = build_network(arch, in_chans=in_chans, image_size=size)
    return network, in_chans


def _record_of(found: Claim) -> dict[str, Any]:
    """What our own programs wrote into the file about it."""
    record = found.said.get(RECORD)
    return dict(record) if isinstance(record, Mapping) else {}


def _arch_of(found: Claim, tensors: Mapping[str, Tensor], hints: Hints) -> tuple[str, str]:
    """The architecture, and who says it: the user, the file, or its names and shapes."""
    if hints.arch:
        return hints.arch, "user"
    if isinstance(recorded := _record_of(found).get("arch"), str):
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


def _recorded_input(found: Claim) -> InputSpec | None:
    """How the file's record says that the encoder is fed."""
    recorded = _record_of(found).get("input")
    if not recorded:
        return None
    try:
        return InputSpec(**recorded)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{found.source}: its record's input: {error}") from error


def _input_of(found: Claim, network: nn.Module, arch: str, *, asked: bool) -> InputSpec | None:
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
    return _sized(fed, arch, network) if fed else None


def _unfed(found: Claim) -> CheckpointError:
    """Ask how images are normalised, or whose file it is."""
    whose = f"whose it is (--format {' or '.join(found.others)}), or " if found.others else ""
    return CheckpointError(
        f"{found.source} does not say how its images are normalised, and format "
        f"'{found.format.name}' has no rule for it. Say {whose}how: --input imagenet, --input half "
        "or --input mean=R/G/B,std=R/G/B; or say the architecture as timm names it, with the tag "
        "of its training: --arch timm:NAME.TAG."
    )


def _our_arch(name: str, found: Claim) -> str:
    """Our name of an architecture that the file names, or that was inferred from it."""
    for theirs, ours in _by_what_is_said(found.format.arch_names, found):
        if match := re.fullmatch(theirs, name):
            return match.expand(ours)
    return name


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


def _sized(fed: InputSpec, arch: str, network: nn.Module) -> InputSpec:
    """``fed``, at the size for which the network is made where that is not ImageNet's."""
    if is_resnet(arch) and "_cifar" in arch:
        return dataclasses.replace(fed, size=32, crop_pct=1.0)
    return dataclasses.replace(fed, size=_own_size(network) or fed.size)


def _own_size(network: nn.Module) -> int | None:
    """The side in pixels of the images that the network takes; None where it takes any."""
    size = getattr(getattr(network, "patch_embed", None), "img_size", None)
    return int(size[0]) if size else None


def _refuse_damage(found: Claim, network: nn.Module, manifest: Manifest) -> None:
    """Refuse tensors that are not those that the file's record speaks of."""
    written = _record_of(found).get("tensor_sha256")
    if not written:
        return
    held = Encoder(network, manifest).tensor_sha256()
    if written != held:
        raise CheckpointError(
            f"{found.source} is damaged: its tensors have the SHA-256 {held}, and its record says "
            f"{written}. Fetch or write it again."
        )


def _require_features(encoder: Encoder) -> None:
    """Flat and finite, or it is no encoder: an image of noise shows it."""
    # Convolutions take any size, and a small one shows it as well.
    side = 32 if is_resnet(encoder.arch) else encoder.input.size
    channels, generator = len(encoder.input.mean), torch.Generator().manual_seed(0)
    features = encoder.features(torch.randn(1, channels, side, side, generator=generator))
    if features.dim() != 2 or not features.isfinite().all():
        kind = "not flat" if features.dim() != 2 else "not finite"
        raise CheckpointError(
            f"{encoder.manifest.source}: its features {list(features.shape)} are {kind}, so no "
            "protocol can use them. Its training may have diverged, or the file is damaged."
        )
