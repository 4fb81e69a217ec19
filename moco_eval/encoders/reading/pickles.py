"""Plain pickles: Detectron2's and Caffe2's arrays, and BYOL's training state.

The first two are read strictly: whatever asks for more than numpy's arrays is refused. DeepMind's
BYOL pickles a named tuple of mappings, whose names and order are known, and its optimizer's state,
whose classes stay inert.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from moco_eval.encoders.reading.inert import Inert, parse
from moco_eval.encoders.reading.plain import NUMPY, NoStorages, plain
from moco_eval.encoders.reading.refusals import shortened
from moco_eval.errors import CheckpointError

BYOL = "experiment_state"
# google-deepmind/deepmind-research, byol/byol_experiment.py: _ByolExperimentState.
BYOL_FIELDS = ("online_params", "target_params", "online_state", "target_state", "opt_state")
# Where haiku's immutable mappings keep what they hold.
HELD = ("_mapping", "_storage")


def read_pickle(file: BinaryIO, path: Path, *, size: int) -> Any:
    """Read a pickle of arrays and plain values, or of BYOL's training state.

    Raises:
        CheckpointError: If it asks for anything else.
        ValueError, LookupError, TypeError, EOFError: If it is damaged.
    """
    parsed = parse(file, path, size=size)
    is_byol = isinstance(parsed.root, dict) and BYOL in parsed.root
    if not is_byol and not parsed.asked <= NUMPY:
        raise CheckpointError(
            f"{path} is refused: it is a plain pickle, of which only arrays and plain values are "
            f"read, and it asks for {shortened(sorted(parsed.asked - NUMPY))}. Where you trust the "
            "file, load it with its author's code and save its state_dict() with torch.save."
        )
    root = plain(parsed.root, path, storages=NoStorages(), size=size)
    if is_byol:
        return root | {BYOL: _byol(root[BYOL])}
    _require_plain(path, root)
    return root


def _byol(state: Any) -> Any:
    if not isinstance(state, Inert) or len(state.args or ()) != len(BYOL_FIELDS):
        return state
    known: dict[int, Any] = {}
    values = zip(BYOL_FIELDS, state.args or (), strict=True)
    return {name: _mapping(value, known) for name, value in values}


def _mapping(value: Any, known: dict[int, Any]) -> Any:
    """``value`` with haiku's mappings as plain ones; one that is shared is looked at once."""
    held = value
    if isinstance(value, Inert):
        said = value.state if isinstance(value.state, Mapping) else {}
        found = [said[name] for name in HELD if name in said] or list(value.args or ())
        held = found[0] if len(found) == 1 else value
    if not isinstance(held, Mapping):
        return value
    if id(held) not in known:
        found_here: dict[Any, Any] = {}
        known[id(held)] = found_here
        found_here |= {name: _mapping(inner, known) for name, inner in held.items()}
    return known[id(held)]


def _require_plain(path: Path, root: Any) -> None:
    """Refuse ``root`` unless it maps text to arrays and plain values, or to such mappings."""
    pairs = list(root.items()) if isinstance(root, Mapping) else []
    inner = {id(value): value for _, value in pairs if isinstance(value, Mapping)}
    pairs = [pair for pair in pairs if id(pair[1]) not in inner]
    for name, value in [*pairs, *(pair for each in inner.values() for pair in each.items())]:
        is_plain = value is None or isinstance(value, (Tensor, str, bool, int, float))
        if not isinstance(name, str) or not is_plain:
            kind = value.kind if isinstance(value, Inert) else type(value).__name__
            raise CheckpointError(
                f"{path} is refused: it is a plain pickle, and its entry {str(name)[:80]} is a "
                f"{kind}, expected an array of numbers, text or a number under a name in text. "
                "Save the network's tensors with torch.save or as safetensors."
            )
