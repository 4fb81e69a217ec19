"""``recipe.opts``: entries of Detectron2's configuration that nothing else decides."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from moco_eval.errors import UsageError, unknown


@dataclass(frozen=True)
class Decided:
    """An entry's value, and what decides it.

    Attributes:
        value: As Detectron2 takes it.
        by: A field of the recipe, or a key of ``INSTEAD``.
    """

    value: Any
    by: str


# What decides an entry if no field of the recipe does, and what to do about it.
INSTEAD = {
    "input": "the encoder's manifest decides it. Say of the encoder how it is fed: --input",
    "structure": "the encoder's own tensors decide it. Load another encoder",
    "data": "the data set decides it. Take other data: --data",
    "machine": "this machine decides it. Say another device: --device",
    "trainer": "training and evaluation are not Detectron2's here, and it would change nothing",
}
# Entries that stay at Detectron2's defaults, and would have no effect or an untold one.
CLOSED = (
    ("MODEL.RESNETS.*", "structure"),
    ("MODEL.BACKBONE.*", "structure"),
    ("MODEL.FPN.IN_FEATURES", "detector"),
    ("MODEL.META_ARCHITECTURE", "detector"),
    ("MODEL.WEIGHTS", "structure"),
    ("DATASETS.*", "data"),
)


def merge_opts(cfg: CfgNode, opts: Sequence[str], decided: Mapping[str, Decided]) -> None:
    """Put ``KEY=VALUE`` entries into ``cfg``.

    Args:
        cfg: With all that is decided in it.
        opts: Of these only the model's that nothing decides are taken: the rest would contradict
            the encoder or the recipe, or change nothing.
        decided: By key.

    Raises:
        UsageError: If one is refused, with what to set instead; if Detectron2 has no such key or
            takes no such value.
    """
    for opt in opts:
        key, equals, value = opt.partition("=")
        if not equals:
            raise UsageError(f"opts: '{opt}' is no KEY=VALUE, such as MODEL.RPN.NMS_THRESH=0.6.")
        known = set(_keys(cfg))
        if key not in known:
            raise unknown_key(key, known)
        by = _decider(key, decided)
        if by is not None:
            raise UsageError(_refusal(key, value, by, _value(cfg, key)))
        try:
            cfg.merge_from_list([key, value])
        except (AssertionError, ValueError) as error:
            raise UsageError(
                f"opts: {opt} is not taken by Detectron2, whose value there is "
                f"{_value(cfg, key)!r}: {error}"
            ) from error


def unknown_key(key: str, known: set[str]) -> UsageError:
    """An error that names the entries near ``key`` instead of all five hundred."""
    section = key.rpartition(".")[0]
    near = {name for name in known if name.rpartition(".")[0] == section}
    return unknown(
        "entry of Detectron2's configuration", key, near or {n.split(".")[0] for n in known}
    )


def _decider(key: str, decided: Mapping[str, Decided]) -> str | None:
    if key in decided:
        return decided[key].by
    for pattern, by in CLOSED:
        if fnmatch.fnmatchcase(key, pattern):
            return by
    return None if key.startswith("MODEL.") else "trainer"


def _refusal(key: str, value: str, by: str, current: Any) -> str:
    reason = INSTEAD.get(by) or f"the recipe's {by} decides it. Set that instead: --set {by}=..."
    return f"opts: {key}={value} is not taken, where it is {current!r} here: {reason}."


def _keys(cfg: CfgNode, above: str = "") -> list[str]:
    keys = []
    for key, value in cfg.items():
        keys += _keys(value, f"{above}{key}.") if isinstance(value, CfgNode) else [f"{above}{key}"]
    return keys


def _value(cfg: CfgNode, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg
