"""A ResNet as Detectron2's ``build_resnet_backbone`` takes it: its names, and its configuration.

Detectron2 loads whatever fits and warns about the rest, so all that it cannot build is refused
here, by name and with the reason.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from moco_eval.encoders.encoder import Encoder, is_counter
from moco_eval.encoders.exports.export import (
    TORCH_ENDINGS,
    Evidence,
    Export,
    evidence_of,
    has_levels,
    record_of,
    reload_here,
    resnet_arch,
    tensors_of,
    torch_bytes,
    write_synced,
)
from moco_eval.encoders.formats.detection import to_detectron2
from moco_eval.encoders.networks import resnet_parts
from moco_eval.encoders.networks.resnets import is_resnet
from moco_eval.encoders.reading.reader import RECORD
from moco_eval.errors import UsageError

ENDINGS = (*TORCH_ENDINGS, ".pkl")

# Its depths by the blocks of each stage, for basic and for bottleneck blocks.
DEPTHS: dict[tuple[bool, tuple[int, ...]], int] = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}
# Parts of tensors' names that no ResNet of Detectron2 has, and what they are.
FOREIGN = {
    "conv1.0.": "a deep stem of three convolutions, as in ResNet-C and ResNet-D",
    ".downsample.2.": "pooled shortcuts, as in ResNet-D",
    ".se.": "squeeze-and-excitation",
}


def prepare(encoder: Encoder) -> Export:
    """A ``.pth``, or the older ``.pkl``, with ``matching_heuristics``, and ``PATH.yaml``.

    Raises:
        UsageError: If Detectron2 has no such ResNet.
    """
    _refuse_unsuited(encoder)
    arch = encoder.arch if is_resnet(encoder.arch) else resnet_arch(encoder, "detectron2")
    tensors = {to_detectron2(n): t for n, t in tensors_of(encoder).items() if not is_counter(n)}
    record = record_of(encoder, arch)
    expected = evidence_of(encoder)

    def write(path: Path) -> None:
        write_synced(path, weights_bytes(tensors, record, path))
        write_synced(path.with_name(f"{path.name}.yaml"), yaml_of(encoder, path.name).encode())

    return Export(
        arch=arch,
        write=write,
        expected=Evidence(library="moco-eval", tensors=tensors, outputs=expected.outputs),
        reload=reload_without_detectron2,
        image_size=encoder.input.size,
    )


def reload_without_detectron2(path: Path) -> Evidence:
    """The file through ``load_encoder``, under Detectron2's names."""
    found = reload_here(path)
    tensors = {to_detectron2(name): tensor for name, tensor in found.tensors.items()}
    return Evidence(library=found.library, tensors=tensors, outputs=found.outputs)


def weights_bytes(tensors: Mapping[str, Tensor], record: Mapping[str, Any], path: Path) -> bytes:
    """What DetectionCheckpointer reads: arrays in a pickle for ``.pkl``, else tensors."""
    as_arrays = path.suffix == ".pkl"
    content = {
        "model": {n: t.numpy() if as_arrays else t for n, t in tensors.items()},
        "__author__": "moco-eval",
        # Detectron2 then finds these names below backbone., backbone.bottom_up. or backbone.net.
        "matching_heuristics": True,
        # Arrays, numbers and text are all that a careful reader takes from a pickle.
        RECORD: json.dumps(record) if as_arrays else dict(record),
    }
    # Protocol 2 is what every reader of such files knows.
    return pickle.dumps(content, protocol=2) if as_arrays else torch_bytes(content)


def yaml_of(encoder: Encoder, name: str) -> str:
    """The lines of a Detectron2 configuration without which it would feed or build another net.

    Args:
        encoder: A ResNet.
        name: The file's, for the first line.
    """
    numbers = resnet_lines(encoder)
    lines = ["  RESNETS:", *(f"    {key}: {value}" for key, value in numbers.items())]
    return config_text(encoder, [f"What Detectron2 must be told about {name}."], model=lines)


