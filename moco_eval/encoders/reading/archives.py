"""The containers that torch and numpy write: zip archives, and torch's first format.

Each says of what size its parts are. That is compared with the file before anything is allocated,
and torch's own loader sees a file only after its pickle was found to agree with it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import pickle
import struct
import sys
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from moco_eval.encoders.reading.inert import Parsed, parse
from moco_eval.encoders.reading.plain import STORAGES, TORCH_TAKES, plain, script_state
from moco_eval.encoders.reading.refusals import shortened
from moco_eval.errors import CheckpointError

# timm, DINO, MAE and torchvision's scripts save their parsed command line: plain values.
SAFE_GLOBALS = (argparse.Namespace,)
LOCAL_HEADER = 30


@dataclass(frozen=True)
class Archive:
    """A zip archive whose members are stored as they are, each once, within the file."""

    file: BinaryIO
    path: Path
    members: dict[str, zipfile.ZipInfo]

    @classmethod
    def open(cls, file: BinaryIO, path: Path, *, size: int) -> Archive:
        """List the members of ``file``.

        Raises:
            CheckpointError: If members are compressed or declare more than the file holds.
            zipfile.BadZipFile: If it is damaged.
        """
        with zipfile.ZipFile(file) as archive:
            listed = archive.infolist()
        # TorchScript's code, alone compressed, is never looked at.
        members = [member for member in listed if "/code/" not in member.filename]
        declared = sum(member.file_size for member in members)
        compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if declared > size or compressed:
            raise CheckpointError(
                f"{path} declares {declared} bytes in a file of {size}"
                f"{', compressed' if compressed else ''}. torch.save and numpy.savez compress "
                "nothing: this file is damaged or made to exhaust memory, and is not unpacked."
            )
        if len({member.filename for member in members}) < len(members):
            raise zipfile.BadZipFile("it has two members of one name")
        return cls(file, path, {member.filename: member for member in members})

    @property
    def folder(self) -> str:
        """What torch's members lie in: the archive's own name."""
        return next(iter(self.members)).partition("/")[0] if self.members else ""

    def start(self, name: str) -> int:
        """Where the bytes of the member ``name`` begin in the file."""
        offset = self.members[name].header_offset
        if offset < 0:
            raise zipfile.BadZipFile(f"its member {name} lies before its beginning")
        self.file.seek(offset)
        header = self.file.read(LOCAL_HEADER)
        name_length, extra_length = struct.unpack("<HH", header[26:])
        return int(offset + LOCAL_HEADER + name_length + extra_length)

    def read(self, name: str) -> bytes:
        """The bytes of the member ``name``."""
        self.file.seek(self.start(name))
        found = self.file.read(self.members[name].file_size)
        if len(found) < self.members[name].file_size:
            raise EOFError(f"its member {name} is cut short")
        return found

    def sizes(self) -> dict[str, int]:
        """The length of each storage by its key."""
        folder = f"{self.folder}/data/"
        return {
            name.removeprefix(folder): member.file_size
            for name, member in self.members.items()
            if name.startswith(folder)
        }


class Declared:
    """Storages whose lengths are compared and whose bytes are left where they are."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self.sizes = sizes

    def storage(self, key: str, num_bytes: int) -> torch.UntypedStorage | None:
        """None, once the length was found to be the declared one."""
        if self.sizes[key] != num_bytes:
            raise ValueError(f"its storage {key} is {self.sizes[key]} bytes long, not {num_bytes}")
        return None


class Stored(Declared):
    """Storages that are read from their places in a file, each once."""

    def __init__(self, file: BinaryIO, sizes: dict[str, int], starts: dict[str, int]) -> None:
        super().__init__(sizes)
        self.file = file
        self.starts = starts
        self.known: dict[str, torch.UntypedStorage] = {}

    def storage(self, key: str, num_bytes: int) -> torch.UntypedStorage | None:
        """The storage, in memory that does not depend on the file."""
        super().storage(key, num_bytes)
        if key not in self.known:
            buffer = torch.empty(num_bytes, dtype=torch.uint8)
            self.file.seek(self.starts[key])
            if self.file.readinto(buffer.numpy()) < num_bytes:  # type: ignore[attr-defined]
                raise EOFError(f"its storage {key} is cut short")
            self.known[key] = buffer.untyped_storage()
        return self.known[key]


