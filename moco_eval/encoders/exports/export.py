"""What an exported file holds, and how it is held against its encoder: safetensors, torchvision."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from moco_eval.encoders.encoder import Encoder, is_counter
from moco_eval.encoders.load import load_encoder
from moco_eval.encoders.networks import with_last_layer
from moco_eval.encoders.networks.infer import infer_arch
from moco_eval.encoders.networks.resnets import is_resnet
from moco_eval.encoders.reading.reader import RECORD, shortened
from moco_eval.errors import UsageError

# Relative to the largest value of a level; on one machine a ResNet's difference is 0.
TOLERANCE = 1e-5

SAFETENSORS_ENDINGS = (".safetensors",)
# Detectron2 takes .pyth for another format.
TORCH_ENDINGS = (".pth", ".pt", ".pth.tar")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is compared: an encoder's weights in some library, and what it makes of images there.

    Attributes:
        library: Who holds the network, such as ``torchvision``.
        tensors: Weights and statistics, under the target's names.
        outputs: Maps normalised images ``(N, C, H, W)`` to tensors by level.
    """

    library: str
    tensors: Mapping[str, Tensor]
    outputs: Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Export:
    """An encoder in a target's form, before it is on the disk.

    Attributes:
        arch: What the target calls the architecture.
        write: Writes the files to the path that it is given, or beside it.
        expected: The encoder, in the target's form.
        reload: Reads what ``write`` wrote there, in the library that it is for.
        image_size: Side in pixels of the images that both are shown.
        tolerance: How far an output may differ, as a share of its largest value.
    """

    arch: str
    write: Callable[[Path], None]
    expected: Evidence
    reload: Callable[[Path], Evidence]
    image_size: int
    tolerance: float = TOLERANCE


def prepare_safetensors(encoder: Encoder) -> Export:
    """Plain safetensors under canonical names, with the record in the header."""
    content = safetensors_bytes(tensors_of(encoder), record_of(encoder, encoder.arch))
    return Export(
        arch=encoder.arch,
        write=lambda path: write_synced(path, content),
        expected=evidence_of(encoder),
        reload=reload_here,
        image_size=encoder.input.size,
    )


def prepare_torchvision(encoder: Encoder) -> Export:
    """A bare state dict of a torchvision ResNet, without its classifier.

    What torchvision has no builder for, such as a widened ResNet, is made of its blocks all the
    same; such a file is reloaded here.

    Raises:
        UsageError: If the encoder is no ResNet of torchvision's names and shapes.
    """
    arch = resnet_arch(encoder, "torchvision")
    # For images of other channels the stem is ours.
    is_theirs = arch in torchvision.models.list_models() and len(encoder.input.mean) == 3
    content = state_dict_bytes(tensors_of(encoder), record_of(encoder, arch))
    return Export(
        arch=arch,
        write=lambda path: write_synced(path, content),
        expected=evidence_of(encoder),
        reload=partial(_reload_in_torchvision, encoder, arch) if is_theirs else reload_here,
        image_size=encoder.input.size,
    )


