"""The one gate for weights: a specification becomes an encoder, or an error says why not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

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
from moco_eval.encoders.facts import (
    arch_of,
    input_of,
    own_size,
    record_of,
    recorded_input,
    sized,
    unfed,
)
from moco_eval.encoders.formats.inputs import UNIT, parse_input
from moco_eval.encoders.formats.layout import said_at
from moco_eval.encoders.hints import NO_HINTS, Hints
from moco_eval.encoders.networks import build_network
from moco_eval.encoders.networks.adapt import resized, with_channels
from moco_eval.encoders.networks.resnets import is_resnet
from moco_eval.encoders.published import from_hub, from_timm, from_torchvision
from moco_eval.encoders.reading.reader import read
from moco_eval.encoders.timm_facts import timm_input
from moco_eval.errors import CheckpointError, UsageError

# How architectures are fed whose images are not ImageNet's.
OWN_INPUTS = {
    "resnet10_small": DIGITS_INPUT,
    "vit_digits": DIGITS_INPUT,
    "pixels": dataclasses.replace(UNIT, size=8, crop_pct=1.0),
}
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
        or sized(InputSpec(), arch, network),
        num_loaded=0,
    )
    return network, manifest


def _from_claim(found: Claim, spec: str, hints: Hints, *, file_sha256: str = "") -> Encoder:
    """Build the claimed file's architecture and fill it, every tensor accounted for."""
    record = record_of(found)
    recorded = recorded_input(found)
    tensors = sort_tensors(found).found
    arch, arch_by = arch_of(found, tensors, hints)
    try:
        network, in_chans = _network_for(arch, tensors, recorded)
    except UsageError as error:
        raise CheckpointError(f"{found.source}: {error} --arch NAME says another one.") from error
    held = fill(network, found, arch=arch)
    fed = recorded or input_of(found, network, arch, asked=hints.arch is not None)
    if fed is None and not hints.input:
        raise unfed(found)
    licence = said_at(found.said, found.format.licence) if found.format.licence else None
    manifest = Manifest(
        source=spec,
        format=found.format.name,
        tower=found.tower,
        arch=arch,
        arch_by=arch_by,
        input=fed or sized(InputSpec(), arch, network),
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
        if "size=" not in hints.input and (known or own_size(network)):
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


def _refuse_damage(found: Claim, network: nn.Module, manifest: Manifest) -> None:
    """Refuse tensors that are not those that the file's record speaks of."""
    written = record_of(found).get("tensor_sha256")
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
