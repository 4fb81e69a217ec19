"""How a picture is written: its PNG with its meaning in words, and its numbers beside it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from moco_eval.canvas import save, save_numbers
from moco_eval.files import atomic_file

# PNG's own word for what a picture shows (PNG specification, 3rd edition, section 11.3.3).
_KEYWORD = "Description"
# A PNG begins with a signature of 8 bytes and the chunk IHDR of 25.
_AFTER_HEADER = 33


def write(
    figure: Figure, path: Path, *, title: str, alt: str, numbers: pd.DataFrame | None = None
) -> Path:
    """Write a figure under a heading, its meaning in its PNG, and its CSV.

    Args:
        figure: What was drawn.
        path: The PNG; the CSV gets its name.
        title: The heading, which may take several lines.
        alt: One sentence for who does not see it; ``alt_of`` reads it.
        numbers: The CSV; None of what is no numbers.

    Returns:
        The PNG.

    Raises:
        OutputError: If one cannot be written.
    """
    save(figure, path, title=title)
    png = path.read_bytes()
    with atomic_file(path) as file:
        file.write(png[:_AFTER_HEADER] + _text_chunk(alt) + png[_AFTER_HEADER:])
    if numbers is not None:
        save_numbers(numbers, path)
    return path


def counted(number: int, one: str, several: str = "") -> str:
    """A number with its noun: ``1 class``, ``1,230 classes``."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def classes(number: int) -> str:
    """So many classes."""
    return counted(number, "class", "classes")


def spread(values: Sequence[float]) -> str:
    """The first and the last of sorted values, without decimals: ``from 100 to 67``, or ``100``."""
    first, last = (f"{values[place]:.0f}" for place in (0, -1))
    return first if first == last else f"from {first} to {last}"


def alt_of(path: Path) -> str:
    """The meaning of a picture in one sentence; empty where its PNG holds none."""
    with Image.open(path, formats=("PNG",)) as image:
        image.load()
        return str(getattr(image, "text", {}).get(_KEYWORD, ""))


def _text_chunk(text: str) -> bytes:
    """An iTXt chunk, not compressed, of no language in particular."""
    words = " ".join(text.split())
    body = b"iTXt" + _KEYWORD.encode("latin-1") + b"\0" * 5 + words.encode()
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
