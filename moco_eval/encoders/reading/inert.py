"""A pickle becomes a tree of values while nothing that it asks for is imported, called or built.

A pickle is a program for a small stack machine, and three of its instructions call any function
by its name. This machine knows the instructions, and in place of a call it notes who was asked
for, and with what: an ``Inert``. What such a note means is for ``plain`` to say, which knows a few
names and leaves the others as they are. The instructions are those of pickletools, protocols 2 to
5; those that only protocols 0 and 1 or out-of-band buffers use are refused.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from moco_eval.encoders.reading.suspects import refuse_suspect

# What a file refers to outside of its pickle, such as the storage of a tensor. A global's kind
# has a dot in it.
PERSISTENT = "persistent"

# A checkpoint of a thousand layers takes a tenth of it; a file that is all instructions and no
# tensors would take gigabytes and minutes.
MAX_STEPS = 1 << 20
# Of what takes far more memory than it takes bytes in the file.
MAX_OBJECTS = 1 << 18
# A key is hashed again at every use, so that long or nested ones cost more than they weigh.
MAX_KEY_PARTS = 16
MAX_INTEGER_BYTES = 1 << 10
MAX_NAME_BYTES = 1 << 9


@dataclass(eq=False, slots=True, repr=False)
class Inert:
    """What stands for a class, a function, or whatever one of them would have made.

    Attributes:
        kind: The qualified name that was asked for, such as ``datetime.date``.
        args: What it would have been called with; None if it was only named.
        state: What the object's ``__setstate__`` would have got.
        items: What would have been appended to it; pairs, where items were set by key.
    """

    kind: str
    args: tuple[Any, ...] | None = None
    state: Any = None
    items: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<inert {self.kind}>"


@dataclass(frozen=True)
class Parsed:
    """A pickle's tree, the qualified names that it asks for, and what it refers to outside."""

    root: Any
    asked: frozenset[str]
    references: list[Inert]


def parse(file: BinaryIO, path: Path, *, size: int) -> Parsed:
    """Parse the pickle that begins where ``file`` stands, and leave it at the pickle's end.

    Args:
        file: Open for reading.
        path: For the refusal.
        size: Of the file in bytes. A length beyond it is a lie, and nothing is allocated for it.

    Raises:
        CheckpointError: If the pickle asks for what only an attack asks for.
        ValueError, LookupError, TypeError, EOFError: If it is damaged.
    """
    machine = _Machine(file, path, size)
    return Parsed(machine.run(), frozenset(machine.asked), machine.references)


def checked_key(key: Any) -> Any:
    """``key`` itself, if hashing it is safe and cheap: a plain value or a short tuple of them.

    Raises:
        pickle.UnpicklingError: If it is not.
    """
    if isinstance(key, (str, int)):
        return key
    parts = key if isinstance(key, tuple) else (key,)
    plain = (str, int, float, bytes, Inert, type(None))
    if len(parts) > MAX_KEY_PARTS or not all(isinstance(part, plain) for part in parts):
        raise pickle.UnpicklingError("a key of a mapping or set is no plain value")
    return key


