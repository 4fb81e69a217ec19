"""Semantic segmentation data: images, and for each pixel the number of a class, or of none.

A mask is a PNG whose pixels are numbers, a palette's index or a grey value as it stands in the
file; the colours of a palette mean nothing. 255 is no class: neither trained on nor scored.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moco_eval.data import fingerprint
from moco_eval.data.decoding import damage_of
from moco_eval.data.folder_index import find_images
from moco_eval.data.images import open_image
from moco_eval.data.scene import Scene, SceneData, SceneSplit
from moco_eval.errors import DataError

IGNORED = 255
# Numbers below it, of which 255 is none.
MAX_CLASSES = 255
# So many pairs of a split are looked into when it is opened; the others when they are used.
NUM_CHECKED = 100
NUM_CHECKED_OF_OWN = 1000

LabelMap = NDArray[np.uint8]


class Item(Protocol):
    """An image whose every pixel has a class or none."""

    @property
    def name(self) -> str:
        """What errors and pictures call it."""

    def image(self) -> Image.Image:
        """The decoded image, RGB.

        Raises:
            DataError: If it is damaged.
        """

    def labels(self) -> LabelMap:
        """The class of each pixel ``(height, width)``, ``IGNORED`` where there is none.

        Raises:
            DataError: If it is damaged, or holds what is no class.
        """


@dataclass(frozen=True, kw_only=True)
class MaskedImage:
    """An image file and a mask file.

    Attributes:
        path: The image.
        mask: A PNG of numbers, or SBD's ``.mat``.
        num_classes: The mask's numbers are below it, or ``IGNORED``.
        table: What each of the file's 256 numbers means; None where it is the class itself.
    """

    path: Path
    mask: Path
    num_classes: int
    table: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """The image's path."""
        return str(self.path)

    def image(self) -> Image.Image:
        """The decoded image, RGB; of 16 bits the upper eight count."""
        return open_image(self.path).convert("RGB")

    def labels(self) -> LabelMap:
        """The class of each pixel, by the file's numbers."""
        numbers = read_sbd(self.mask) if self.mask.suffix == ".mat" else read_mask(self.mask)
        if self.table is not None and numbers.max(initial=0) < len(self.table):
            numbers = np.array(self.table, dtype=np.int64)[numbers]
        found = np.unique(numbers)
        strange = found[(found != IGNORED) & ((found < 0) | (found >= self.num_classes))]
        if len(strange):
            raise DataError(
                f"{self.mask} holds the numbers {', '.join(map(str, strange[:6].tolist()))}. "
                f"Expected 0 to {self.num_classes - 1} for {self.num_classes} classes, and "
                f"{IGNORED} where there is none."
            )
        return numbers.astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class DrawnScene:
    """A scene whose objects' masks make the map: class 0 is what none of them covers."""

    scene: Scene

    @property
    def name(self) -> str:
        """The image's path."""
        return str(self.scene.path)

    def image(self) -> Image.Image:
        """The decoded image, RGB."""
        return self.scene.image()

    def labels(self) -> LabelMap:
        """One more than the object's label, of a later object where two overlap."""
        labels = np.zeros(self.scene.size, dtype=np.uint8)
        for label, mask in zip(self.scene.labels.tolist(), self.scene.masks(), strict=True):
            labels[mask] = label + 1
        return labels


@dataclass(frozen=True, eq=False)
class SemanticSplit:
    """One part of a segmentation data set.

    Attributes:
        id: Its name.
        items: In an order that is always the same.
    """

    id: str
    items: tuple[Item, ...]

    def __len__(self) -> int:
        return len(self.items)

    def pair(self, index: int) -> tuple[Image.Image, LabelMap]:
        """An image, and the class of each of its pixels.

        Raises:
            DataError: If one is damaged, or they are of different sizes.
        """
        item = self.items[index]
        image, labels = item.image(), item.labels()
        if image.size != labels.shape[::-1]:
            raise DataError(
                f"{item.name} has {image.width}x{image.height} pixels, but its mask has "
                f"{labels.shape[1]}x{labels.shape[0]}. Make both alike; a mask is scaled without "
                "mixing its numbers (nearest neighbour)."
            )
        return image, labels


@dataclass(frozen=True, eq=False)
class SemanticData:
    """A segmentation data set: what ``segment --task semantic`` takes.

    Attributes:
        id: Its name in records.
        classes: By label.
        train: Images to train on.
        test: Images that count.
        fingerprint: Of both parts.
    """

    id: str
    classes: tuple[str, ...]
    train: SemanticSplit
    test: SemanticSplit
    fingerprint: str


