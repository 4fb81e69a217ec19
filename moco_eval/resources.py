"""What a run may use of the machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Resources:
    """How a run goes about it: none of this moves a number by more than rounding.

    But for dense recipes, which are rescaled to the number of processes; that is recorded.

    Attributes:
        num_processes: How many to launch on this machine, one a GPU; started by a launcher, a run
            has as many as that says.
        num_workers: Processes that load images, for each rank; 0 loads them in the rank's own.
        compile: Compile the frozen encoder, which pays on GPUs and on many images.
        cache: Folder of features that were computed before; None computes them anew.
    """

    num_processes: int = 1
    num_workers: int = 0
    compile: bool = False
    cache: Path | None = None


PLAIN = Resources()
