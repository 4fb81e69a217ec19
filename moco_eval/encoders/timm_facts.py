"""What timm's configuration says of a network beside its weights."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from torch import nn

from moco_eval.data.images import InputSpec
from moco_eval.encoders.claims import said_at
from moco_eval.encoders.reader import CONFIG
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


def refuse_unnamed_arguments(source: str, network: nn.Module, said: Mapping[str, Any]) -> None:
    """Refuse a folder whose network was built with arguments that its name does not imply.

    Such a network may have the same tensors and compute something else, as with another pooling.

    Raises:
        CheckpointError: With the arguments.
    """
    arguments: Any = said_at(said, (CONFIG, "model_args")) or {}
    config: Any = getattr(network, "pretrained_cfg", None) or {}
    channels, *size = config.get("input_size") or (3,)
    implied = {"in_chans": channels, "img_size": size, "global_pool": _pooling(network)}
    beyond = {
        name: value
        for name, value in arguments.items()
        # The classifier is dropped.
        if name != "num_classes" and value != implied.get(name)
    }
    if beyond:
        raise CheckpointError(
            f"{source}: its {CONFIG} builds the network with {beyond}, which an architecture's "
            "name cannot carry. Such folders are not read."
        )


def _pooling(network: nn.Module) -> Any:
    """What timm calls the network's pooling, wherever the network keeps it."""
    for holder in (network, getattr(network, "head", None)):
        pool: Any = getattr(holder, "global_pool", None)
        if pool is not None:
            return getattr(pool, "pool_type", pool)
    return None
