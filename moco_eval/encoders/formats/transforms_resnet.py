"""What renaming alone does not do to make a ResNet's tensors torchvision's."""

from __future__ import annotations

import re

import torch
from torch import Tensor

# torchvision's BatchNorm adds it to the variance.
BATCHNORM_EPS = 1e-5
_NUMBERED = re.compile(r"(conv2d|batch_normalization)(?:_(\d+))?/(.+)")
_CONV, _NORM = "conv2d", "batch_normalization"


def with_statistics(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Caffe2's affine layers as BatchNorms whose statistics change nothing.

    A bias of the first convolution, which Caffe2's file has and torchvision's layer has not, goes
    into the mean that the norm after it subtracts.
    """
    result = dict(tensors)
    bias = result.pop("conv1.bias", None)
    for name, weight in tensors.items():
        norm = name.removesuffix(".weight")
        if weight.dim() == 1 and norm != name:
            result.setdefault(f"{norm}.running_mean", torch.zeros_like(weight))
            result.setdefault(f"{norm}.running_var", torch.full_like(weight, 1 - BATCHNORM_EPS))
    if bias is not None and "bn1.running_mean" in result:
        result["bn1.running_mean"] = result["bn1.running_mean"] - bias
    return result


def from_haiku(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Haiku's kernels ``(h, w, in, out)`` as torch's, and its norms' ``(1, 1, 1, C)`` flat."""
    return {
        name: _kernel(value)
        if re.search(r"(conv\d|downsample\.0)\.weight$", name)
        # A mean of one channel would lose its only dimension to squeeze().
        else value.flatten()
        for name, value in tensors.items()
    }


def from_simclr_variables(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """SimCLR's variables of TensorFlow, which are numbered as they were created.

    A block creates its shortcut first where it has one, and so it begins with two kernels of
    side 1; the first block of each stage does.

    Args:
        tensors: ``conv2d/kernel``, ``conv2d_1/kernel``, ``batch_normalization/gamma``, ...

    Raises:
        ValueError: If they are not numbered without a gap, or are of a network with selective
            kernels.
    """
    kernels = _in_order(tensors, _CONV)
    norms = _in_order(tensors, _NORM)
    if len(kernels) != len(norms):
        raise ValueError(f"it has {len(kernels)} convolutions and {len(norms)} norms.")
    names = _names_in_order([kernel["kernel"].shape[0] for kernel in kernels])
    result = {
        f"{conv}.weight": _kernel(kernel["kernel"])
        for (conv, _), kernel in zip(names, kernels, strict=True)
    }
    for (_, norm), values in zip(names, norms, strict=True):
        for theirs, ours in _NORM_NAMES.items():
            if theirs in values:
                result[f"{norm}.{ours}"] = values[theirs]
    return result


_NORM_NAMES = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def _kernel(value: Tensor) -> Tensor:
    if value.dim() != 4:
        raise ValueError(f"a kernel is {list(value.shape)}, expected 4 dimensions.")
    return value.permute(3, 2, 0, 1).contiguous()


def _in_order(tensors: dict[str, Tensor], kind: str) -> list[dict[str, Tensor]]:
    """The layers of a kind by their numbers; the first has none."""
    layers: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        found = _NUMBERED.fullmatch(name)
        if found is None:
            raise ValueError(f"its variable {name} is no convolution's and no norm's.")
        if found[1] == kind:
            layers.setdefault(int(found[2] or 0), {})[found[3]] = value
    if sorted(layers) != list(range(len(layers))):
        raise ValueError(f"its layers {kind} are not numbered without a gap.")
    if kind == _CONV and any(set(layer) != {"kernel"} for layer in layers.values()):
        raise ValueError("a convolution has something else than a kernel.")
    return [layers[number] for number in range(len(layers))]


def _names_in_order(sides: list[int]) -> list[tuple[str, str]]:
    """Torchvision's names of the convolutions and their norms, by the sides of the kernels."""
    if sides[1:3] == [3, 3]:
        raise ValueError(
            "its stem has three convolutions, as networks with selective kernels (sk1) have, which "
            "are not built here. Take the file of the same network with sk0."
        )
    names, place, stage, block = [("conv1", "bn1")], 1, 0, 0
    while place < len(sides):
        has_shortcut = sides[place : place + 2] == [1, 1]
        stage, block = (stage + 1, 0) if has_shortcut else (stage, block + 1)
        at = f"layer{stage}.{block}"
        if has_shortcut:
            names.append((f"{at}.downsample.0", f"{at}.downsample.1"))
        names += [(f"{at}.conv{number}", f"{at}.bn{number}") for number in (1, 2, 3)]
        place += 3 + has_shortcut
    if len(names) != len(sides):
        raise ValueError(f"its {len(sides)} convolutions are no stem and blocks of three.")
    return names
