"""A TensorFlow checkpoint as TensorFlow lays it out: a table of names, and the numbers."""

from __future__ import annotations

import struct


def varint(number):
    tail = b""
    while number > 127:
        tail, number = tail + bytes([number & 127 | 128]), number >> 7
    return tail + bytes([number])


def block(entries):
    """A block of a LevelDB table: keys share what they begin with; one restart, at 0."""
    content, last = b"", b""
    for key, value in entries:
        shared = next(
            (i for i, (a, b) in enumerate(zip(key, last, strict=False)) if a != b),
            min(len(key), len(last)),
        )
        content += varint(shared) + varint(len(key) - shared) + varint(len(value))
        content += key[shared:] + value
        last = key
    return content + struct.pack("<II", 0, 1)


def bundle(path, arrays):
    """Write ``arrays`` as TensorFlow does: NAME.index and NAME.data-00000-of-00001."""
    # BundleHeaderProto: num_shards = 1.
    entries, data = [(b"", b"\x08\x01")], bytearray()
    dtypes = {"float32": 1, "int64": 9}
    for name, array in sorted(arrays.items()):
        dims = b"".join(
            b"\x12" + bytes([len(d)]) + d for d in (b"\x08" + varint(n) for n in array.shape)
        )
        raw = array.tobytes()
        entry = b"\x08" + varint(dtypes[str(array.dtype)]) + b"\x12" + varint(len(dims)) + dims
        entry += b"\x20" + varint(len(data)) + b"\x28" + varint(len(raw)) + b"\x35abcd"
        entries.append((name.encode(), entry))
        data += raw
    # DT_STRING, as of TensorFlow 2's object graph: no numbers.
    entries.append((b"~graph", b"\x08\x07\x20" + varint(len(data)) + b"\x28\x03"))
    data += b"abc"
    content, handles = b"", []
    for part in (entries[:2], entries[2:], []):
        body = block(part)
        handles.append((part[-1][0] if part else b"", varint(len(content)) + varint(len(body))))
        content += body + b"\x00crc-"
    *data_blocks, (_, metaindex) = handles
    index = block(data_blocks)
    footer = metaindex + varint(len(content)) + varint(len(index))
    magic = (0xDB4775248B80FB57).to_bytes(8, "little")
    path.write_bytes(content + index + b"\x00crc-" + footer.ljust(40, b"\0") + magic)
    path.with_name(path.name.replace(".index", ".data-00000-of-00001")).write_bytes(data)
