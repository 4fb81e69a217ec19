"""The one gate for weights: a specification becomes an encoder, or an error says why not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moco_eval.data.images import DIGITS_INPUT, InputSpec
from moco_eval.encoders.account import (
    channels_of,
    fill,
    infer_arch,
    position_size,
    sort_tensors,
)
from moco_eval.encoders.claims import Claim, claim, said_at
from moco_eval.encoders.encoder import Encoder, Manifest
from moco_eval.encoders.formats import FORMATS
from moco_eval.encoders.networks import build_network, require_timm
from moco_eval.encoders.reader import RECORD, read
from moco_eval.encoders.resnets import resnets
from moco_eval.encoders.timm_facts import refuse_unnamed_arguments, timm_input
from moco_eval.errors import CheckpointError, UsageError, unknown

# How architectures are fed whose images are not ImageNet's.
OWN_INPUTS = {
    "resnet10_small": DIGITS_INPUT,
    "vit_digits": DIGITS_INPUT,
    "pixels": InputSpec(size=8, mean=(0.0,) * 3, std=(1.0,) * 3, crop_pct=1.0),
}
# Names and shapes that agree this far are a damaged file of that architecture; less is another.
NEARLY = 0.9


def load_encoder(spec: str, *, arch: str | None = None) -> Encoder:
    """Load the encoder that ``spec`` names.

    Every tensor of a file is loaded or dropped by a named rule, every tensor of the architecture
    is filled, and shapes are equal. The global random state stays as it was.

    Args:
        spec: A checkpoint's path; ``random:ARCH[@SEED]`` for fresh weights, seed 0 if left out;
            ``torchvision:NAME[@WEIGHTS]`` or ``timm:NAME[.TAG]`` for published ones, fetched by
            those libraries; ``pixels`` for the image itself.
        arch: The architecture, where a file does not say or is wrong.

    Raises:
        CheckpointError: If the file is not, tensor for tensor, an encoder of a known format, or
            published weights cannot be fetched.
        UsageError: If nobody knows the architecture.
    """
    kind, colon, name = spec.partition(":")
    is_file = spec != "pixels" and not (colon and kind in ("random", "torchvision", "timm"))
    if arch and not is_file:
        raise UsageError(f"--arch {arch} is for checkpoint files; {spec} names its own.")
    with torch.random.fork_rng(devices=[]):
        if is_file:
            file = read(Path(spec))
            encoder = _from_claim(claim(file), spec, asked=arch, file_sha256=file.sha256)
        elif kind == "torchvision":
            encoder = _from_torchvision(spec, name)
        elif kind == "timm":
            encoder = _from_timm(spec, name)
        else:
            encoder = _random(spec, name or spec)
        _require_features(encoder)
    return encoder


def _random(spec: str, name: str) -> Encoder:
    arch, at, seed = name.partition("@")
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
    return Encoder(network, manifest)


def _from_torchvision(spec: str, name: str) -> Encoder:
    import torchvision

    arch, _, wanted = name.partition("@")
    known = set(torchvision.models.list_models()) & set(resnets())
    if arch not in known:
        raise unknown("torchvision ResNet", arch, known)
    published = torchvision.models.get_model_weights(arch)
    wanted = wanted or published.DEFAULT.name
    if wanted not in published.__members__:
        raise unknown(f"set of weights of {arch} called", wanted, published.__members__)
    weights = published[wanted]
    try:
        tensors = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True, map_location="cpu"
        )
    except OSError as error:
        raise _not_fetched(spec, error, f"fetch {weights.url}, and pass that file") from error
    transform = weights.transforms()
    size = transform.crop_size[0]
    fed = InputSpec(
        size=size,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        interpolation=transform.interpolation.value,
        crop_pct=size / transform.resize_size[0],
    )
    found = Claim(
        source=spec,
        format=next(row for row in FORMATS if row.name == "torchvision"),
        tensors=tensors,
        said={RECORD: {"input": dataclasses.asdict(fed), "weights": wanted}},
    )
    return _from_claim(found, spec, asked=arch)


def _from_timm(spec: str, name: str) -> Encoder:
    import timm

    require_timm(name)
    try:
        network: nn.Module = timm.create_model(name, pretrained=True, num_classes=0)
    except OSError as error:
        where = "fetch its folder (config.json and model.safetensors), and pass that folder"
        raise _not_fetched(spec, error, where) from error
    except RuntimeError as error:
        raise CheckpointError(f"{spec}: timm says: {error}") from error
    fed = timm_input(spec, network, {})
    assert fed is not None, f"timm's {name} has no configuration"
    manifest = Manifest(
        source=spec,
        format="timm",
        tower="encoder",
        arch=spec,
        input=fed,
        num_loaded=len(network.state_dict()),
    )
    return Encoder(network, manifest)


def _not_fetched(spec: str, error: OSError, remedy: str) -> CheckpointError:
    return CheckpointError(
        f"The weights of {spec} cannot be fetched, and no earlier copy lies in the cache: there "
        f"seems to be no network ({error}). On a machine that has one, {remedy}."
    )


def _from_claim(found: Claim, spec: str, *, asked: str | None, file_sha256: str = "") -> Encoder:
    """Build the claimed file's architecture and fill it, every tensor accounted for."""
    arch = asked or _arch_of(found)
    tensors, recorded = sort_tensors(found).found, _recorded_input(found)
    try:
        network, in_chans = _network_for(arch, tensors, recorded)
    except UsageError as error:
        raise CheckpointError(f"{found.source}: {error} --arch NAME says another one.") from error
    refuse_unnamed_arguments(found.source, network, found.said)
    held = fill(network, found, arch=arch)
    record = _record_of(found)
    fed = recorded or _input_of(found, network, arch)
    if len(fed.mean) != in_chans:
        raise CheckpointError(
            f"{found.source} is an encoder of images of {in_chans} channels, and mean and std are "
            f"known for {len(fed.mean)}. Write them into its record: '{RECORD}', under 'input'."
        )
    manifest = Manifest(
        source=spec,
        format=found.format.name,
        tower=found.format.tower,
        arch=arch,
        input=fed,
        num_loaded=len(held.found),
        dropped=tuple(held.dropped),
        file_sha256=file_sha256,
        pretrain={k: v for k, v in record.items() if k not in ("input", "arch", "tensor_sha256")},
    )
    encoder = Encoder(network, manifest)
    written = record.get("tensor_sha256")
    if written and written != encoder.tensor_sha256():
        raise CheckpointError(
            f"{found.source} is damaged: its tensors have the SHA-256 {encoder.tensor_sha256()}, "
            f"and its record says {written}. Fetch or write it again."
        )
    return encoder


