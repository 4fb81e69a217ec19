"""The gate between an encoder and a detector: nothing is trained unless one is in the other."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moco_eval.data.images import InputSpec, normalize
from moco_eval.encoders.encoder import Encoder, is_counter
from moco_eval.encoders.networks import build_network, has_resnet_parts
from moco_eval.engines.examples import Detector
from moco_eval.engines.transformer import LAST, is_plain, last_map, patch_of, trunk_tensors
from moco_eval.errors import CheckpointError, UsageError

# Two implementations of the same layers differ by rounding alone.
TOLERANCE = 1e-4
# The stride of res5.
COARSEST = 32
# Of each kind of what is wrong.
NUM_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was compared, and how far apart it was.

    Attributes:
        num_tensors: Tensors that are the encoder's, bit for bit.
        difference_by_level: Of one image's features, relative to their norm.
    """

    num_tensors: int
    difference_by_level: Mapping[str, float]

    def __str__(self) -> str:
        levels = ", ".join(f"{name} {off:.1g}" for name, off in self.difference_by_level.items())
        return (
            f"{self.num_tensors} tensors are the encoder's; the features of one image differ from "
            f"its own by {levels} of their norm."
        )


def check_backbone(detector: Detector, encoder: Encoder, pixels: Tensor) -> Proof:
    """Hold that the detector's backbone is the encoder: every tensor, and what it computes.

    Equal tensors are not enough: with a stride or a colour channel in another place every tensor
    fits and the features are others.

    Args:
        detector: Fresh from its engine.
        encoder: What it was built from.
        pixels: One image, ``(3, h, w)`` uint8 RGB, for the features.

    Raises:
        CheckpointError: If a tensor is missing, left over or different, or the features of a level
            are, with the first of each kind by name and the reason where it can be told; if the
            encoder's network is not what its manifest says.
    """
    check_manifest(encoder)
    num_tensors = check_tensors(detector.backbone(), encoder)
    expected, found = _levels(detector, encoder, encoder.input, pixels)
    wrong, differences = _compared(expected, found)
    if wrong:
        reason = _reason(detector, encoder, pixels)
        raise _refusal(encoder, wrong, f"{num_tensors} tensors are the encoder's, but of", reason)
    return Proof(num_tensors=num_tensors, difference_by_level=differences)


def check_tensors(backbone: Mapping[str, Tensor], encoder: Encoder) -> int:
    """Hold that the tensors of ``backbone`` are the encoder's, and return how many there are.

    Raises:
        CheckpointError: With those that are missing, left over or different.
    """
    expected, found = _counted(_expected(backbone, encoder)), _counted(backbone)
    wrong = [f"missing: {name}" for name in expected if name not in found]
    wrong += [f"not the encoder's: {name}" for name in found if name not in expected]
    wrong += [
        f"different: {name}"
        for name in expected
        if name in found and not torch.equal(expected[name], found[name])
    ]
    if wrong:
        raise _refusal(
            encoder, wrong, f"Of {len(expected)} tensors and", _what_arrived(expected, found)
        )
    return len(expected)