def of_files(
    name: str,
    classes: Sequence[str],
    root: Path,
    parts: Mapping[str, Sequence[tuple[Path, Path]]],
    *,
    table: Mapping[str, tuple[int, ...]] | None = None,
    num_checked: int = NUM_CHECKED,
) -> SemanticData:
    """A data set of image files and mask files.

    Args:
        name: Its id.
        classes: By label.
        root: Names in the fingerprint start from here.
        parts: ``train`` and ``test``: the image and the mask of each pair.
        table: By the end of a mask's name, what its numbers mean.
        num_checked: So many pairs of each part, spread evenly, are decoded and compared now.

    Raises:
        DataError: If a file is missing, a part is empty, or a pair that is looked into is damaged.
    """
    splits, hashes = [], []
    for part in ("train", "test"):
        pairs = parts[part]
        _require_files(name, part, pairs)
        items = tuple(
            MaskedImage(
                path=image,
                mask=mask,
                num_classes=len(classes),
                table=next(
                    (t for end, t in (table or {}).items() if mask.name.endswith(end)), None
                ),
            )
            for image, mask in pairs
        )
        split = SemanticSplit(f"{name}-{part}", items)
        for index in range(0, len(items), -(-len(items) // num_checked)):
            split.pair(index)
        splits.append(split)
        hashes.append(fingerprint.of_files([path for pair in pairs for path in pair], None, root))
    return SemanticData(name, tuple(classes), splits[0], splits[1], "/".join(hashes))


def open_masks(rest: str) -> SemanticData:
    """Open ``DIR`` with images and masks in ``train/`` and ``val/``, and ``classes.txt``.

    Raises:
        DataError: If it is laid out otherwise, or a pair does not fit.
    """
    root = Path(rest).expanduser()
    try:
        lines = (root / "classes.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(_expected_tree(root, str(error))) from error
    classes = [line.strip() for line in lines if line.strip()]
    if len(set(classes)) != len(classes) or not 2 <= len(classes) <= MAX_CLASSES:
        raise DataError(
            f"{root / 'classes.txt'} names {len(classes)} classes, {len(set(classes))} of them "
            f"different. Expected one a line, 2 to {MAX_CLASSES} of them, each once; the first is "
            "number 0."
        )
    parts = {name: _pairs(root, folder) for name, folder in (("train", "train"), ("test", "val"))}
    name = f"masks-{root.absolute().name}"
    return of_files(name, classes, root, parts, num_checked=NUM_CHECKED_OF_OWN)


def of_scenes(data: SceneData) -> SemanticData:
    """The background and the classes of ``data``, drawn from its objects' masks."""

    def split(scenes: SceneSplit) -> SemanticSplit:
        return SemanticSplit(scenes.id, tuple(DrawnScene(scene=scene) for scene in scenes.scenes))

    return SemanticData(
        data.id,
        ("background", *data.classes),
        split(data.train),
        split(data.test),
        data.fingerprint,
    )


def read_mask(path: Path) -> NDArray[np.int64]:
    """The numbers of a PNG ``(height, width)``, as they stand in the file.

    Raises:
        DataError: If it is damaged, no PNG, or holds colours.
    """
    try:
        with damage_of(str(path)):
            image = Image.open(io.BytesIO(path.read_bytes()), formats=("PNG",))
            image.load()
    except (ValueError, EOFError, IndexError, struct.error, zlib.error) as error:
        # Our own say the same in their own words.
        if isinstance(error, DataError):
            raise
        raise DataError(f"The mask {path} cannot be decoded: {error}.") from error
    if image.mode not in ("1", "L", "P", "I", "I;16"):
        raise DataError(
            f"{path} holds colours ({image.mode}), expected one number a pixel: a palette's index "
            "or a grey value. Write each colour as the number of its class."
        )
    return np.asarray(image).astype(np.int64)


def read_sbd(path: Path) -> NDArray[np.int64]:
    """The numbers of one of SBD's ``cls/*.mat`` files.

    Raises:
        DataError: If it is damaged, or another file.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content: Any = loadmat(str(path))
        return np.asarray(content["GTcls"]["Segmentation"][0, 0]).astype(np.int64)
    except (OSError, KeyError, IndexError, ValueError, TypeError, MatReadError) as error:
        raise DataError(f"{path} is none of SBD's class masks: {error}.") from error


def found_in(folder: Path) -> str:
    """What lies in a folder, in a few words, for an error about what does not."""
    if not folder.is_dir():
        return f"{folder} is {'a file' if folder.exists() else 'not there'}"
    names = sorted(path.name for path in folder.iterdir())
    return f"{folder} holds {', '.join(names[:6]) or 'nothing'}{' ...' if len(names) > 6 else ''}"


def _pairs(root: Path, part: str) -> list[tuple[Path, Path]]:
    images, masks = root / part / "images", root / part / "masks"
    if not images.is_dir() or not masks.is_dir():
        raise DataError(_expected_tree(root, found_in(root / part)))
    names = [Path(name) for name in find_images(images).names]
    pairs = [(images / name, (masks / name).with_suffix(".png")) for name in names]
    spare = {masks / name for name in find_images(masks).names} - {mask for _, mask in pairs}
    if spare:
        raise DataError(
            f"{masks} has {len(spare)} masks without an image in {images}, such as "
            f"{min(spare).name}. An image and its mask bear one name, but for the suffix."
        )
    twice = len(pairs) - len({mask for _, mask in pairs})
    if twice:
        raise DataError(f"{images} has {twice} images that share their name but for the suffix.")
    return pairs


def _require_files(name: str, part: str, pairs: Sequence[tuple[Path, Path]]) -> None:
    if not pairs:
        raise DataError(f"{name} has no images for {'training' if part == 'train' else 'testing'}.")
    missing = [path for pair in pairs for path in pair if not path.is_file()]
    if missing:
        raise DataError(
            f"{name}: {len(missing):,} of the {2 * len(pairs):,} images and masks of its {part} "
            f"part are not there; the first is {missing[0]}."
        )


def _expected_tree(root: Path, found: str) -> str:
    return (
        f"masks:{root} is not laid out as expected:\n"
        f"  {root}/classes.txt              one class a line, the first is number 0\n"
        f"  {root}/train/images/NAME.jpg    or .png\n"
        f"  {root}/train/masks/NAME.png     a number for each pixel, {IGNORED} for none\n"
        f"  {root}/val/images/, {root}/val/masks/\n"
        f"Found: {found}."
    )