class _Machine:
    """The stack, the memo, and one method for each sort of instruction."""

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self.file = file
        self.path = path
        self.size = size
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.asked: set[str] = set()
        self.references: list[Inert] = []
        self.objects_left = MAX_OBJECTS

    def run(self) -> Any:
        for _ in range(MAX_STEPS):
            code = self.take(1)
            if code == b".":
                return self.stack.pop()
            if code not in INSTRUCTIONS:
                raise pickle.UnpicklingError(f"its pickle has the instruction {code!r}")
            instruction, operand = INSTRUCTIONS[code]
            instruction(self, operand)
        raise pickle.UnpicklingError(f"its pickle has more than {MAX_STEPS} instructions")

    # Bytes of the file.

    def take(self, count: int) -> bytes:
        if not 0 <= count <= self.size:
            raise EOFError(f"its pickle declares {count} bytes in a file of {self.size}")
        found = self.file.read(count)
        if len(found) < count:
            raise EOFError("its pickle ends too early")
        return found

    def unpack(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def take_line(self) -> str:
        line = self.file.readline(MAX_NAME_BYTES)
        if not line.endswith(b"\n"):
            raise EOFError("its pickle ends within a name")
        return line[:-1].decode()

    # Plain values.

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_object(self, value: Any) -> None:
        self.objects_left -= 1
        if self.objects_left < 0:
            raise pickle.UnpicklingError(f"its pickle makes more than {MAX_OBJECTS} objects")
        self.stack.append(value)

    def push_empty(self, kind: Callable[[], Any]) -> None:
        self.push_object(kind())

    def push_number(self, layout: str) -> None:
        self.stack.append(self.unpack(layout))

    def push_integer(self, layout: str) -> None:
        count = self.unpack(layout)
        if count > MAX_INTEGER_BYTES:
            raise pickle.UnpicklingError(f"its pickle has an integer of {count} bytes")
        self.stack.append(int.from_bytes(self.take(count), "little", signed=True))

    def push_bytes(self, layout: str) -> None:
        self.stack.append(self.take(self.unpack(layout)))

    def push_text(self, layout: str) -> None:
        self.stack.append(self.take(self.unpack(layout)).decode("utf-8", "surrogatepass"))

    def push_old_text(self, layout: str) -> None:
        # Python 2's strings, which are text or an array's bytes: latin-1 keeps both.
        self.stack.append(self.take(self.unpack(layout)).decode("latin-1"))

    # The stack and the memo.

    def skip(self, count: int) -> None:
        self.take(count)

    def pop(self, _: None) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def duplicate(self, _: None) -> None:
        self.stack.append(self.stack[-1])

    def mark(self, _: None) -> None:
        self.marks.append(len(self.stack))

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def drop_marked(self, _: None) -> None:
        self.since_mark()

    def put(self, layout: str) -> None:
        self.memo[self.unpack(layout)] = self.stack[-1]

    def memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, layout: str) -> None:
        self.stack.append(self.memo[self.unpack(layout)])

    # Containers.

    def push_tuple(self, count: int) -> None:
        found = tuple(self.stack[len(self.stack) - count :])
        if len(found) < count:
            raise LookupError("its pickle takes more than its stack holds")
        self.stack[len(self.stack) - count :] = [found]

    def push_marked(self, kind: Callable[[list[Any]], Any]) -> None:
        self.push_object(kind(self.since_mark()))

    def append(self, _: None) -> None:
        self.extend([self.stack.pop()])

    def append_marked(self, _: None) -> None:
        self.extend(self.since_mark())

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        (target.items if isinstance(target, Inert) else _of(list, target)).extend(values)

    def set_item(self, _: None) -> None:
        value = self.stack.pop()
        self.update([self.stack.pop(), value])

    def set_marked(self, _: None) -> None:
        self.update(self.since_mark())

    def update(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.items.extend(zip(flat[::2], flat[1::2], strict=True))
        else:
            _of(dict, target).update(_mapping(flat))

    def add_marked(self, _: None) -> None:
        values = self.since_mark()
        _of(set, self.stack[-1]).update(map(checked_key, values))

    # What the stock machine would import, call or build.

    def name(self, _: None) -> None:
        self.push_named(self.take_line(), self.take_line())

    def name_from_stack(self, _: None) -> None:
        name = self.stack.pop()
        self.push_named(_of(str, self.stack.pop()), _of(str, name))

    def push_named(self, module: str, name: str) -> None:
        if len(module) + len(name) > MAX_NAME_BYTES:
            raise pickle.UnpicklingError("its pickle asks for an overlong name")
        refuse_suspect(self.path, module, name)
        self.asked.add(f"{module}.{name}")
        self.push_object(Inert(f"{module}.{name}"))

    def call(self, _: None) -> None:
        args = _of(tuple, self.stack.pop())
        self.push_object(Inert(_of(Inert, self.stack.pop()).kind, args))

    def call_with_keywords(self, _: None) -> None:
        keywords = self.stack.pop()
        args = _of(tuple, self.stack.pop())
        self.push_object(Inert(_of(Inert, self.stack.pop()).kind, (*args, keywords)))

    def build(self, _: None) -> None:
        state = self.stack.pop()
        _of(Inert, self.stack[-1]).state = state

    def refer(self, _: None) -> None:
        self.references.append(Inert(PERSISTENT, _of(tuple, self.stack.pop())))
        self.push_object(self.references[-1])


def _of(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"its pickle has a {type(value).__name__} in place of a {kind.__name__}")
    return value


def _mapping(flat: list[Any]) -> dict[Any, Any]:
    return dict(zip(map(checked_key, flat[::2]), flat[1::2], strict=True))


def _frozen(values: list[Any]) -> frozenset[Any]:
    return frozenset(map(checked_key, values))


# Each instruction's byte: the method, and what it needs to know besides.
INSTRUCTIONS: dict[bytes, tuple[Callable[[_Machine, Any], None], Any]] = {
    b"\x80": (_Machine.skip, 1),
    b"\x95": (_Machine.skip, 8),
    b"N": (_Machine.push, None),
    b"\x88": (_Machine.push, True),
    b"\x89": (_Machine.push, False),
    b"K": (_Machine.push_number, "<B"),
    b"M": (_Machine.push_number, "<H"),
    b"J": (_Machine.push_number, "<i"),
    b"G": (_Machine.push_number, ">d"),
    b"\x8a": (_Machine.push_integer, "<B"),
    b"\x8b": (_Machine.push_integer, "<i"),
    b"C": (_Machine.push_bytes, "<B"),
    b"B": (_Machine.push_bytes, "<I"),
    b"\x8e": (_Machine.push_bytes, "<Q"),
    b"\x96": (_Machine.push_bytes, "<Q"),
    b"\x8c": (_Machine.push_text, "<B"),
    b"X": (_Machine.push_text, "<I"),
    b"\x8d": (_Machine.push_text, "<Q"),
    b"U": (_Machine.push_old_text, "<B"),
    b"T": (_Machine.push_old_text, "<i"),
    b"0": (_Machine.pop, None),
    b"1": (_Machine.drop_marked, None),
    b"2": (_Machine.duplicate, None),
    b"(": (_Machine.mark, None),
    b"q": (_Machine.put, "<B"),
    b"r": (_Machine.put, "<I"),
    b"\x94": (_Machine.memoize, None),
    b"h": (_Machine.get, "<B"),
    b"j": (_Machine.get, "<I"),
    b")": (_Machine.push_tuple, 0),
    b"\x85": (_Machine.push_tuple, 1),
    b"\x86": (_Machine.push_tuple, 2),
    b"\x87": (_Machine.push_tuple, 3),
    b"t": (_Machine.push_marked, tuple),
    b"]": (_Machine.push_empty, list),
    b"l": (_Machine.push_marked, list),
    b"a": (_Machine.append, None),
    b"e": (_Machine.append_marked, None),
    b"}": (_Machine.push_empty, dict),
    b"d": (_Machine.push_marked, _mapping),
    b"s": (_Machine.set_item, None),
    b"u": (_Machine.set_marked, None),
    b"\x8f": (_Machine.push_empty, set),
    b"\x91": (_Machine.push_marked, _frozen),
    b"\x90": (_Machine.add_marked, None),
    b"c": (_Machine.name, None),
    b"\x93": (_Machine.name_from_stack, None),
    b"R": (_Machine.call, None),
    b"\x81": (_Machine.call, None),
    b"\x92": (_Machine.call_with_keywords, None),
    b"b": (_Machine.build, None),
    b"Q": (_Machine.refer, None),
}