def prove(encoder: Encoder, export: Export, found: Evidence) -> dict[str, float]:
    """Hold what came back against what was written: every weight, then every level.

    Returns:
        By level, the largest difference as a share of the largest value.

    Raises:
        UsageError: If a weight is missing, changed or more than was written, or an output differs.
    """
    problems = _differing(export.expected.tensors, found.tensors)
    shape = (2, len(encoder.input.mean), export.image_size, export.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    theirs = found.outputs(images)
    differences = {
        level: relative_difference(expected, theirs[level])
        for level, expected in export.expected.outputs(images).items()
        if not problems
    }
    # Not the largest one: a comparison with nan is false.
    far = {level: d for level, d in differences.items() if not d <= export.tolerance}
    problems += [f"{level} is off by {d:.1g} of its largest value" for level, d in far.items()]
    if problems:
        raise UsageError(
            f"{encoder.name} cannot be written as {export.arch}: reloaded in {found.library}, "
            f"{'; '.join(problems)} (allowed: {export.tolerance:g}). {encoder.arch} computes "
            "something that this format does not express. Nothing was written. "
            "Take --to safetensors."
        )
    return differences


def evidence_of(encoder: Encoder, library: str = "moco-eval") -> Evidence:
    """The encoder itself: its pooled features, and a ResNet's levels."""

    def outputs(images: Tensor) -> dict[str, Tensor]:
        found = {"features": encoder.features(images)}
        return found | (encoder.levels(images) if has_levels(encoder) else {})

    return Evidence(library=library, tensors=encoder.tensors(), outputs=outputs)


def reload_here(path: Path) -> Evidence:
    """The file through ``load_encoder``, which accounts for every tensor."""
    return evidence_of(load_encoder(str(path)))


def has_levels(encoder: Encoder) -> bool:
    """Whether it is a ResNet by its names."""
    return "layer1.0.conv1.weight" in encoder.tensors()


def tensors_of(encoder: Encoder) -> dict[str, Tensor]:
    """Copies of the encoder's tensors, none of which shares memory with another."""
    return {name: tensor.contiguous().clone() for name, tensor in encoder.tensors().items()}


def resnet_arch(encoder: Encoder, target: str) -> str:
    """The ResNet that the encoder is, by names and shapes; the proof shows the rest.

    Args:
        encoder: Where its names and shapes are those of a network that torchvision builds, it is
            that one, so that a stride in another place shows in the proof.
        target: Named by the error.

    Raises:
        UsageError: If it is none.
    """
    inferred, agreement = infer_arch(tensors_of(encoder))
    ours = is_resnet(encoder.arch)
    if agreement == 1 and (inferred in torchvision.models.list_models() or not ours):
        return inferred
    if ours:
        return encoder.arch
    raise UsageError(
        f"{encoder.arch} cannot be written for {target}: only torchvision's ResNets can, and its "
        "names and shapes are those of none. Take --to safetensors, or timm for one of timm's."
    )


def record_of(encoder: Encoder, arch: str) -> dict[str, Any]:
    """What the file says of itself. The first origin is kept when a file is converted again."""
    manifest = encoder.manifest
    origin = {
        # A file's name without its folders, which are nobody else's business.
        "source": Path(manifest.source).name,
        "format": manifest.format,
        "tower": manifest.tower,
        "file_sha256": manifest.file_sha256,
        "loaded": list(manifest.loaded),
        "dropped": list(manifest.dropped),
        "adapted": list(manifest.adapted),
        "caveat": manifest.caveat,
        "licence": manifest.licence,
    }
    return {
        "origin": origin,
        **manifest.pretrain,
        "input": dataclasses.asdict(manifest.input),
        "arch": arch,
        "tensor_sha256": encoder.tensor_sha256(),
    }


def safetensors_bytes(tensors: dict[str, Tensor], record: Mapping[str, Any]) -> bytes:
    """A safetensors file with the record in its header."""
    from safetensors.torch import save

    # "pt" is what the libraries of Hugging Face look for.
    return bytes(save(tensors, metadata={"format": "pt", RECORD: json.dumps(record)}))


def state_dict_bytes(tensors: dict[str, Tensor], record: Mapping[str, Any]) -> bytes:
    """A bare state dict, as load_state_dict takes it.

    The record travels where state dicts carry their modules' versions, and is no key.
    """
    state = OrderedDict(tensors)
    state._metadata = {RECORD: json.dumps(record)}  # type: ignore[attr-defined]
    return torch_bytes(state)


def torch_bytes(content: Any) -> bytes:
    """What torch.save makes of it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def relative_difference(expected: Tensor, found: Tensor) -> float:
    """The largest difference, as a share of the largest expected value."""
    scale = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
    return float((expected - found).abs().max() / scale)


def _reload_in_torchvision(encoder: Encoder, arch: str, path: Path) -> Evidence:
    network = with_last_layer(torchvision.models.get_model(arch), nn.Identity())
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
    return evidence_of(Encoder(network, encoder.manifest), "torchvision")


def _differing(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """What is wrong with the weights that came back; BatchNorm's step counters do not matter."""
    ours = {name for name in expected if not is_counter(name)}
    theirs = {name for name in found if not is_counter(name)}
    changed = [name for name in sorted(ours & theirs) if not expected[name].equal(found[name])]
    lines = {
        "did not come back": sorted(ours - theirs),
        "came back besides": sorted(theirs - ours),
        "came back changed": changed,
    }
    return [f"{shortened(names)} {what}" for what, names in lines.items() if names]
