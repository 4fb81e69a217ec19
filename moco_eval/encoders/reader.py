"""A checkpoint's bytes become tensors. Recognised by content, not by name; nothing in it ever runs.

safetensors holds no code. Torch files are pickles, which would run code if they were loaded in
full, so they are loaded with ``weights_only=True`` said explicitly: ``torch.load`` then ignores
TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD, and what it refuses is refused here.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import difflib
import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from moco_eval.errors import CheckpointError
from moco_eval.files import sha256_of

# A folder as Hugging Face and timm save it; the first file of weights that exists is read.
CONFIG = "config.json"
FOLDER_WEIGHTS = ("model.safetensors", "pytorch_model.bin")

# Where our own files say what they hold: a root key, or this entry of safetensors' or of a bare
# state dict's metadata.
RECORD = "moco_eval"

# timm, DINO, MAE and torchvision's scripts save their parsed command line: plain values.
SAFE_GLOBALS = (argparse.Namespace,)

ZIP_MAGIC = b"PK\x03\x04"
# torch's first format: a pickled magic number, protocol 2.
LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
# What unpickling a damaged file raises, besides errors of input and output.
DAMAGED = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    struct.error,
)


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """What a checkpoint holds.

    Attributes:
        path: The file, or the folder that holds it.
        root: The outermost mapping, nested as its author saved it; tensors lie on the CPU.
        metadata: Text that lies beside the tensors: safetensors' header, a folder's config.json.
        sha256: Of the bytes of the file with the weights.
    """

    path: Path
    root: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)
    sha256: str


def read(path: Path) -> CheckpointFile:
    """Read the checkpoint at ``path``: a file, or a folder with config.json and weights.

    Raises:
        CheckpointError: If it is missing, empty, truncated, no checkpoint, or holds anything but
            tensors and plain values.
    """
    if not path.exists():
        near = difflib.get_close_matches(path.name, _siblings(path), n=1)
        offer = f" Did you mean {path.with_name(near[0])}?" if near else ""
        raise CheckpointError(
            f"There is no file {path}.{offer} An encoder is a checkpoint's path, random:ARCH, "
            "torchvision:NAME, timm:NAME or pixels."
        )
    metadata: dict[str, str] = {}
    weights = path
    if path.is_dir():
        weights = _weights_in(path)
        metadata[CONFIG] = (path / CONFIG).read_text(encoding="utf-8", errors="replace")
    root, header = _read_file(weights)
    return CheckpointFile(
        path=path, root=root, metadata=metadata | header, sha256=sha256_of(weights)
    )


def _siblings(path: Path) -> list[str]:
    return [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []


def _weights_in(folder: Path) -> Path:
    found = [folder / name for name in FOLDER_WEIGHTS if (folder / name).is_file()]
    if not (folder / CONFIG).is_file() or not found:
        names = sorted(child.name for child in folder.iterdir())
        raise CheckpointError(
            f"{folder} is a folder, and not one with an encoder: expected {CONFIG} and "
            f"{' or '.join(FOLDER_WEIGHTS)}, found {', '.join(names[:6]) or 'nothing'}. "
            "Pass the checkpoint file itself."
        )
    return found[0]


def _read_file(path: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise CheckpointError(f"{path} is empty: 0 bytes. Fetch or write it again.")
    if head.startswith(ZIP_MAGIC):
        _refuse_other_archives(path)
        return _read_torch(path)
    if head.startswith(LEGACY_MAGIC):
        return _read_torch(path)
    if _is_text(head):
        line = head.decode(errors="ignore").strip().splitlines()[0][:50]
        raise CheckpointError(
            f"{path} is a text file, not a checkpoint: it begins '{line}'. A web page or a Git LFS "
            "pointer saved in a checkpoint's place looks like this; fetch the file itself."
        )
    if head[8:9] == b"{":
        return _read_safetensors(path, declared=int.from_bytes(head[:8], "little"))
    if head.startswith(b"\x80"):
        raise CheckpointError(
            f"{path} is a plain pickle, which is not read: it could run code. Load it where it "
            "was made and save its tensors with torch.save or as safetensors."
        )
    raise CheckpointError(
        f"{path} is no checkpoint: it begins with the bytes {head[:8].hex(' ')}, expected a torch "
        "file or safetensors. If its name says otherwise, fetch it again."
    )


def _is_text(head: bytes) -> bool:
    try:
        # Incremental: the head may end within a character.
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return re.sub(r"[\t\r\n]", "", text).isprintable()


def _refuse_other_archives(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, struct.error) as error:
        _refuse_damaged(path, error)
    names = {Path(member.filename).name for member in members}
    if "constants.pkl" in names:
        raise CheckpointError(
            f"{path} is a TorchScript archive, a program with weights, and is not run here. Save "
            "the network's state_dict() with torch.save instead."
        )
    if "data.pkl" not in names:
        raise CheckpointError(
            f"{path} is a zip archive but no torch file: it holds no data.pkl but "
            f"{', '.join(sorted(names)[:6]) or 'nothing'}. Unpack it and pass the checkpoint in it."
        )
    declared, size = sum(member.file_size for member in members), path.stat().st_size
    if declared > size:
        raise CheckpointError(
            f"{path} declares {declared} bytes in a file of {size}. torch.save compresses nothing: "
            "this file is damaged or made to exhaust memory, and is not unpacked."
        )


def _read_torch(path: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    try:
        # An open file: torch.load would go by a path's ending.
        with (
            path.open("rb") as file,
            torch.serialization.safe_globals([*SAFE_GLOBALS]),
            warnings.catch_warnings(),
        ):
            # The refusal that follows says it.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        if str(error).startswith("Weights only load failed"):
            _refuse_pickle(path, str(error))
        _refuse_damaged(path, error)
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(loaded).__name__}, not a mapping of names to tensors. Save the "
            "network's state_dict() instead."
        )
    # A state dict carries its modules' versions as an attribute, and our record beside them.
    attached = getattr(loaded, "_metadata", None)
    record = attached.get(RECORD) if isinstance(attached, Mapping) else None
    return loaded, {RECORD: record} if isinstance(record, str) else {}


def _refuse_pickle(path: Path, text: str) -> NoReturn:
    """Say which classes or functions the file wants, or what else torch refused it for."""
    found = set(re.findall(r"GLOBAL (\S+)", text))
    if not found:
        _, _, rest = text.partition("\n\n")
        reason = rest.partition("\n\n")[0].strip() or "unspecified"
        raise CheckpointError(
            f"{path} is refused: its pickle does what torch's safe loader does not ({reason}). "
            "Load it where it was made and save its state_dict() with torch.save as it is."
        )
    # Only zip files can be searched without loading; the first global was named already.
    with contextlib.suppress(*DAMAGED):
        found |= set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    found -= {f"{safe.__module__}.{safe.__qualname__}" for safe in SAFE_GLOBALS}
    raise CheckpointError(
        f"{path} is refused: besides tensors it asks for {shortened(sorted(found))}, and nothing "
        "in a checkpoint is run here. Where you trust the file, load it with its author's code and "
        "save its state_dict() alone."
    )


def _refuse_damaged(path: Path, error: BaseException) -> NoReturn:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    raise CheckpointError(
        f"{path} begins like a checkpoint but cannot be read to its end: it is truncated or "
        f"damaged, {path.stat().st_size} bytes long ({reason[0][:160]}). Fetch or write it again."
    ) from error


def _read_safetensors(path: Path, *, declared: int) -> tuple[Mapping[str, Any], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    size = path.stat().st_size
    if declared > size - 8:
        raise CheckpointError(
            f"{path} begins like safetensors but declares a header of {declared} bytes in a file "
            f"of {size}: it is truncated or damaged. Fetch or write it again."
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, json.JSONDecodeError, RuntimeError, ValueError) as error:
        _refuse_damaged(path, error)


def shortened(names: list[str], limit: int = 6) -> str:
    """The first ``limit`` of ``names`` as a list in words, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
