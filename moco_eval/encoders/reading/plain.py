"""A pickle's tree becomes tensors and plain values: the few names whose meaning is known here.

A name means something only if it stands in one of this module's tables; whatever else was asked
for stays an ``Inert``. Sizes are compared before anything is allocated: a tensor with the storage
that it lies in, a storage (by whoever holds it) with the file, all arrays together with the file.
"""

from __future__ import annotations

import argparse
import pickle
import re
import sys
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from moco_eval.encoders.reading.inert import Inert, checked_key
from moco_eval.errors import CheckpointError

DTYPES = {
    f"torch.{name}": getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "bool", "uint8", "int8", "int16", "int32"),
        *("int64", "uint16", "uint32", "uint64", "complex64", "complex128"),
        *("float8_e4m3fn", "float8_e5m2"),
    )
}
STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
        "Untyped": torch.uint8,
    }.items()
} | {"torch.storage.UntypedStorage": torch.uint8}
REBUILT = tuple(f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3"))
# What a tensor is wrapped into; of both, the tensor is the first argument.
WRAPPED = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
BYTES = tuple(
    f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")
)
SETS = ("builtins.set", "__builtin__.set", "builtins.frozenset", "__builtin__.frozenset")
# What torch's own safe loader takes, and what sizes are checked of before it does.
TORCH_TAKES = frozenset(
    {"argparse.Namespace", "collections.OrderedDict", "torch.Size", "_codecs.encode"}
    | {*DTYPES, *STORAGES, *REBUILT, *SETS[:2], WRAPPED[0]}
)
# numpy renamed its inner module between its versions 1 and 2.
ARRAYS = tuple(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core"))
BUFFERS = tuple(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core"))
SCALARS = tuple(f"numpy.{core}.multiarray.scalar" for core in ("core", "_core"))
NUMPY = frozenset({*ARRAYS, *BUFFERS, *SCALARS, "numpy.ndarray", "numpy.dtype", "_codecs.encode"})

# A network's names: more than any has, fewer than a graph of modules that share modules can make.
MAX_NAMES = 1 << 17
MAX_NAME_LENGTH = 1 << 9
# Nodes that are looked at, which may be far more than there are where objects share their parts;
# and bytes that are copied out of the pickle, in sizes of the file.
MAX_LOOKS = 1 << 19
MAX_COPIES = 4
MAX_DIMENSIONS = 64

# What may mean something else than itself, or hold it.
NODES = (Inert, dict, list, tuple, set, frozenset)


class Storages(Protocol):
    """Where the bytes of tensors lie."""

    def storage(self, key: str, num_bytes: int) -> torch.UntypedStorage | None:
        """The storage ``key``, checked to be that long; None if it shall not be read."""


class NoStorages:
    """Of a pickle that holds its arrays itself."""

    def storage(self, key: str, num_bytes: int) -> torch.UntypedStorage | None:
        raise pickle.UnpicklingError(f"it refers to {num_bytes} bytes {key} outside of its pickle")


def plain(root: Any, path: Path, *, storages: Storages, size: int) -> Any:
    """Turn a pickle's tree into tensors on the CPU and plain values.

    Whole modules become their state dicts, arrays of numbers tensors, numpy's scalars numbers.

    Args:
        root: As ``parse`` returns it.
        path: For refusals.
        storages: What the tree's tensors lie in.
        size: Of the file in bytes; its arrays cannot be larger.

    Raises:
        CheckpointError: If a tensor is declared larger than the storage that it lies in.
        ValueError, LookupError, TypeError: If the tree is damaged.
    """
    return _Meaning(path, storages, size).of(root, "")


class _Meaning:
    """What the nodes of one tree mean; a shared node is looked at once."""

    def __init__(self, path: Path, storages: Storages, size: int) -> None:
        self.path = path
        self.storages = storages
        self.bytes_left = MAX_COPIES * size
        self.looks_left = MAX_LOOKS
        self.names_left = MAX_NAMES
        self.known: dict[int, Any] = {}

    def of(self, node: Any, name: str) -> Any:
        if not isinstance(node, NODES):
            return node
        if id(node) in self.known:
            return self.known[id(node)]
        if isinstance(node, Inert):
            meaning = self._of_inert(node, name)
        elif isinstance(node, dict):
            # Noted before its values are looked at, which may hold it.
            meaning = self.known[id(node)] = {}
            meaning.update(self._pairs(node.items(), name))
        elif isinstance(node, list):
            meaning = self.known[id(node)] = []
            meaning.extend(self._each(node, name))
        elif isinstance(node, tuple):
            meaning = tuple(self._each(node, name))
        else:
            meaning = type(node)(map(checked_key, self._each(node, name)))
        self.known[id(node)] = meaning
        return meaning

    def _each(self, nodes: Any, name: str) -> list[Any]:
        self._look(len(nodes))
        return [self._part(node, name, index) for index, node in enumerate(nodes)]

    def _pairs(self, pairs: Any, name: str) -> list[tuple[Any, Any]]:
        self._look(len(pairs))
        return [
            (checked_key(self.of(key, name)), self._part(value, name, key)) for key, value in pairs
        ]

    def _part(self, node: Any, name: str, key: Any) -> Any:
        # Most are numbers, which need no name.
        return self.of(node, _under(name, key)) if isinstance(node, NODES) else node

    def _look(self, count: int) -> None:
        self.looks_left -= count
        if self.looks_left < 0:
            raise pickle.UnpicklingError(f"its objects have more than {MAX_LOOKS} parts")

    def _copy(self, count: int) -> None:
        self.bytes_left -= count
        if self.bytes_left < 0:
            raise pickle.UnpicklingError("its arrays share bytes and are larger than the file")

    def _raw(self, data: Any, name: str) -> Any:
        """Bytes, which protocol 2 writes as text."""
        data = self.of(data, name)
        if isinstance(data, str):
            self._copy(len(data))
            data = data.encode("latin-1")
        return data

    def _of_inert(self, node: Inert, name: str) -> Any:
        if node.args is None:
            return DTYPES.get(node.kind, node)
        return MEANINGS.get(node.kind, _Meaning._unknown)(self, node, name)

    # Containers and values of the standard library.

    def _ordered(self, node: Inert, name: str) -> dict[Any, Any]:
        # Python 2 gave its ordered mappings' pairs as an argument.
        given = node.args[0] if node.args else []
        pairs = given.items() if isinstance(given, dict) else given
        return dict(self._pairs([*pairs, *node.items], name))

    def _default(self, node: Inert, name: str) -> dict[Any, Any]:
        return dict(self._pairs(node.items, name))

    def _set(self, node: Inert, name: str) -> set[Any]:
        (given,) = node.args or ([],)
        return set(map(checked_key, self._each(given, name)))

    def _namespace(self, node: Inert, name: str) -> argparse.Namespace:
        found = self.known[id(node)] = argparse.Namespace()
        vars(found).update(self._pairs((node.state or {}).items(), name))
        return found

    def _size(self, node: Inert, name: str) -> tuple[Any, ...]:
        return tuple(self._each((node.args or ((),))[0], name))

    def _encoded(self, node: Inert, _: str) -> Any:
        # How protocol 2 writes bytes.
        text, *encoding = node.args or ()
        return self._raw(text, "") if encoding in (["latin1"], ["latin-1"]) else node

    def _bytes(self, node: Inert, name: str) -> Any:
        found = self._raw(node.args[0], name) if node.args else b""
        return found if isinstance(found, bytes) else node

    def _reconstructed(self, node: Inert, name: str) -> Any:
        # How protocols before 2 made any object; some classes still ask for it.
        kind, *args = node.args or (node,)
        named = kind.kind if isinstance(kind, Inert) else node.kind
        return self._unknown(Inert(named, tuple(args), node.state, node.items), name)

    def _unknown(self, node: Inert, name: str) -> Any:
        """A whole module's state dict, or the same node with its parts made plain."""
        self.known[id(node)] = node
        if _is_module(node):
            return self._module(node, name)
        node.args = tuple(self._each(node.args or (), name))
        node.state = self.of(node.state, name)
        node.items = self._each(node.items, name)
        return node

    def _module(self, node: Inert, name: str) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        self._collect(node, "", name, found)
        return found

    def _collect(self, node: Inert, prefix: str, name: str, found: dict[str, Tensor]) -> None:
        """Add to ``found`` what torch's ``Module.state_dict`` would, under the same names."""
        self.names_left -= 1
        if self.names_left < 0:
            raise pickle.UnpicklingError(f"its modules have more than {MAX_NAMES} names")
        hidden = self.of(node.state.get("_non_persistent_buffers_set"), name) or ()
        for part in ("_parameters", "_buffers"):
            entries = _entries(node.state.get(part))
            self._look(len(entries))
            for key, value in entries:
                tensor = self.of(value, _under(name, f"{prefix}{_short(key)}"))
                if isinstance(tensor, Tensor) and not (part == "_buffers" and key in hidden):
                    found[f"{prefix}{_short(key)}"] = tensor
        for key, child in _entries(node.state.get("_modules")):
            if isinstance(child, Inert) and _is_module(child):
                self._collect(child, _short(f"{prefix}{_short(key)}."), name, found)

    # Tensors and arrays.

    def _wrapped(self, node: Inert, name: str) -> Any:
        return self.of((node.args or ())[0], name)

    def _tensor(self, node: Inert, name: str) -> Any:
        reference, offset, shape, stride = (self.of_size(part) for part in (node.args or ())[:4])
        if node.state is not None or not isinstance(reference, Inert):
            raise TypeError(f"the tensor {name or 'at its root'} is not rebuilt from a storage")
        sort, kind, key, _, length, *view = reference.args or ()
        if sort != "storage" or not isinstance(kind, Inert) or kind.kind not in STORAGES:
            return node
        dtype = held = STORAGES[kind.kind]
        if node.kind == REBUILT[2]:
            dtype = self.of((node.args or ())[6], name)
        # The first format has views of a storage, with an offset of their own.
        offset += view[0][1] if view and view[0] else 0
        self._require_within(name, shape, (offset, stride, dtype), _count(length) * held.itemsize)
        storage = self.storages.storage(str(key), length * held.itemsize)
        if storage is None:
            return None
        return torch.empty(0, dtype=dtype).set_(storage, offset, shape, stride)

    def of_size(self, node: Any) -> Any:
        """A tensor's sizes may be a torch.Size or a tuple, of whole numbers in either case."""
        is_size = isinstance(node, Inert) and node.kind == "torch.Size"
        sizes = (node.args or ((),))[0] if is_size else node
        if isinstance(sizes, (tuple, list)) and len(sizes) > MAX_DIMENSIONS:
            raise ValueError(f"a tensor has {len(sizes)} dimensions")
        return tuple(map(_count, sizes)) if isinstance(sizes, (tuple, list)) else sizes

    def _require_within(
        self, name: str, shape: tuple[int, ...], layout: tuple[int, Any, torch.dtype], held: int
    ) -> None:
        offset, stride, dtype = layout
        last = _count(offset) + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        needed = max(last + 1, prod(shape)) if prod(shape) else 0
        if needed * dtype.itemsize > held:
            raise CheckpointError(
                f"{self.path} declares the tensor {name or 'at its root'} of shape {list(shape)}, "
                f"{needed * dtype.itemsize} bytes, in a storage of {held}. It is damaged or made "
                "to exhaust memory, and is not read. Fetch or write it again."
            )

    def _array(self, node: Inert, name: str) -> Any:
        args, state = node.args or (), node.state
        if node.kind in BUFFERS:
            data, dtype, shape, order = args
            is_fortran = order == "F"
        elif isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, is_fortran, data = state
        else:
            return self._unknown(node, name)
        numbers = _dtype(dtype)
        if numbers is None:
            return self._unknown(node, name)
        return self._numbers(data, numbers, self.of_size(shape), bool(is_fortran), name)

    def _numbers(
        self, data: Any, dtype: np.dtype[Any], shape: tuple[int, ...], is_fortran: bool, name: str
    ) -> Tensor:
        data = self._raw(data, name)
        self._copy(len(data))
        if len(data) != prod(shape) * dtype.itemsize:
            raise ValueError(f"the array {name} of shape {list(shape)} has {len(data)} bytes")
        flat = np.frombuffer(data, dtype)
        array = flat.reshape(shape, order="F" if is_fortran else "C")
        # A copy, which is native, in order and writable.
        return torch.from_numpy(array.astype(dtype.newbyteorder("="), order="C", copy=True))

    def _scalar(self, node: Inert, name: str) -> Any:
        dtype, data = node.args or ()
        numbers, data = _dtype(dtype), self._raw(data, name)
        if numbers is None or not isinstance(data, bytes):
            return self._unknown(node, name)
        return np.frombuffer(data, numbers)[0].item()


MEANINGS: dict[str, Callable[[_Meaning, Inert, str], Any]] = {
    "collections.OrderedDict": _Meaning._ordered,
    "collections.Counter": _Meaning._ordered,
    "collections.defaultdict": _Meaning._default,
    **dict.fromkeys(SETS, _Meaning._set),
    **dict.fromkeys(REBUILT, _Meaning._tensor),
    **dict.fromkeys(WRAPPED, _Meaning._wrapped),
    **dict.fromkeys((*ARRAYS, *BUFFERS), _Meaning._array),
    **dict.fromkeys(SCALARS, _Meaning._scalar),
    "argparse.Namespace": _Meaning._namespace,
    "torch.Size": _Meaning._size,
    "_codecs.encode": _Meaning._encoded,
    **dict.fromkeys(BYTES, _Meaning._bytes),
    "copyreg._reconstructor": _Meaning._reconstructed,
    "copy_reg._reconstructor": _Meaning._reconstructed,
}


def script_state(root: Any) -> dict[str, Tensor]:
    """The tensors among the attributes of a TorchScript archive's object, by their paths."""
    found: dict[str, Tensor] = {}
    waiting = [("", root)]
    for _ in range(MAX_NAMES):
        if not waiting:
            return found
        prefix, node = waiting.pop()
        for key, value in _entries(getattr(node, "state", None)):
            if isinstance(value, Tensor):
                found[f"{prefix}{_short(key)}"] = value
            elif isinstance(value, Inert):
                waiting.append((_short(f"{prefix}{_short(key)}."), value))
    raise pickle.UnpicklingError(f"its modules have more than {MAX_NAMES} names")


def _is_module(node: Inert) -> bool:
    return isinstance(node.state, Mapping) and {"_parameters", "_modules"} <= node.state.keys()


def _entries(node: Any) -> list[tuple[Any, Any]]:
    """The pairs of a mapping, ordered or not, that may not have been looked at yet."""
    return node.items if isinstance(node, Inert) else list(node.items()) if node else []


def _under(name: str, key: Any) -> str:
    """What a refusal calls the value under ``key``; names that no one could read are cut."""
    part = key[:MAX_NAME_LENGTH] if isinstance(key, str) else "*"
    if isinstance(key, int) and 0 <= key < MAX_LOOKS:
        part = str(key)
    return f"{name}.{part}".lstrip(".")[-MAX_NAME_LENGTH:]


def _short(name: Any) -> str:
    if not isinstance(name, str) or len(name) > MAX_NAME_LENGTH:
        raise TypeError("a name in its modules is overlong or no text")
    return name


def _count(number: Any) -> int:
    if not isinstance(number, int) or not 0 <= number <= sys.maxsize:
        raise ValueError(f"a size or an offset is {str(number)[:40]}")
    return number


def _dtype(node: Any) -> np.dtype[Any] | None:
    """The type of an array's numbers; None if they are no numbers that torch has."""
    if not isinstance(node, Inert) or node.kind != "numpy.dtype" or not node.args:
        return None
    code = node.args[0]
    if not isinstance(code, str) or not re.fullmatch(r"f[248]|[iu][1248]|b1", code):
        return None
    order = node.state[1] if isinstance(node.state, tuple) and len(node.state) > 1 else "|"
    return np.dtype(f"{order if order in ('<', '>') else '='}{code}")
