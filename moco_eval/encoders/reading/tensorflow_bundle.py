"""TensorFlow's checkpoints, of which SimCLR's are some, without TensorFlow.

``NAME.index`` is a sorted table of LevelDB's (table_format.md there): blocks of entries whose keys
share prefixes, then an index of the blocks, then a footer. Its keys are the variables' names, its
values BundleEntryProto messages (tensorflow/core/protobuf/tensor_bundle.proto), which say where in
``NAME.data-00000-of-00001`` and its siblings a variable's bytes lie.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moco_eval.encoders.reading.refusals import damage_named
from moco_eval.errors import CheckpointError

FOOTER = 48
MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
# Behind each block: its compression, 0 for none, and a checksum.
TRAILER = 5
# tensorflow/core/framework/types.proto.
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 6: "i1", 9: "<i8", 10: "?", 19: "<f2"}
# Wire types of protocol buffers.
VARINT, BYTES, FIXED32 = 0, 2, 5
# The fields of BundleEntryProto.
DTYPE, SHAPE, SHARD, OFFSET, SIZE, SLICES = 1, 2, 3, 4, 5, 7


def is_index(path: Path) -> bool:
    """Whether ``path`` ends as the index of a TensorFlow checkpoint does."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - len(MAGIC), 0))
        return file.read() == MAGIC


def read_bundle(path: Path) -> tuple[dict[str, Tensor], list[Path]]:
    """Read the variables of the checkpoint whose index is ``path``.

    Returns:
        The numbers by the variables' names; entries that are no numbers, such as text, stay out.
        And the files that were read.

    Raises:
        CheckpointError: If a file is missing or damaged, or numbers are no whole variable.
    """
    with damage_named(path):
        entries = {key: _fields(value) for key, value in _table(path.read_bytes())}
        (num_shards,) = _fields_at(entries.pop(b""), 1) or [1]
        name = path.name.removesuffix(".index")
        shards = [
            path.with_name(f"{name}.data-{shard:05}-of-{num_shards:05}")
            for shard in range(_bounded(num_shards, 10_000))
        ]
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing:
            raise CheckpointError(
                f"{path} is the index of a TensorFlow checkpoint whose numbers lie in "
                f"{missing[0]}, which is not beside it. Fetch that file too."
            )
        numbers = sum(sum(_fields_at(entry, SIZE)) for entry in entries.values())
        if numbers > sum(shard.stat().st_size for shard in shards):
            raise ValueError(f"its variables take {numbers} bytes, more than its files hold")
        root = {
            key.decode(): _variable(key.decode(), entry, shards)
            for key, entry in entries.items()
            if (_fields_at(entry, DTYPE) or [0])[0] in DTYPES
        }
    return root, [path, *shards]


def _variable(name: str, entry: list[tuple[int, int | bytes]], shards: list[Path]) -> Tensor:
    if _fields_at(entry, SLICES):
        raise pickle.UnpicklingError(f"its variable {name} was saved in slices")
    dtype, shard, offset, length = (
        (_fields_at(entry, field) or [0])[0] for field in (DTYPE, SHARD, OFFSET, SIZE)
    )
    shape = [
        (_fields_at(_fields(dimension), 1) or [0])[0]
        for message in _messages_at(entry, SHAPE)
        for dimension in _messages_at(_fields(message), 2)
    ]
    numbers = np.dtype(DTYPES[dtype])
    path = shards[shard]
    size = path.stat().st_size
    if length != prod(shape) * numbers.itemsize or offset + length > size:
        raise ValueError(
            f"its variable {name} of shape {shape} lies in bytes {offset} to {offset + length} of "
            f"{path.name}, {size} bytes long"
        )
    with path.open("rb") as file:
        file.seek(offset)
        flat = np.frombuffer(file.read(length), numbers)
    return torch.from_numpy(flat.reshape(shape).astype(numbers.newbyteorder("="), copy=True))


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a LevelDB table, in order."""
    footer = content[-FOOTER:]
    place = 0
    handle = []
    # The handles of the block of metadata, which nobody needs, and of the index.
    for _ in range(4):
        number, place = _varint(footer, place)
        handle.append(number)
    left = len(content)
    for _, found in _block(content, handle[2], handle[3]):
        offset, place = _varint(found, 0)
        length, _ = _varint(found, place)
        left -= length
        if left < 0:
            raise ValueError("its table names more blocks than it holds")
        yield from _block(content, offset, length)


def _block(content: bytes, offset: int, length: int) -> Iterator[tuple[bytes, bytes]]:
    block = content[offset : offset + length + TRAILER]
    if len(block) < length + TRAILER or length < 4:
        raise EOFError("a block of its table lies beyond the end of the file")
    if block[length] != 0:
        raise pickle.UnpicklingError("its table is compressed")
    (num_restarts,) = struct.unpack("<I", block[length - 4 : length])
    end = length - 4 * (1 + num_restarts)
    place, key = 0, b""
    while place < end:
        shared, place = _varint(block, place)
        added, place = _varint(block, place)
        size, place = _varint(block, place)
        if shared > len(key) or place + added + size > end:
            raise EOFError("an entry of its table lies beyond its block")
        key = key[:shared] + block[place : place + added]
        yield key, block[place + added : place + added + size]
        place += added + size


def _fields(message: bytes) -> list[tuple[int, int | bytes]]:
    """The fields of a protocol buffer by their numbers; those of fixed length stay out."""
    found: list[tuple[int, int | bytes]] = []
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        field, wire = tag >> 3, tag & 7
        if wire == VARINT:
            number, place = _varint(message, place)
            found.append((field, number))
        elif wire == BYTES:
            length, place = _varint(message, place)
            if place + length > len(message):
                raise EOFError("a message in its table is cut short")
            found.append((field, message[place : place + length]))
            place += length
        elif wire == FIXED32:
            place += 4
        else:
            raise ValueError(f"a message in its table has the wire type {wire}")
    return found


def _fields_at(fields: list[tuple[int, int | bytes]], number: int) -> list[int]:
    # What is a message where a number belongs counts as one that is there.
    return [value if isinstance(value, int) else 1 for field, value in fields if field == number]


def _messages_at(fields: list[tuple[int, int | bytes]], number: int) -> list[bytes]:
    return [value for field, value in fields if field == number and isinstance(value, bytes)]


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """The number that begins at ``place``, seven bits a byte, and the place behind it."""
    number = 0
    for shift in range(0, 70, 7):
        byte = content[place + shift // 7]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place + shift // 7 + 1
    raise ValueError("a number in its table is too long")


def _bounded(number: int, most: int) -> int:
    if not 0 < number <= most:
        raise ValueError(f"it declares {number} files of numbers")
    return number
