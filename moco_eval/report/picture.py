"""A picture on the page: its pixels, its meaning in a sentence, and its numbers."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from moco_eval.pictures import alt_of

# What the pictures that runs leave are called on the page, in the order in which one would look.
HEADINGS = {
    "best_images": "Best test images",
    "worst_images": "Worst test images",
    "neighbours": "Nearest neighbours",
    "per_class": "By class",
    "per_class_mask": "By class, masks",
    "per_class_kp": "By class, keypoints",
    "precision_recall": "Precision and recall",
    "precision_recall_mask": "Precision and recall, masks",
    "precision_recall_kp": "Precision and recall, keypoints",
    "AP_by_size": "AP by size",
    "confusion": "Confusion",
    "reliability": "Calibration",
    "map": "Map of the features",
    "sensitivity": "Sensitivity",
    "training": "Training",
    # Of pretraining.
    "loss": "Loss and contrastive accuracy",
    "embeddings": "Embeddings",
    "knn": "kNN while pretraining",
    "views": "Views",
}

MAX_WIDTH = 1600
# Longer ones would make the page a store of numbers; they lie where the picture came from.
MAX_CSV = 300_000
_LOSSLESS_UP_TO = 160_000
# A pixel of CSS is 1/96 of an inch, one of a picture 1/150.
_CSS_PIXELS = 96 / 150


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture.

    Attributes:
        name: What its files are called, without an ending.
        title: What stands above it.
        alt: Its meaning in a sentence, for who does not see it.
        png: The file.
        csv: Its numbers; empty where it has none.
    """

    name: str
    title: str
    alt: str
    png: bytes
    csv: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height on the page, in pixels of CSS: as large as in print."""
        with Image.open(io.BytesIO(self.png), formats=("PNG",)) as image:
            width, height = image.size
        return round(width * _CSS_PIXELS), round(height * _CSS_PIXELS)


def read(path: Path, *, title: str = "", name: str = "") -> Picture:
    """The picture in a PNG, with the CSV beside it.

    Raises:
        OSError: If it cannot be read, or is no picture.
    """
    title = title or HEADINGS.get(path.stem, path.stem.replace("_", " "))
    numbers = path.with_suffix(".csv")
    csv = numbers.read_text(errors="replace") if numbers.exists() else ""
    alt = alt_of(path) or f"{title}; the picture holds no description of its own."
    return Picture(
        name=name or path.stem,
        title=title,
        alt=alt,
        png=path.read_bytes(),
        csv=csv if len(csv) <= MAX_CSV else "",
    )


def drawn(draw: Callable[[Path], Path | None], *, title: str, name: str) -> Picture | None:
    """The picture that ``draw`` leaves in the folder it is given; None where it draws none."""
    with tempfile.TemporaryDirectory() as folder:
        path = draw(Path(folder))
        return read(path, title=title, name=name) if path else None


def fitting(size: tuple[int, int]) -> tuple[int, int]:
    """This size, or the largest of its shape that is no wider than the page shows."""
    share = min(1.0, MAX_WIDTH / size[0])
    return max(1, round(share * size[0])), max(1, round(share * size[1]))


def as_uri(picture: Picture) -> str:
    """The picture inside the page: WebP, without loss where that is not much longer."""
    with Image.open(io.BytesIO(picture.png), formats=("PNG",)) as image:
        pixels = image.convert("RGB")
    if (size := fitting(pixels.size)) != pixels.size:
        pixels = pixels.resize(size, Image.Resampling.LANCZOS)
    content = _webp(pixels, lossless=True)
    if len(content) > _LOSSLESS_UP_TO:
        content = min(content, _webp(pixels, lossless=False), key=len)
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"


def csv_uri(text: str) -> str:
    """Text as a link's address."""
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


def _webp(image: Image.Image, *, lossless: bool) -> bytes:
    buffer = io.BytesIO()
    effort = {"quality": 40, "method": 1} if lossless else {"quality": 88, "method": 3}
    image.save(buffer, "WEBP", lossless=lossless, **effort)
    return buffer.getvalue()
