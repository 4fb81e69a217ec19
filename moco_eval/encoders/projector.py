"""The projector of a checkpoint: the pretraining head that the gate leaves out, read again.

Only for protocols that are defined on its output, such as Instance Discrimination's kNN.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from moco_eval.encoders.claims import Claim, claim
from moco_eval.encoders.encoder import Encoder, is_counter
from moco_eval.encoders.formats.layout import CLASSIFIER, strip_wrappers
from moco_eval.encoders.hints import Hints
from moco_eval.encoders.networks import classifier_names
from moco_eval.encoders.reading.reader import read, shortened
from moco_eval.errors import CheckpointError

# What leads the names of its tensors, by format, once wrappers and tower are removed. All of these
# are rows of linear layers, BatchNorms and ReLUs in the sources that ``formats/`` names.
PLACES = {
    "moco": CLASSIFIER,
    "mocov3": CLASSIFIER,
    "simsiam": "fc",
    "simclr-sthalles": "fc",
    "swav": "projection_head",
    "deepcluster-v2": "projection_head",
    "barlow-twins": "projector",
    "vicreg": "projector",
}
ADVICE = "Take the backbone's own feature: --set feature=pooled"


def load_projector(encoder: Encoder) -> nn.Sequential:
    """Read the projector of the network that ``encoder`` was loaded from.

    Returns:
        Frozen, in eval mode, on the encoder's device: from its pooled features ``(N, D)`` to
        ``(N, dim)``, in float32.

    Raises:
        CheckpointError: If the encoder comes from no file whose projector is known, the file has
            changed or holds none, or its tensors can be read in more than one way.
    """
    manifest = encoder.manifest
    path = Path(manifest.source)
    if manifest.format not in PLACES or not path.exists():
        raise CheckpointError(
            f"No projector is known of {manifest.source}, of format '{manifest.format}'. "
            f"Checkpoints of these formats have one: {', '.join(PLACES)}. {ADVICE}"
        )
    file = read(path)
    if file.sha256 != manifest.file_sha256:
        raise CheckpointError(f"{path} has changed since its encoder was loaded. Load it again.")
    found = claim(file, Hints(format=manifest.format, tower=manifest.tower))
    projector = _built(found.source, _tensors_of(found, encoder.network))
    device = next((p.device for p in encoder.network.parameters()), torch.device("cpu"))
    return projector.to(device).requires_grad_(False)


def described(projector: nn.Sequential) -> str:
    """Its layers in one line, for a record: ``Linear 512-512, ReLU, Linear 512-128``."""
    return ", ".join(
        f"Linear {layer.in_features}-{layer.out_features}"
        if isinstance(layer, nn.Linear)
        else type(layer).__name__.removesuffix("1d")
        for layer in projector
    )


def project(projector: nn.Sequential, features: Tensor, *, batch_size: int = 4096) -> Tensor:
    """Outputs ``(N, dim)`` for features ``(N, D)``, on the CPU; read in parts.

    Raises:
        CheckpointError: If the projector takes features of another dimension.
    """
    first = projector[0]
    assert isinstance(first, nn.Linear), "a projector begins with a linear layer"
    if features.shape[1] != first.in_features:
        raise CheckpointError(
            f"The projector takes features of {first.in_features} dimensions, and the encoder "
            f"gives {features.shape[1]}. {ADVICE}"
        )
    device = first.weight.device
    with torch.inference_mode():
        parts = [projector(part.to(device)).cpu() for part in torch.split(features, batch_size)]
    return torch.cat(parts).clone()


def _tensors_of(found: Claim, network: nn.Module) -> dict[str, Tensor]:
    """The projector's tensors, by what follows its own name."""
    place = PLACES[found.format.name]
    # A ResNet's is called fc, a ViT's head; a file with tensors under both has no one reading.
    names = {"fc", *classifier_names(network)} if place == CLASSIFIER else {place}
    held: dict[str, dict[str, Tensor]] = {}
    for theirs, value in found.tensors.items():
        inner = strip_wrappers(theirs).removeprefix(found.prefix)
        name, _, rest = inner.partition(".")
        if name in names and rest and isinstance(value, Tensor) and not is_counter(rest):
            held.setdefault(name, {})[rest] = value
    if len(held) != 1:
        shown = " and ".join(f"{found.prefix}{name}.*" for name in sorted(held or names))
        raise CheckpointError(
            f"{found.source} holds {'more than one' if held else 'no'} projector: "
            f"{'there are' if held else 'there is no'} {shown}. {ADVICE}"
        )
    return next(iter(held.values()))


def _built(source: str, tensors: Mapping[str, Tensor]) -> nn.Sequential:
    """The row of layers whose tensors these are; a number that is left out is a ReLU's."""
    numbered: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, part = name.rpartition(".")
        if number and not number.isdecimal():
            raise _unread(source, tensors)
        numbered.setdefault(int(number or 0), {})[part] = value.float()
    layers: list[nn.Module] = []
    for place in range(max(numbered) + 1):
        layer = _layer(numbered[place]) if place in numbered else nn.ReLU()
        if layer is None:
            raise _unread(source, tensors)
        layers.append(layer)
    # Two numbers left out in a row are a ReLU and something else.
    in_a_row = any(isinstance(a, nn.ReLU) and isinstance(b, nn.ReLU) for a, b in pairwise(layers))
    if in_a_row or not isinstance(layers[0], nn.Linear):
        raise _unread(source, tensors)
    projector = nn.Sequential(*layers).eval()
    try:
        projector(torch.zeros(1, layers[0].in_features))
    except RuntimeError as error:
        raise _unread(source, tensors) from error
    return projector


def _layer(tensors: Mapping[str, Tensor]) -> nn.Module | None:
    """The linear layer or the BatchNorm that has these tensors; None if neither has."""
    weight, names = tensors.get("weight"), set(tensors)
    layer: nn.Module
    if weight is not None and weight.dim() == 2 and names <= {"weight", "bias"}:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in names)
    elif (
        {"running_mean", "running_var"}
        <= names
        <= {"running_mean", "running_var"}
        | {
            "weight",
            "bias",
        }
    ):
        layer = nn.BatchNorm1d(len(tensors["running_mean"]), affine="weight" in names)
    else:
        return None
    try:
        missing = layer.load_state_dict(dict(tensors), strict=False)
    except RuntimeError:
        return None
    return None if missing.unexpected_keys or any(map(_matters, missing.missing_keys)) else layer


def _matters(name: str) -> bool:
    return not is_counter(name)


def _unread(source: str, tensors: Mapping[str, Tensor]) -> CheckpointError:
    shown = shortened([f"{name} {list(value.shape)}" for name, value in tensors.items()])
    return CheckpointError(
        f"{source}: its projector is no row of linear layers, BatchNorms and ReLUs: {shown}. "
        f"{ADVICE}"
    )