def config_text(
    encoder: Encoder,
    comments: Sequence[str],
    *,
    model: Sequence[str] = (),
    section: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """A configuration's text: how the encoder is fed, and what else there is to say.

    Args:
        encoder: Its mean and s.d. are said on the scale of 0 to 255.
        comments: What comes first.
        model: Further lines below MODEL, indented.
        section: For networks that Detectron2 configures in Python: a key of ours, and the numbers
            below it.
    """
    fed = encoder.input
    mean, std = ([round(value * 255, 4) for value in values] for values in (fed.mean, fed.std))
    lines = [
        *(f"# {comment}" for comment in comments),
        "VERSION: 2",
        "INPUT:",
        f'  FORMAT: "{fed.channel_order}"',
        "MODEL:",
        f"  PIXEL_MEAN: {mean}",
        f"  PIXEL_STD: {std}",
        *model,
    ]
    for key, numbers in (section or {}).items():
        lines += [f"{key}:", *(f"  {name}: {_scalar(value)}" for name, value in numbers.items())]
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    """A number with a point where it has an exponent: YAML takes 1e-06 for a word."""
    is_tiny = isinstance(value, float) and "e" in str(value)
    return f"{value:.6e}" if is_tiny else str(value).lower()


def resnet_lines(encoder: Encoder) -> dict[str, int | bool]:
    """MODEL.RESNETS as shapes and strides tell it.

    Raises:
        UsageError: If ``build_resnet_backbone`` has no such depth or width.
    """
    tensors = encoder.tensors()
    stem, conv2 = tensors["conv1.weight"], tensors["layer1.0.conv2.weight"]
    blocks = {tuple(n.split(".")[:2]) for n in tensors if n.startswith("layer")}
    counts = tuple(sum(stage == f"layer{number}" for stage, _ in blocks) for number in (1, 2, 3, 4))
    is_bottleneck = "layer1.0.conv3.weight" in tensors
    depth = DEPTHS.get((is_bottleneck, counts))
    if depth is None:
        kind = "bottleneck" if is_bottleneck else "basic"
        known = ", ".join(str(depth) for depth in DEPTHS.values())
        raise _unsuited(
            encoder, f"stages of {counts} {kind} blocks, where Detectron2 has the depths {known}"
        )
    groups = conv2.shape[0] // conv2.shape[1]
    last = tensors["layer1.0.conv3.weight"] if is_bottleneck else conv2
    if not is_bottleneck and (last.shape[0] != 64 or groups != 1):
        raise _unsuited(
            encoder,
            f"{last.shape[0]} channels in res2 and {groups} groups, where Detectron2's depths 18 "
            "and 34 have 64 and 1",
        )
    return {
        "DEPTH": depth,
        "STRIDE_IN_1X1": _has_stride_in_1x1(encoder.network),
        "NUM_GROUPS": groups,
        "WIDTH_PER_GROUP": conv2.shape[0] // groups,
        "RES2_OUT_CHANNELS": last.shape[0],
        "STEM_OUT_CHANNELS": stem.shape[0],
    }


def _refuse_unsuited(encoder: Encoder) -> None:
    tensors = tensors_of(encoder)
    if not has_levels(encoder):
        raise UsageError(
            f"{encoder.arch} cannot be written for detectron2: it has neither the stages of a "
            "ResNet nor the blocks of a ViT or a Swin, and no other network of Detectron2's could "
            "be it. Take --to timm."
        )
    for part, what in FOREIGN.items():
        if any(part in name for name in tensors):
            raise _unsuited(encoder, what)
    if "bn1.running_mean" not in tensors:
        raise _unsuited(encoder, "norms without running statistics, as GroupNorm is")
    height, width = tensors["conv1.weight"].shape[2:]
    if height != 7:
        raise _unsuited(encoder, f"a {height}x{width} stem, where Detectron2's is 7x7")
    # Depth and widths, before anything is written.
    resnet_lines(encoder)


def _has_stride_in_1x1(network: nn.Module) -> bool:
    first: Any = next(resnet_parts(network)[1][1].children())
    return hasattr(first, "conv3") and first.conv1.stride[0] == 2


def _unsuited(encoder: Encoder, what: str) -> UsageError:
    return UsageError(
        f"{encoder.arch} cannot be written for detectron2: it has {what}. Detectron2 would load "
        "what fits, warn, and train the rest from scratch. Take --to safetensors; moco-eval "
        "detect --engine torchvision trains a detector on any ResNet."
    )
