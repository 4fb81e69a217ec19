"""Cityscapes' objects, from the maps that its authors publish.

In ``*_gtFine_instanceIds.png`` a pixel of an object is 1000 times its class's number and which of
the image's objects of that class it is; a pixel of a group, or of a class without objects, is the
class's number alone. Numbers and rules: mcordts/cityscapesScripts, helpers/labels.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from moco_eval.data import fingerprint, index_cache
from moco_eval.data.masks import encode
from moco_eval.data.scene import Scene, SceneData, SceneSplit
from moco_eval.errors import DataError

# Classes whose objects are told apart, by their numbers in the maps.
INSTANCE_CLASSES = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
# What is of no class that counts: what lies there is neither right nor wrong.
VOID_IDS = (*range(7), 9, 10, 14, 15, 16, 18, 29, 30)
PER_INSTANCE = 1000


def open_instances(name: str, folder: Path) -> SceneData:
    """Open the finely annotated training and validation images.

    The maps are read once, about 100 ms each, and what was found is kept in the user's cache.

    Raises:
        FileNotFoundError: With the file that is missing.
        DataError: If a map is damaged.
    """
    root = folder / "cityscapes" if (folder / "cityscapes").is_dir() else folder
    splits, hashes = [], []
    for part in ("train", "val"):
        images = sorted((root / "leftImg8bit" / part).glob("*/*_leftImg8bit.png"))
        if not images:
            raise FileNotFoundError(2, "missing", str(root / f"leftImg8bit/{part}/*/*.png"))
        maps = [_map_of(root, image) for image in images]
        splits.append(_split(f"{name}-{part}", images, maps))
        hashes.append(fingerprint.of_files(maps, None, root))
    train, test = splits
    return SceneData(name, train.classes, train, test, "/".join(hashes), scoring="cityscapes")


def _map_of(root: Path, image: Path) -> Path:
    folder = root / "gtFine" / image.parent.relative_to(root / "leftImg8bit")
    path = folder / image.name.replace("_leftImg8bit.png", "_gtFine_instanceIds.png")
    if not path.exists():
        raise FileNotFoundError(2, "missing", str(path))
    return path


def _split(name: str, images: list[Path], maps: list[Path]) -> SceneSplit:
    scenes = []
    progress = tqdm(zip(images, maps, strict=True), total=len(maps), desc=name, disable=None)
    for number, (image, path) in enumerate(progress, start=1):
        scenes.append(_scene(number, image, path, _found(path)))
    classes = tuple(INSTANCE_CLASSES.values())
    return SceneSplit(name, classes, tuple(INSTANCE_CLASSES), tuple(scenes), num_dropped=0)


def _found(path: Path) -> index_cache.Arrays:
    """Size, objects and void of one map; from the cache where the file has not changed."""
    status = path.stat()
    key = f"cityscapes {path.absolute()} {status.st_size} {status.st_mtime_ns}"
    if stored := index_cache.read(key):
        return stored
    try:
        with Image.open(path) as opened:
            ids = np.asarray(opened, dtype=np.int64)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    if ids.ndim != 2:
        raise DataError(f"{path} is no map of numbers: its pixels have {ids.ndim - 1} dimensions.")
    numbers = np.unique(ids)
    kept = [n for n in numbers.tolist() if _class_of(n) in INSTANCE_CLASSES]
    masks = [ids == number for number in kept]
    found = {
        "size": np.array(ids.shape),
        "numbers": np.array(kept, dtype=np.int64),
        "boxes": np.array([_bounds(mask) for mask in masks], dtype=np.int64).reshape(-1, 4),
        "areas": np.array([mask.sum() for mask in masks], dtype=np.int64),
        "runs": np.array([encode(mask)["counts"] for mask in masks], dtype=np.str_),
        "void": np.array([encode(np.isin(ids, VOID_IDS))["counts"]], dtype=np.str_),
    }
    if index_cache.is_settled(status.st_mtime_ns):
        index_cache.write(key, found)
    return found


def _class_of(number: int) -> int:
    return number // PER_INSTANCE if number >= PER_INSTANCE else number


def _scene(number: int, image: Path, path: Path, found: index_cache.Arrays) -> Scene:
    size = (int(found["size"][0]), int(found["size"][1]))
    ids = list(INSTANCE_CLASSES)
    numbers = found["numbers"].tolist()

    def runs(counts: str) -> dict[str, object]:
        return {"size": list(size), "counts": str(counts)}

    return Scene(
        image_id=number,
        path=image,
        size=size,
        boxes=found["boxes"].astype(np.float32),
        labels=np.array([ids.index(_class_of(n)) for n in numbers], dtype=np.int64),
        segmentations=tuple(runs(counts) for counts in found["runs"].tolist()),
        areas=found["areas"].astype(np.float64),
        # A group of objects that could not be told apart.
        crowd=np.array([n < PER_INSTANCE for n in numbers], dtype=np.bool_),
        extra={"void": runs(found["void"].tolist()[0])},
    )


def _bounds(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
