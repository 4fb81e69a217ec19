"""Bytes become pixels, or an error that names the file and the kind of its damage.

What no decoder notices is not found here: a JPEG whose second half is zeros decodes to grey.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from moco_eval.errors import DataError

# What Pillow may decode: the formats of image data sets, not its hundred rarely tested readers.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF")

DAMAGES = (
    "missing",
    "unreadable",  # a folder, a file without permission, a disk that fails
    "empty",
    "not an image",
    "truncated",
    "too large",  # Pillow's limit against decompression bombs, 89 million pixels
    "of unknown colours",  # 32-bit integers, floats, CIELAB: nothing says what black and white are
    "corrupt",
)

_JPEG = b"\xff\xd8\xff"
_SIGNATURES = (_JPEG, b"\x89PNG", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# Modes whose conversion to RGB neither fails nor clips.
_PLAIN_MODES = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"))


class DamagedImageError(DataError):
    """An image of a data set cannot be decoded.

    Attributes:
        path: The file, or ``shard:member``.
        kind: One of ``DAMAGES``.
    """

    # The text alone must be able to make one: so errors of loader processes are raised again.
    def __init__(self, text: str, *, path: str = "", kind: str = "corrupt") -> None:
        super().__init__(text)
        self.path = path
        self.kind = kind


@contextmanager
def damage_of(name: str) -> Iterator[None]:
    """Turn what Pillow and the file system raise in this block into a ``DamagedImageError``.

    Args:
        name: What the error calls the image.
    """
    try:
        yield
    except (OSError, SyntaxError, *_BOMBS) as error:
        raise _damaged(name, _kind_of(error), str(error)) from error


def decode(data: bytes, name: str) -> Image.Image:
    """Decode a whole image, in a mode whose conversion to RGB does not clip.

    16-bit grey becomes 8-bit, 65535 as 255. Of an animation this is the first frame. The
    orientation that EXIF asks for is not applied: the reference ImageNet pipelines ignore it.

    Args:
        data: The file's bytes.
        name: What an error calls the image.

    Raises:
        DamagedImageError: If it cannot be decoded, or would be but Pillow warns of its size.
    """
    try:
        with damage_of(name):
            image = _open(data, name)
            image.load()
    except DamagedImageError:
        raise
    except (ValueError, EOFError, IndexError, struct.error, zlib.error) as error:
        raise _damaged(name, "corrupt", str(error)) from error
    return _in_eight_bits(image, name)


def decode_lazily(data: bytes, name: str) -> Image.Image:
    """Open a JPEG without decoding it, so that it can be decoded smaller; decode all else.

    What is wrong with its pixels shows when they are used: do that within ``damage_of(name)``.

    Raises:
        DamagedImageError: If it cannot be opened.
    """
    if not data.startswith(_JPEG):
        return decode(data, name)
    with damage_of(name):
        return _open(data, name)


def _open(data: bytes, name: str) -> Image.Image:
    if not data:
        raise _damaged(name, "empty", "it has no bytes")
    # Whether Pillow notices depends on how the last bytes fall.
    if _lacks_its_end(data):
        raise _damaged(name, "truncated", f"its {len(data)} bytes lack the end of the file")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        if data.startswith(_SIGNATURES):
            raise OSError("its header is broken") from error
        raise _damaged(name, "not an image", f"it begins with {data[:12]!r}") from error
    # Pillow refuses twice its limit and only warns of less; a warning is lost in a log.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise _damaged(name, "too large", f"{image.width}x{image.height} pixels")
    return image


def _in_eight_bits(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        # Pillow's own conversion clips at 255: nearly every pixel would be white.
        return Image.fromarray(((np.asarray(image).astype(np.int64) + 128) // 257).astype(np.uint8))
    if image.mode not in _PLAIN_MODES:
        raise _damaged(name, "of unknown colours", f"its mode is {image.mode}")
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        # The colours are the same, but Pillow warns of a direct conversion to RGB.
        return image.convert("RGBA")
    return image


def _kind_of(error: Exception) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "missing"
    if isinstance(error, _BOMBS):
        return "too large"
    if isinstance(error, OSError) and error.errno is not None:
        return "unreadable"
    return "truncated" if "truncated" in str(error).lower() else "corrupt"


def _lacks_its_end(data: bytes) -> bool:
    if data.startswith(_JPEG):
        return data.find(b"\xff\xd9", _start_of_scan(data)) < 0
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    return data.startswith(b"\x89PNG") and b"IEND" not in data


def _start_of_scan(data: bytes) -> int:
    """Where a JPEG's pixels begin: behind segments that may hold a whole thumbnail."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return place


def _damaged(name: str, kind: str, detail: str) -> DamagedImageError:
    assert kind in DAMAGES, f"There is no damage '{kind}'."
    return DamagedImageError(
        f"The image {name} cannot be decoded, it is {kind}: {detail}. "
        "Replace it, or take it out of the data set.",
        path=name,
        kind=kind,
    )
