"""What a test needs to know of one author's file: how to write it, and what must come out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from moco_eval.data.images import InputSpec

# Stands for every number that must not get into an encoder.
WORTHLESS = -9.0


@dataclass(frozen=True, kw_only=True)
class Written:
    """A file in an author's layout.

    Attributes:
        path: What ``load_encoder`` is given.
        expected: The encoder's tensors under canonical names; step counters may be left out.
        arch: The architecture that must come out.
        input: How the encoder must be fed.
        tower: The network that must be taken.
        hints: What such a file needs from the user.
        author: What the author's own network computes, images to pooled features, where there is
            one to ask.
    """

    path: Path
    expected: Mapping[str, Tensor]
    arch: str
    input: InputSpec
    tower: str = "encoder"
    hints: Mapping[str, str] = field(default_factory=dict)
    author: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way in which files of a format occur.

    Attributes:
        format: The row of ``FORMATS`` that must claim it.
        case: What tells it from other files of that format.
        evidence: Whether the real library wrote the file, or this test after its source.
        by: The library, or the source that was followed.
        requires: Modules without which it cannot be written.
        write: Writes the file below a folder.
    """

    format: str
    case: str
    evidence: Literal["library", "synthetic"]
    by: str
    requires: tuple[str, ...] = ()
    write: Callable[[Path], Written]


def randomised(network: nn.Module, seed: int = 5) -> nn.Module:
    """The network with no two tensors alike and statistics that are not those of a fresh one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.add_(noise, alpha=0.02) if "weight" in name else tensor.add_(noise)
    return network.eval()


def worthless(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same names and shapes, and numbers that would show."""
    return {name: torch.full_like(tensor, WORTHLESS) for name, tensor in state.items()}


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with ``prefix`` before every name."""
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def without(state: Mapping[str, Tensor], *beginnings: str) -> dict[str, Tensor]:
    """The state without the names that begin so."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(beginnings)}


def saved(path: Path, content: object) -> Path:
    """Save with ``torch.save`` and return the path."""
    torch.save(content, path)
    return path
