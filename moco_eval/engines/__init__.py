"""Who trains the detector: Detectron2, or torchvision's parts where it is absent."""

from __future__ import annotations

import importlib.util

from moco_eval.environment import DETECTRON2_INSTALL
from moco_eval.errors import UsageError, unknown

# The engines differ in detail, so each has protocol ids of its own and their numbers never mix.
SUFFIX = {"detectron2": "", "torchvision": "-tv"}


def choose(name: str) -> str:
    """The engine that ``name`` stands for: ``auto`` takes Detectron2 where it is installed.

    Raises:
        UsageError: If there is no such engine, or Detectron2 is asked for and absent.
    """
    installed = importlib.util.find_spec("detectron2") is not None
    if name == "auto":
        return "detectron2" if installed else "torchvision"
    if name not in SUFFIX:
        raise unknown("engine", name, (*SUFFIX, "auto"))
    if name == "detectron2" and not installed:
        raise UsageError(
            f"Detectron2 is not installed. Install it with: {DETECTRON2_INSTALL} "
            "Or take the other engine: --engine torchvision"
        )
    return name
