"""What timm's configuration says of a network beside its weights."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from moco_eval.data.images import InputSpec
from moco_eval.encoders.formats.layout import said_at
from moco_eval.encoders.networks.timm_networks import build_timm, join_arch
from moco_eval.encoders.reading.reader import CONFIG
from moco_eval.errors import CheckpointError


def timm_input(source: str, network: nn.Module, said: Mapping[str, Any]) -> InputSpec | None:
    """How timm feeds this network; None if it is not timm's.

    The file's own configuration goes before the one that timm keeps under the network's name, and
    the command line of a training (``args``) before both, as in timm's validate.py.

    Raises:
        CheckpointError: If that is nothing an ``InputSpec`` can say.
    """
    from timm.data.config import resolve_data_config

    config = said_at(said, (CONFIG, "pretrained_cfg")) or getattr(network, "pretrained_cfg", None)
    if not config:
        return None
    arguments = said.get("args")
    try:
        resolved = resolve_data_config(  # type: ignore[no-untyped-call]
            vars(arguments) if isinstance(arguments, Namespace) else {}, pretrained_cfg=config
        )
        channels, height, width = resolved["input_size"]
    except (AssertionError, AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: timm cannot tell how it is fed: {error}") from error
    if channels != 3 or height != width or resolved["interpolation"] not in ("bilinear", "bicubic"):
        raise CheckpointError(
            f"{source} is fed with {channels} channels of {height}x{width} pixels, resized "
            f"{resolved['interpolation']}. Square RGB images, bilinear or bicubic, are what this "
            "version takes."
        )
    return InputSpec(
        size=height,
        mean=tuple(resolved["mean"]),
        std=tuple(resolved["std"]),
        interpolation=resolved["interpolation"],
        crop_pct=resolved["crop_pct"],
    )


def timm_arch(named: str, said: Mapping[str, Any]) -> str:
    """The architecture of a folder, whose network may be built with arguments beside its name.

    Args:
        named: ``timm:NAME``.
        said: What the file says; its configuration's ``model_args`` become options of the name,
            but for those that it implies.

    Raises:
        UsageError: If timm does not know the name, or an argument is nothing that it can carry.
    """
    # The classifier is dropped, and the first convolution tells the channels.
    arguments = dict(said_at(said, (CONFIG, "model_args")) or {})
    options = {k: v for k, v in arguments.items() if k not in ("num_classes", "in_chans")}
    if not options:
        return named
    with torch.device("meta"):
        network = build_timm(named)
    config: Any = getattr(network, "pretrained_cfg", None) or {}
    _, *size = config.get("input_size") or (3,)
    implied = {"img_size": size, "global_pool": _pooling(network)}
    beyond = {name: value for name, value in options.items() if value != implied.get(name)}
    return join_arch(named, beyond)


def _pooling(network: nn.Module) -> Any:
    """What timm calls the network's pooling, wherever the network keeps it."""
    for holder in (network, getattr(network, "head", None)):
        pool: Any = getattr(holder, "global_pool", None)
        if pool is not None:
            return getattr(pool, "pool_type", pool)
    return None