def check_manifest(encoder: Encoder) -> None:
    """Hold that a ResNet is of its manifest's architecture: shapes, strides, groups and all.

    A network that the manifest says was adapted, or whose architecture nobody knows, passes.

    Raises:
        CheckpointError: With what differs.
    """
    if encoder.manifest.adapted or not has_resnet_parts(encoder.network):
        return
    try:
        with torch.device("meta"):
            named = build_network(encoder.arch)
    except UsageError:
        return
    expected, found = _structure(named), _structure(encoder.network)
    wrong = [
        f"{name} is {found.get(name, 'not there')}, not {expected.get(name, 'there')}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if wrong:
        raise CheckpointError(
            f"The network of {encoder.name} is not the {encoder.arch} that its manifest says:\n  "
            f"{_shown(wrong)}\nSay which architecture it is: --arch NAME"
        )


def _structure(network: nn.Module) -> dict[str, str]:
    """What a forward pass depends on besides values, by name."""
    shapes = {
        name: str(list(tensor.shape))
        for name, tensor in network.state_dict().items()
        if not is_counter(name)
    }
    numbers = {
        f"the {number} of {name}": str(getattr(module, number))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
        for number in ("stride", "padding", "dilation", "groups")
    }
    return shapes | numbers


def _what_arrived(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """How much of the encoder is there; fresh norms equal fresh norms, and do not count."""
    layers = [name for name, tensor in expected.items() if tensor.dim() > 1]
    equal = sum(name in found and torch.equal(expected[name], found[name]) for name in layers)
    if equal:
        return f"{equal} of {len(layers)} layers have the encoder's weights.\n"
    return (
        f"Not one of {len(layers)} layers has the encoder's weights: nothing was loaded, as where "
        "the names in a file are another program's.\n"
    )


def _refusal(encoder: Encoder, wrong: list[str], of: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"The detector's backbone is not the encoder {encoder.name} ({encoder.arch}). {of} the "
        f"levels of one image, {len(wrong)} differ:\n  {_shown(wrong)}\n{reason}"
        "Training it would measure another network. Try the other engine: --engine torchvision"
    )


def _shown(wrong: list[str]) -> str:
    """The first of each kind, such as ``missing``, and how many more there are."""
    kinds: dict[str, list[str]] = {}
    for each in wrong:
        kinds.setdefault(each.partition(":")[0] if ":" in each else "", []).append(each)
    lines = []
    for kind, those in kinds.items():
        more = len(those) - NUM_SHOWN
        lines += those[:NUM_SHOWN] + ([f"{kind}: {more} more".lstrip(": ")] if more > 0 else [])
    return "\n  ".join(lines)


def _expected(backbone: Mapping[str, Tensor], encoder: Encoder) -> dict[str, Tensor]:
    """All of the encoder's tensors; of a transformer in a detector what detectors have of it.

    That is none of what they leave out; a backbone with some of it must have all.
    """
    tensors = encoder.tensors()
    if not is_plain(encoder):
        return tensors
    kept = trunk_tensors(encoder)
    return tensors if (tensors.keys() - kept.keys()) & backbone.keys() else kept


def _counted(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # No output depends on BatchNorm's step counters.
    return {name: tensor for name, tensor in tensors.items() if not is_counter(name)}


def _levels(
    detector: Detector, encoder: Encoder, spec: InputSpec, pixels: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The detector's levels, of the encoder fed as ``spec`` says and of itself."""
    # To whole strides: with what is left of an image, detectors and networks deal each as they do.
    height, width = pixels.shape[1:]
    # A transformer's pyramid ends at twice its patch.
    multiple = math.lcm(COARSEST, 2 * patch_of(encoder)) if is_plain(encoder) else COARSEST
    pixels = F.pad(pixels, (0, -width % multiple, 0, -height % multiple))
    detector.eval()
    found = detector.levels(pixels)
    images = normalize(pixels[None].to(encoder.device), spec)
    expected = _own_maps(encoder, images)
    return {name: expected[name] for name in found}, found


def _own_maps(encoder: Encoder, images: Tensor) -> dict[str, Tensor]:
    if not is_plain(encoder):
        return encoder.levels(images)
    with torch.inference_mode():
        return {LAST: last_map(encoder.network, images)}


def _compared(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> tuple[list[str], dict[str, float]]:
    wrong, differences = [], {}
    for level, wanted in expected.items():
        if found[level].shape != wanted.shape:
            shapes = f"{list(found[level].shape)}, not {list(wanted.shape)}"
            wrong.append(f"features at {level}: {shapes}")
            continue
        off = ((found[level] - wanted).norm() / wanted.norm()).item()
        differences[level] = off
        if not off <= TOLERANCE:
            wrong.append(f"features at {level}: off by {100 * off:.2g} %")
    return wrong, differences


def _reason(detector: Detector, encoder: Encoder, pixels: Tensor) -> str:
    """What explains the difference: the encoder fed otherwise gives the detector's features."""
    spec = encoder.input
    other: Literal["RGB", "BGR"] = "BGR" if spec.channel_order == "RGB" else "RGB"
    swapped = dataclasses.replace(
        spec, channel_order=other, mean=spec.mean[::-1], std=spec.std[::-1]
    )
    if _fits_with_strides_moved(detector, encoder, pixels):
        return (
            "Its blocks have the stride in the other convolution than the encoder's: of "
            "bottlenecks Caffe's have it in the first, 1x1, torchvision's in the second, 3x3.\n"
        )
    fed_otherwise = {
        f"The detector is fed {other}, the encoder {spec.channel_order}.\n": swapped,
        f"The detector is fed {other} with the mean and std of {spec.channel_order}.\n": (
            dataclasses.replace(spec, channel_order=other)
        ),
        "The detector takes pixels of 0 to 1 for pixels of 0 to 255, or the other way round.\n": (
            dataclasses.replace(spec, mean=tuple(v / 255 for v in spec.mean))
        ),
    }
    for reason, tried in fed_otherwise.items():
        expected, found = _levels(detector, encoder, tried, pixels)
        if not _compared(expected, found)[0]:
            return reason
    return (
        "Every tensor fits, and so do the colours: a stride, a dilation, padding or an eps of the "
        "norms is in another place, or mean and std are others.\n"
    )


def _fits_with_strides_moved(detector: Detector, encoder: Encoder, pixels: Tensor) -> bool:
    network = copy.deepcopy(encoder.network)
    blocks: list[Any] = [
        m for m in network.modules() if hasattr(m, "conv1") and hasattr(m, "conv2")
    ]
    moved = [block for block in blocks if block.conv1.stride != block.conv2.stride]
    for block in moved:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    other = Encoder(network, encoder.manifest)
    return bool(moved) and not _compared(*_levels(detector, other, encoder.input, pixels))[0]
