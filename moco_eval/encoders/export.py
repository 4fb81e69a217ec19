"""An encoder becomes a file of another format: written, reloaded, compared, only then put there."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moco_eval.encoders.account import infer_arch
from moco_eval.encoders.encoder import Encoder, is_counter
from moco_eval.encoders.formats import to_detectron2
from moco_eval.encoders.load import load_encoder
from moco_eval.encoders.reader import RECORD
from moco_eval.encoders.resnets import is_resnet
from moco_eval.errors import UsageError, output_error, unknown
from moco_eval.files import write_text

# Relative to the largest value of a level; on one machine the difference is 0.
TOLERANCE = 1e-5

# Detectron2's depths by the blocks of each stage, for basic and for bottleneck blocks.
DETECTRON2_DEPTHS: dict[tuple[bool, tuple[int, ...]], int] = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}


class Target(NamedTuple):
    """A format to write: how its files may end, their bytes, and whether only ResNets have one."""

    endings: tuple[str, ...]
    content: Callable[[dict[str, Tensor], dict[str, Any]], bytes]
    resnets_only: bool


# Detectron2 takes .pkl and .pyth for other formats.
TORCH_ENDINGS = (".pth", ".pt", ".pth.tar")


def export(encoder: Encoder, path: Path, target: str) -> dict[str, Any]:
    """Write ``encoder`` to ``path`` and prove that the file is that encoder.

    The file is written under a temporary name, reloaded through ``load_encoder`` and compared:
    equal tensors, equal features and levels of a fixed random batch. Then it is renamed.

    Args:
        encoder: Any encoder with weights; Detectron2 and torchvision take ResNets.
        path: Ends as the target's files do: ``.safetensors``, else ``.pth``, ``.pt``, ``.pth.tar``.
        target: ``safetensors``, ``torchvision`` or ``detectron2``. The last also writes
            ``PATH.yaml``, the lines of configuration that the encoder needs.

    Returns:
        The proof: ``target``, ``arch``, ``tensor_sha256``, ``num_tensors``, and by level the
        largest ``relative_difference``.

    Raises:
        UsageError: If the target is unknown or cannot express the encoder.
        OutputError: If the file cannot be written. Nothing is left there.
    """
    if target not in TARGETS:
        raise unknown("target", target, TARGETS)
    chosen = TARGETS[target]
    if not path.name.endswith(chosen.endings):
        raise UsageError(
            f"A file for {target} ends in {' or '.join(chosen.endings)}, found {path.name}: "
            "other programs go by the ending."
        )
    tensors = {name: tensor.contiguous().clone() for name, tensor in encoder.tensors().items()}
    if not tensors:
        raise UsageError(f"{encoder.name} has no weights to write.")
    arch = _resnet_of(encoder, target) if chosen.resnets_only else encoder.arch
    record = _record(encoder, arch)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            written = Path(folder) / path.name
            with written.open("wb") as file:
                file.write(chosen.content(tensors, record))
                file.flush()
                os.fsync(file.fileno())
            proof = _prove(encoder, load_encoder(str(written)), target)
            if target == "detectron2":
                write_text(path.with_name(f"{path.name}.yaml"), detectron2_yaml(encoder, path.name))
            written.replace(path)
    except OSError as error:
        raise output_error(path, error) from error
    return {"target": target, "arch": arch, "num_tensors": len(tensors), **proof}


def detectron2_yaml(encoder: Encoder, name: str) -> str:
    """The lines of a Detectron2 configuration without which it would feed or build another net."""
    fed = encoder.input
    lines = [
        f"# What Detectron2 must be told about {name}.",
        "INPUT:",
        f'  FORMAT: "{fed.channel_order}"',
        "MODEL:",
        f"  PIXEL_MEAN: {[round(value * 255, 4) for value in fed.mean]}",
        f"  PIXEL_STD: {[round(value * 255, 4) for value in fed.std]}",
        *(f"  {line}" for line in _resnet_lines(encoder)),
    ]
    return "\n".join(lines) + "\n"


def _resnet_lines(encoder: Encoder) -> list[str]:
    """MODEL.RESNETS as the shapes tell it; a comment where Detectron2 has no such network."""
    tensors = encoder.tensors()
    stem, conv2 = tensors["conv1.weight"], tensors["layer1.0.conv2.weight"]
    blocks = {tuple(n.split(".")[:2]) for n in tensors if n.startswith("layer")}
    counts = tuple(sum(stage == f"layer{number}" for stage, _ in blocks) for number in (1, 2, 3, 4))
    is_bottleneck = "layer1.0.conv3.weight" in tensors
    depth = DETECTRON2_DEPTHS.get((is_bottleneck, counts))
    if depth is None or stem.shape[2] != 7:
        return [
            f"# {encoder.arch} has a {stem.shape[2]}x{stem.shape[3]} stem and stages of {counts} "
            "blocks, which",
            "# Detectron2's build_resnet_backbone cannot build; moco-eval's own engine does.",
        ]
    groups = conv2.shape[0] // conv2.shape[1]
    last = tensors["layer1.0.conv3.weight"] if is_bottleneck else conv2
    return [
        "RESNETS:",
        f"  DEPTH: {depth}",
        "  STRIDE_IN_1X1: False",
        f"  NUM_GROUPS: {groups}",
        f"  WIDTH_PER_GROUP: {conv2.shape[0] // groups}",
        f"  RES2_OUT_CHANNELS: {last.shape[0]}",
        f"  STEM_OUT_CHANNELS: {stem.shape[0]}",
    ]


def _resnet_of(encoder: Encoder, target: str) -> str:
    """The torchvision ResNet that the encoder is, by names and shapes; the proof shows the rest."""
    if is_resnet(encoder.arch):
        return encoder.arch
    arch, agreement = infer_arch(encoder.tensors())
    if agreement < 1:
        raise UsageError(
            f"{encoder.arch} cannot be written for {target}: only torchvision's ResNets can, and "
            "its names and shapes are those of none. Take --to safetensors."
        )
    return arch


def _record(encoder: Encoder, arch: str) -> dict[str, Any]:
    """What the file says of itself. The first origin is kept when a file is converted again."""
    manifest = encoder.manifest
    origin = {
        # A file's name without its folders, which are nobody else's business.
        "source": Path(manifest.source).name,
        "format": manifest.format,
        "tower": manifest.tower,
        "file_sha256": manifest.file_sha256,
    }
    return {
        "origin": origin,
        **manifest.pretrain,
        "input": dataclasses.asdict(manifest.input),
        "arch": arch,
        "tensor_sha256": encoder.tensor_sha256(),
    }


def _safetensors(tensors: dict[str, Tensor], record: dict[str, Any]) -> bytes:
    from safetensors.torch import save

    # "pt" is what the libraries of Hugging Face look for.
    return bytes(save(tensors, metadata={"format": "pt", RECORD: json.dumps(record)}))


def _torchvision(tensors: dict[str, Tensor], record: dict[str, Any]) -> bytes:
    # A bare state dict, as load_state_dict takes it; the record travels where state dicts carry
    # their modules' versions, and is no key.
    state = OrderedDict(tensors)
    state._metadata = {RECORD: json.dumps(record)}  # type: ignore[attr-defined]
    return _torch_bytes(state)


def _detectron2(tensors: dict[str, Tensor], record: dict[str, Any]) -> bytes:
    content = {
        "model": {to_detectron2(n): tensor for n, tensor in tensors.items() if not is_counter(n)},
        "__author__": "moco-eval",
        # Detectron2 then finds these names below backbone. or backbone.bottom_up.
        "matching_heuristics": True,
        RECORD: record,
    }
    return _torch_bytes(content)


def _torch_bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


TARGETS = {
    "safetensors": Target((".safetensors",), _safetensors, resnets_only=False),
    "torchvision": Target(TORCH_ENDINGS, _torchvision, resnets_only=True),
    "detectron2": Target(TORCH_ENDINGS, _detectron2, resnets_only=True),
}


def _prove(encoder: Encoder, reloaded: Encoder, target: str) -> dict[str, Any]:
    """Compare the reloaded file with the encoder: weights, then what they compute."""
    ours, theirs = encoder.tensor_sha256(), reloaded.tensor_sha256()
    differences = {
        level: _relative_difference(expected, _outputs(reloaded)[level])
        for level, expected in _outputs(encoder).items()
    }
    # Not the largest one: a comparison with nan is false.
    if ours != theirs or not all(value <= TOLERANCE for value in differences.values()):
        raise UsageError(
            f"{encoder.name} cannot be written for {target}: reloaded as {reloaded.arch}, its "
            f"weights are {'equal' if ours == theirs else 'not equal'} and its outputs differ by "
            f"{max(differences.values()):.1g} of the largest value (allowed: {TOLERANCE:g}). "
            f"{encoder.arch} computes something that {target} does not express. "
            "Nothing was written."
        )
    return {"tensor_sha256": ours, "relative_difference": differences}


def _outputs(encoder: Encoder) -> dict[str, Tensor]:
    size = encoder.input.size
    channels = len(encoder.input.mean)
    images = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    outputs = {"features": encoder.features(images)}
    if "layer1.0.conv1.weight" in encoder.tensors():
        outputs |= encoder.levels(images)
    return outputs


def _relative_difference(expected: Tensor, found: Tensor) -> float:
    scale = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
    return float((expected - found).abs().max() / scale)
