"""A loaded network for other images: of another size, or with other channels."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from moco_eval.errors import UsageError

RGB = 3


def resized(network: nn.Module, size: int) -> str:
    """Fit ``network``, in place, to square images of another size.

    The positions of a transformer are resampled bicubically, as timm does. Swin keeps its windows
    unless a stage is smaller than they are; then their table of positions is resampled.

    Args:
        network: As ``build_network`` makes it, filled.
        size: The side of the images in pixels.

    Returns:
        What was done, in one sentence; empty where nothing had to be.

    Raises:
        UsageError: If the network's size is fixed, or does not divide into its patches.
    """
    patches: Any = getattr(network, "patch_embed", None)
    if not hasattr(network, "set_input_size") or patches is None:
        return _any_size(network, size)
    if patches.img_size[0] == patches.img_size[1] == size:
        return ""
    patch = patches.patch_size[0]
    if size % patch:
        raise UsageError(
            f"A {type(network).__name__} cuts images into patches of {patch} pixels, and {size} is "
            "no multiple of that. Take another image size."
        )
    transformer: Any = network
    old, new = _grid(patches.grid_size), _grid((size // patch, size // patch))
    if windows := _windows(network):
        with warnings.catch_warnings():
            # About its speed and its manner of indexing, which users cannot change.
            warnings.filterwarnings("ignore", module=r"timm\.layers\.interpolate")
            transformer.set_input_size(img_size=(size, size), window_size=max(windows))
        changed = {(a, b) for a, b in zip(windows, _windows(network), strict=True) if a != b}
        resampled = [f"{_grid(a)} to {_grid(b)}" for a, b in sorted(changed)]
        tables = f", its windows resampled from {' and '.join(resampled)}" if resampled else ""
        return f"resized from {old} to {new} patches{tables}"
    transformer.set_input_size(img_size=(size, size))
    if getattr(network, "pos_embed", None) is None:
        return f"positions computed for {new} patches instead of {old}"
    return f"pos_embed resampled from {old} to {new}"


def with_channels(network: nn.Module, in_chans: int) -> str:
    """Let ``network``, in place, take images of other than three channels.

    The first convolution is summed over its channels for one channel: a grey image then gives what
    its three equal channels gave. For more its channels are repeated in turn and scaled, so that
    equal channels give as much as three did. As timm's ``adapt_input_conv``.

    Args:
        network: As ``build_network`` makes it for RGB images, filled.
        in_chans: Channels of the images.

    Returns:
        What was done, in one sentence; empty where nothing had to be.

    Raises:
        UsageError: If the network has no convolution over three channels, or none are asked.
    """
    convolutions = ((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    name, first = next(convolutions, ("", None))
    if first is None or first.in_channels != RGB or first.groups != 1 or in_chans < 1:
        found = f"'{name}' over {first.in_channels} channels" if first else "no convolution"
        raise UsageError(
            f"A {type(network).__name__} cannot take images of {in_chans} channels instead of "
            f"{RGB}: it begins with {found}. Take another architecture, or images of its channels."
        )
    if in_chans == RGB:
        return ""
    weight = first.weight
    first.weight = nn.Parameter(
        _over_channels(weight.detach(), in_chans), requires_grad=weight.requires_grad
    )
    # timm's networks note the number as well.
    for holder in (first, network, getattr(network, "patch_embed", None)):
        for attribute in ("in_channels", "in_chans"):
            if hasattr(holder, attribute):
                setattr(holder, attribute, in_chans)
    if in_chans == 1:
        return f"{name} summed over {RGB} channels, for images of 1"
    return f"{name} repeated from {RGB} channels to {in_chans} and scaled by {RGB}/{in_chans}"


def _over_channels(weight: Tensor, in_chans: int) -> Tensor:
    """``(D, 3, h, w)`` to ``(D, in_chans, h, w)``."""
    if in_chans == 1:
        return weight.sum(1, keepdim=True)
    times = math.ceil(in_chans / RGB)
    return torch.cat([weight] * times, dim=1)[:, :in_chans] * (RGB / in_chans)


def _any_size(network: nn.Module, size: int) -> str:
    config: Any = getattr(network, "pretrained_cfg", None) or {}
    if config.get("fixed_input_size", False) and config["input_size"][-1] != size:
        raise UsageError(
            f"A {type(network).__name__} takes images of {config['input_size'][-1]} pixels and "
            f"timm cannot make it take {size}. Leave its size, or take another architecture."
        )
    return ""


def _windows(network: nn.Module) -> list[tuple[int, int]]:
    """The windows of a Swin's blocks, in order; none for other networks."""
    blocks: list[Any] = [m for m in network.modules() if hasattr(m, "shift_size")]
    return [tuple(block.window_size) for block in blocks]


def _grid(sides: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in sides)
