"""A checkpoint's bytes become tensors. Recognised by content, not by name; nothing in it ever runs.

safetensors and numpy's arrays hold no code. Everything else is a pickle, and a pickle is a program:
``inert`` notes what it would do instead of doing it. Torch files that ask for nothing but tensors
and plain values are then loaded by ``torch.load(weights_only=True)``, all others from those notes.
"""

from __future__ import annotations

import codecs
import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moco_eval.encoders.reading.archives import read_legacy, read_zip
from moco_eval.encoders.reading.inert import Inert
from moco_eval.encoders.reading.pickles import read_pickle
from moco_eval.encoders.reading.refusals import damage_named, refuse_damaged, shortened
from moco_eval.encoders.reading.sharded import (
    INDEX,
    METADATA,
    read_indexed,
    read_sharded,
    sha256_of_all,
)
from moco_eval.encoders.reading.tensorflow_bundle import is_index, read_bundle
from moco_eval.errors import CheckpointError
from moco_eval.files import sha256_of

__all__ = ["CONFIG", "RECORD", "CheckpointFile", "read", "shortened"]

# A folder as Hugging Face and timm save it; the first file of weights that exists is read.
CONFIG = "config.json"
FOLDER_CONFIGS = (CONFIG, "preprocessor_config.json", "open_clip_config.json")
FOLDER_WEIGHTS = (
    *("model.safetensors", "pytorch_model.bin"),
    *("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    *("model.safetensors.index.json", "pytorch_model.bin.index.json"),
)

# Where our own files say what they hold: a root key, or this entry of safetensors' or of a bare
# state dict's metadata.
RECORD = "moco_eval"

ZIP_MAGIC = b"PK\x03\x04"
# A pickle, and the number that torch's first format pickles before all else.
PICKLE_MAGIC = b"\x80"
LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """What a checkpoint holds.

    Attributes:
        path: The file, or the folder that holds it.
        root: The outermost mapping, nested as its author saved it; tensors lie on the CPU.
        metadata: Text that lies beside the tensors: safetensors' header, a folder's
            configurations by their file names.
        sha256: Of the bytes of the file with the weights, or of all such files in sorted order.
    """

    path: Path
    root: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)
    sha256: str


def read(path: Path) -> CheckpointFile:
    """Read the checkpoint at ``path``: a file, or a folder as Hugging Face or torch's DCP saves it.

    Whole modules come back as their state dicts, objects of unknown classes as ``Inert``.

    Raises:
        CheckpointError: If it is missing, empty, truncated, no checkpoint, larger when read than
            the file is, or asks for what only an attack asks for.
    """
    if not path.exists():
        near = difflib.get_close_matches(path.name, _siblings(path), n=1)
        offer = f" Did you mean {path.with_name(near[0])}?" if near else ""
        raise CheckpointError(
            f"There is no file {path}.{offer} An encoder is a checkpoint's path, random:ARCH, "
            "torchvision:NAME, timm:NAME or pixels."
        )
    if not path.is_dir():
        root, header, files = _read_file(path)
        return _checked(path, root, header, files)
    if (path / METADATA).is_file():
        root, files = read_sharded(path)
        return _checked(path, root, {}, files)
    weights = _weights_in(path)
    beside = {
        name: (path / name).read_text(encoding="utf-8", errors="replace")
        for name in FOLDER_CONFIGS
        if (path / name).is_file()
    }
    root, header, files = _read_file(weights)
    return _checked(path, root, beside | header, files)


def _checked(path: Path, root: Any, header: dict[str, str], files: list[Path]) -> CheckpointFile:
    if not isinstance(root, Mapping):
        kind = root.kind if isinstance(root, Inert) else type(root).__name__
        raise CheckpointError(
            f"{path} holds a {kind}, not a mapping of names to tensors. Save the network's "
            "state_dict() instead."
        )
    # A state dict carries its modules' versions as an attribute, and our record beside them.
    attached = getattr(root, "_metadata", None)
    record = attached.get(RECORD) if isinstance(attached, Mapping) else root.get(RECORD)
    metadata = header | ({RECORD: record} if isinstance(record, str) else {})
    digest = sha256_of(files[0]) if len(files) == 1 else sha256_of_all(files)
    return CheckpointFile(path=path, root=root, metadata=metadata, sha256=digest)


def _siblings(path: Path) -> list[str]:
    return [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []


def _weights_in(folder: Path) -> Path:
    found = [folder / name for name in FOLDER_WEIGHTS if (folder / name).is_file()]
    if not any((folder / name).is_file() for name in FOLDER_CONFIGS) or not found:
        names = sorted(child.name for child in folder.iterdir())
        raise CheckpointError(
            f"{folder} is a folder, and not one with an encoder: expected {CONFIG} and "
            f"{' or '.join(FOLDER_WEIGHTS)}, or {METADATA}; found "
            f"{', '.join(names[:6]) or 'nothing'}. Pass the checkpoint file itself."
        )
    return found[0]


def _read_file(path: Path) -> tuple[Any, dict[str, str], list[Path]]:
    """What the file ``path`` holds, the text in its header, and the files that were read."""
    if path.name.endswith(INDEX):
        root, files = read_indexed(path, lambda shard: _read_one(shard)[0])
        return root, {}, files
    if is_index(path):
        root, files = read_bundle(path)
        return root, {}, files
    return *_read_one(path), [path]


def _read_one(path: Path) -> tuple[Any, dict[str, str]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
        file.seek(0)
        if not head:
            raise CheckpointError(f"{path} is empty: 0 bytes. Fetch or write it again.")
        reads = _reader_of(head)
        if reads is not None:
            with damage_named(path):
                root = reads(file, path, size=size)
            return root, {}
    if _is_text(head):
        line = head.decode(errors="ignore").strip().splitlines()[0][:50]
        raise CheckpointError(
            f"{path} is a text file, not a checkpoint: it begins '{line}'. A web page or a Git LFS "
            "pointer saved in a checkpoint's place looks like this; fetch the file itself."
        )
    if head[8:9] == b"{":
        return _read_safetensors(path, declared=int.from_bytes(head[:8], "little"))
    raise CheckpointError(
        f"{path} is no checkpoint: it begins with the bytes {head[:8].hex(' ')}, expected a torch "
        "file, safetensors, a pickle or an archive of arrays. If its name says otherwise, fetch it "
        "again."
    )


def _reader_of(head: bytes) -> Callable[..., Any] | None:
    """What reads a file that begins with ``head``, if it is an archive or a pickle."""
    if head.startswith(ZIP_MAGIC):
        return read_zip
    # A safetensors header's length may begin with the same byte.
    if not head.startswith(PICKLE_MAGIC) or head[8:9] == b"{":
        return None
    return read_legacy if LEGACY_MAGIC in head else read_pickle


def _is_text(head: bytes) -> bool:
    try:
        # Incremental: the head may end within a character.
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return re.sub(r"[\t\r\n]", "", text).isprintable()


def _read_safetensors(path: Path, *, declared: int) -> tuple[Any, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    size = path.stat().st_size
    if declared > size - 8:
        raise CheckpointError(
            f"{path} begins like safetensors but declares a header of {declared} bytes in a file "
            f"of {size}: it is truncated or damaged. Fetch or write it again."
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            # Copies: what it returns is the file itself, mapped, and changes with it.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, json.JSONDecodeError, RuntimeError, ValueError) as error:
        refuse_damaged(path, error)