def read_zip(file: BinaryIO, path: Path, *, size: int) -> Any:
    """Read what torch.save, torch.jit.save or numpy.savez wrote into a zip archive.

    Raises:
        CheckpointError: If it is none of these, or asks for what only an attack asks for.
        ValueError, LookupError, TypeError, EOFError: If it is damaged.
    """
    archive = Archive.open(file, path, size=size)
    names = sorted({Path(name).name for name in archive.members})
    pickled = f"{archive.folder}/data.pkl"
    if pickled not in archive.members:
        if names and all(name.endswith(".npy") for name in names):
            return {name.removesuffix(".npy"): _array(archive, name) for name in archive.members}
        raise CheckpointError(
            f"{path} is a zip archive but no torch file: it holds no data.pkl but "
            f"{shortened(names) or 'nothing'}. Unpack it and pass the checkpoint in it."
        )
    order = f"{archive.folder}/byteorder"
    if order in archive.members and archive.read(order) != sys.byteorder.encode():
        raise ValueError("its numbers are of another machine's byte order")
    content = archive.read(pickled)
    parsed = parse(io.BytesIO(content), path, size=len(content))
    sizes = archive.sizes()
    is_script = f"{archive.folder}/constants.pkl" in archive.members
    starts = {key: archive.start(f"{archive.folder}/data/{key}") for key in sizes}
    storages = Stored(file, sizes, starts)
    if is_script:
        return script_state(plain(parsed.root, path, storages=storages, size=size))
    return _load(parsed, path, storages=storages, size=size)


def read_legacy(file: BinaryIO, path: Path, *, size: int) -> Any:
    """Read torch's first format: pickles, then the storages, each behind its length.

    Raises:
        CheckpointError: If it asks for what only an attack asks for.
        ValueError, LookupError, TypeError, EOFError: If it is damaged.
    """
    # A magic number, the version and the machine go before the object and its storages' keys.
    _, _, machine, parsed, keys = [parse(file, path, size=size) for _ in range(5)]
    if machine.root.get("little_endian") != (sys.byteorder == "little"):
        raise ValueError("its numbers are of another machine's byte order")
    declared = _declared(parsed)
    starts: dict[str, int] = {}
    place = file.tell()
    for key in keys.root:
        count, item = declared[key]
        file.seek(place)
        (found,) = struct.unpack("<q", file.read(8))
        if found != count or not 0 <= count * item <= size - place - 8:
            raise EOFError(f"its storage {key} of {count} numbers is {found} long or cut short")
        starts[key], place = place + 8, place + 8 + count * item
    sizes = {key: count * item for key, (count, item) in declared.items()}
    if set(starts) != set(sizes):
        raise ValueError("its storages are not those that its tensors lie in")
    return _load(parsed, path, storages=Stored(file, sizes, starts), size=size)


def _declared(parsed: Parsed) -> dict[str, tuple[int, int]]:
    """By key, the count and the length in bytes of the numbers of the storages referred to."""
    found: dict[str, tuple[int, int]] = {}
    for reference in parsed.references:
        sort, *rest = reference.args or ()
        if sort == "storage":
            kind, key, _, count = rest[:4]
            if found.setdefault(key, (count, STORAGES[kind.kind].itemsize))[0] != count:
                raise ValueError(f"its storage {key} has two lengths")
    return found


def _load(parsed: Parsed, path: Path, *, storages: Stored, size: int) -> Any:
    """By torch's safe loader if that knows all that is asked for, else from the pickle's tree."""
    if parsed.asked <= TORCH_TAKES:
        plain(parsed.root, path, storages=Declared(storages.sizes), size=size)
        # It knows one protocol only, and refuses the others by this error.
        with contextlib.suppress(pickle.UnpicklingError):
            return _safe_load(storages.file)
    return plain(parsed.root, path, storages=storages, size=size)


def _safe_load(file: BinaryIO) -> Any:
    file.seek(0)
    with torch.serialization.safe_globals([*SAFE_GLOBALS]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        # Said explicitly, so that TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD changes nothing.
        return torch.load(file, map_location="cpu", weights_only=True)


def _array(archive: Archive, name: str) -> torch.Tensor:
    """One array of an .npz file."""
    content = io.BytesIO(archive.read(name))
    version = np.lib.format.read_magic(content)
    header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, is_fortran, dtype = header(content)
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise pickle.UnpicklingError(f"its array {name} is of type {dtype}, no numbers")
    flat = np.frombuffer(content.read(), dtype)
    array = flat.reshape(shape, order="F" if is_fortran else "C")
    return torch.from_numpy(array.astype(dtype.newbyteorder("="), order="C", copy=True))
