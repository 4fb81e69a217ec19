"""An encoder becomes a file of another format: written, reloaded, compared, only then put there."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from moco_eval import engines
from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.exports import (
    detectron2,
    onnx,
    swin,
    timm,
    vitdet,
)
from moco_eval.encoders.exports.export import (
    SAFETENSORS_ENDINGS,
    TORCH_ENDINGS,
    Export,
    prepare_safetensors,
    prepare_torchvision,
    prove,
)
from moco_eval.errors import OutputError, UsageError, output_error, unknown
from moco_eval.files import sync_folder


class Target(NamedTuple):
    """A format to write: how its files may end, and what prepares an encoder for it."""

    endings: tuple[str, ...]
    prepare: Callable[[Encoder], Export]


def convert(
    encoder: Encoder, path: Path, target: str, *, position_size: int | None = None
) -> dict[str, Any]:
    """Write ``encoder`` to ``path`` and prove that the file is that encoder.

    What is written lies under a temporary name beside ``path``, is reloaded in the library that it
    is for, and compared: every weight, then pooled features and levels of a fixed random batch.
    Then it is renamed. The global random state stays as it was.

    Args:
        encoder: Any encoder with weights.
        path: Ends as the target's files do, see ``TARGETS``; for ``hf`` a folder.
        target: A key of ``TARGETS``. ``detectron2`` also writes ``PATH.yaml``, the lines of
            configuration that the encoder needs.
        position_size: For a ViT to ``detectron2``: side in pixels of the images for which its
            position embedding is resampled.

    Returns:
        The proof: ``target``, ``arch``, ``num_tensors``, ``tensor_sha256`` of the encoder,
        ``reloaded_in``, and by level the largest ``relative_difference``.

    Raises:
        UsageError: If the target is unknown, cannot express the encoder, or gives back another.
        OutputError: If the file cannot be written. Nothing is left there.
    """
    _require_target(path, target)
    if not encoder.tensors():
        raise UsageError(f"{encoder.name} has no weights to write.")
    with torch.random.fork_rng(devices=[]):
        if target == "detectron2":
            export = _for_detectron2(encoder, position_size)
        elif position_size is not None:
            raise UsageError(f"Positions are resampled for detectron2 only, not for {target}.")
        else:
            export = TARGETS[target].prepare(encoder)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
                written = Path(folder) / path.name
                export.write(written)
                found = export.reload(written)
                differences = prove(encoder, export, found)
                _put(Path(folder), path)
        except OSError as error:
            raise output_error(path, error) from error
    return {
        "target": target,
        "arch": export.arch,
        "num_tensors": len(export.expected.tensors) or len(encoder.tensors()),
        "tensor_sha256": encoder.tensor_sha256(),
        "reloaded_in": found.library,
        "relative_difference": differences,
    }


def _require_target(path: Path, target: str) -> None:
    if target not in TARGETS:
        raise unknown("target", target, TARGETS)
    endings = TARGETS[target].endings
    if endings and not path.name.endswith(endings):
        raise UsageError(
            f"A file for {target} ends in {' or '.join(endings)}, found {path.name}: "
            "other programs go by the ending."
        )
    # A folder in the file's place, or a file in the folder's.
    if path.is_dir() if endings else path.exists():
        raise OutputError(f"{path} is there already. Say another name, or remove it.")


def _for_detectron2(encoder: Encoder, position_size: int | None) -> Export:
    """A ResNet, a ViT or a Swin, reloaded in Detectron2 where it is installed."""
    is_vit, is_swin = vitdet.is_transformer(encoder), swin.is_swin(encoder)
    if is_vit:
        export = vitdet.prepare(encoder, position_size=position_size)
    elif position_size is not None:
        raise UsageError(f"{encoder.arch} has no positions to resample to {position_size} pixels.")
    else:
        export = (swin if is_swin else detectron2).prepare(encoder)
    if not engines.has_detectron2():
        return export
    from moco_eval.engines.detectron import backbones as theirs

    reload = theirs.reload_swin if is_swin else theirs.reload_resnet
    return dataclasses.replace(export, reload=theirs.reload_vit if is_vit else reload)


def _put(folder: Path, path: Path) -> None:
    """Move what lies in ``folder`` beside ``path``, which comes last: it stands for the whole."""
    for written in sorted(folder.iterdir(), key=lambda written: written.name == path.name):
        written.replace(path.with_name(written.name))
    sync_folder(path.parent)


TARGETS = {
    "safetensors": Target(SAFETENSORS_ENDINGS, prepare_safetensors),
    "torchvision": Target(TORCH_ENDINGS, prepare_torchvision),
    "timm": Target((*SAFETENSORS_ENDINGS, *TORCH_ENDINGS), timm.prepare_file),
    "hf": Target((), timm.prepare_folder),
    "detectron2": Target(detectron2.ENDINGS, detectron2.prepare),
    "onnx": Target((".onnx",), onnx.prepare),
}
