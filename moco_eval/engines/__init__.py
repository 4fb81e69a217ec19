"""Who trains the detector: Detectron2, or torchvision's parts where it is absent."""

from __future__ import annotations

import importlib.util

from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.exports.vitdet import is_transformer
from moco_eval.encoders.networks import has_resnet_parts, stages_of
from moco_eval.environment import DETECTRON2_INSTALL
from moco_eval.errors import UsageError, unknown

# The engines differ in detail, so each has protocol ids of its own and their numbers never mix.
SUFFIX = {"detectron2": "", "torchvision": "-tv"}


def has_detectron2() -> bool:
    """Whether Detectron2 is installed; a folder of that name, such as its clone, is not enough."""
    found = importlib.util.find_spec("detectron2")
    return found is not None and found.origin is not None


def require_engine(name: str) -> None:
    """Refuse a name that is neither ``auto`` nor an engine's.

    Raises:
        UsageError: With the names.
    """
    if name not in ("auto", *SUFFIX):
        raise unknown("engine", name, ("auto", *SUFFIX))


def choose(name: str, encoder: Encoder) -> str:
    """The engine that ``name`` stands for: ``auto`` takes Detectron2 where it can.

    Args:
        name: ``auto``, ``detectron2`` or ``torchvision``.
        encoder: Detectron2's detectors are built of ResNets and plain transformers here.

    Raises:
        UsageError: If there is no such engine, or Detectron2 is asked for where it is absent or
            for an encoder that is neither.
    """
    require_engine(name)
    # An encoder that no engine takes is refused before one is asked for.
    is_plain = is_transformer(encoder)
    if not is_plain:
        stages_of(encoder.network)
    fits = is_plain or has_resnet_parts(encoder.network)
    installed = has_detectron2()
    if name == "auto":
        return "detectron2" if installed and fits else "torchvision"
    if name == "detectron2" and not installed:
        raise UsageError(
            f"Detectron2 is not installed. Install it with: {DETECTRON2_INSTALL} "
            "Or take the other engine: --engine torchvision"
        )
    if name == "detectron2" and not fits:
        raise UsageError(
            "Detectron2's detector is built of ResNets and plain transformers here, and this "
            "encoder is neither. "
            "Try --engine torchvision"
        )
    return name