def _network_for(
    arch: str, tensors: Mapping[str, Tensor], recorded: InputSpec | None
) -> tuple[nn.Module, int]:
    """The architecture for images of as many pixels as the file's were, and of as many channels."""
    size = recorded.size if recorded else None
    network = build_network(arch, image_size=size)
    if not recorded and not arch.startswith("timm:"):
        # A name of timm's says its size, and timm how it is fed; of others the positions tell.
        size = position_size(network, tensors)
    in_chans = channels_of(network, tensors)
    if in_chans != 3 or (size and not recorded):
        network = build_network(arch, in_chans=in_chans, image_size=size)
    return network, in_chans


def _record_of(found: Claim) -> dict[str, Any]:
    """What our own programs wrote into the file about it."""
    record = found.said.get(RECORD)
    return dict(record) if isinstance(record, Mapping) else {}


def _arch_of(found: Claim) -> str:
    """The architecture that the file names, or the one that its names and shapes tell."""
    if isinstance(recorded := _record_of(found).get("arch"), str):
        return recorded
    row = found.format
    said = said_at(found.said, row.arch) if row.arch else None
    if isinstance(said, str):
        return f"{row.family}{dict(row.arch_names).get(said, said)}"
    nearest, agreement = infer_arch(sort_tensors(found).found)
    if agreement >= NEARLY:
        return nearest
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


def _input_of(found: Claim, network: nn.Module, arch: str) -> InputSpec:
    """How the encoder is fed where no record says it: as its format's row does, else timm."""
    row = found.format
    if row.input:
        return _sized(row.input, arch, network)
    fed = timm_input(found.source, network, found.said if row.family else {})
    if fed is None:
        raise CheckpointError(
            f"{found.source} does not say how its images are normalised, and format "
            f"'{found.format.name}' has no rule for it. Say the architecture as timm names it, "
            "with the tag of its training: --arch timm:NAME.TAG."
        )
    return fed


def _sized(fed: InputSpec, arch: str, network: nn.Module) -> InputSpec:
    """``fed``, at the size for which a network of ours is made where that is not ImageNet's."""
    if arch.endswith("_cifar"):
        return dataclasses.replace(fed, size=32, crop_pct=1.0)
    patches = getattr(network, "patch_embed", None)
    if patches is None or arch.startswith("timm:"):
        return fed
    return dataclasses.replace(fed, size=patches.img_size[0])


def _require_features(encoder: Encoder) -> None:
    """Flat and finite, or it is no encoder: an image of noise shows it."""
    size, channels = encoder.input.size, len(encoder.input.mean)
    noise = torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(0))
    features = encoder.features(noise)
    if features.dim() != 2 or not features.isfinite().all():
        kind = "not flat" if features.dim() != 2 else "not finite"
        raise CheckpointError(
            f"{encoder.manifest.source}: its features {list(features.shape)} are {kind}, so no "
            "protocol can use them. Its training may have diverged, or the file is damaged."
        )
