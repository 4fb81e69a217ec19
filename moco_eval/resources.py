"""What a run may use of the machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Resources:
    """How a run goes about it: none of this moves a number by more than rounding.

    Attributes:
        num_workers: Processes that load images, for each rank; 0 loads them in the rank's own.
        compile: Compile the frozen encoder, which pays on GPUs and on many images.
        cache: Folder of features that were computed before; None computes them anew.
    """

    num_workers: int = 0
    compile: bool = False
    cache: Path | None = None


PLAIN = Resources()
