"""What scoring gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Scores:
    """How good a dense model's answers are.

    Attributes:
        metrics: In percent, under the names that papers use, the one they report first in front.
        drawn: Arrays that pictures are drawn from, by name: counts, or in percent, but for
            ``precision`` on 0-1.
        details: How it was scored, for whoever reads a record of it; the names end as the metrics'.
    """

    metrics: Mapping[str, float]
    drawn: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
