"""How long cells take, from the records of others like them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import timedelta
from statistics import fmean
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """What cells have in common that take about as long."""

    protocol: str
    recipe: str
    dataset: str


class Estimates:
    """Mean wall seconds by kind of cell.

    Args:
        heads: Records, of any encoder: the mean is over all of them, and scaled for nothing.
    """

    def __init__(self, heads: Iterable[Mapping[str, Any]]) -> None:
        seen: dict[Kind, list[float]] = defaultdict(list)
        for head in heads:
            wall_s = head["time"].get("wall_s")
            if head["status"] == "ok" and wall_s:
                protocol = head["protocol"]
                seen[Kind(protocol["id"], protocol["recipe"], head["dataset"]["id"])].append(wall_s)
        self._means = {kind: fmean(values) for kind, values in seen.items()}

    def of(self, kind: Kind) -> float | None:
        """Seconds; None where nothing like it was recorded."""
        return self._means.get(kind)


def as_text(seconds: float | None) -> str:
    """``0:01:30``, or ``?``."""
    if seconds is None:
        return "?"
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
