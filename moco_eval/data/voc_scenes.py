"""PASCAL VOC's boxes, from its own folders."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from moco_eval.data import fingerprint
from moco_eval.data.scene import Scene, SceneData, SceneSplit
from moco_eval.data.voc_classes import VOC_CLASSES
from moco_eval.errors import DataError

_SPLITS = {
    "voc07": ((("2007", "trainval"),), (("2007", "test"),)),
    "voc07+12": ((("2007", "trainval"), ("2012", "trainval")), (("2007", "test"),)),
}


def open_voc(name: str, folder: Path) -> SceneData:
    """Open ``voc07`` or ``voc07+12`` from ``folder``, which is or holds ``VOCdevkit``.

    Boxes are as Detectron2 reads them: the devkit counts pixels from 1 and names the last one, so
    that left and top are one less here. Difficult objects are trained on; VOC's AP ignores them.

    Raises:
        FileNotFoundError: With the file that is missing.
        DataError: If an annotation is not VOC's.
    """
    train, test = (
        _read(name, [(_root(folder, year), part) for year, part in parts])
        for parts in _SPLITS[name]
    )
    hashes = [_fingerprint(split) for split in (train, test)]
    return SceneData(name, VOC_CLASSES, train, test, "/".join(hashes), scoring="voc07")


def _fingerprint(split: SceneSplit) -> str:
    paths = [_annotation(scene.path) for scene in split.scenes]
    names = [f"{path.parent.parent.name}/{path.name}" for path in paths]
    return fingerprint.of_names(names, [path.stat().st_size for path in paths], None)


def _root(folder: Path, year: str) -> Path:
    places = [folder / place / f"VOC{year}" for place in ("VOCdevkit", ".")]
    return next((place for place in places if place.is_dir()), places[0])


def _annotation(image: Path) -> Path:
    return image.parent.parent / "Annotations" / f"{image.stem}.xml"


def _read(name: str, parts: list[tuple[Path, str]]) -> SceneSplit:
    scenes: list[Scene] = []
    num_dropped = 0
    for root, part in parts:
        lines = (root / f"ImageSets/Main/{part}.txt").read_text().splitlines()
        present = {path.name for path in (root / "JPEGImages").iterdir()}
        for stem in (line.split()[0] for line in lines if line.strip()):
            image = root / f"JPEGImages/{stem}.jpg"
            if image.name not in present:
                raise FileNotFoundError(2, "missing", str(image))
            scene, dropped = _scene(len(scenes) + 1, image)
            scenes.append(scene)
            num_dropped += dropped
    labels = tuple(range(1, len(VOC_CLASSES) + 1))
    return SceneSplit(f"{name}-{parts[0][1]}", VOC_CLASSES, labels, tuple(scenes), num_dropped)


def _scene(number: int, image: Path) -> tuple[Scene, int]:
    path = _annotation(image)
    try:
        document = ElementTree.parse(path).getroot()
        height, width = (int(document.findtext(f"size/{side}", "")) for side in ("height", "width"))
        found = [_object(each) for each in document.iterfind("object")]
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(
            f"{path} is no annotation of VOC's ({error}). Expected size/height and width, and for "
            "each object name, difficult and bndbox/xmin, ymin, xmax, ymax."
        ) from error
    boxes = np.array([box for _, box, _ in found], dtype=np.float32).reshape(-1, 4)
    boxes = boxes.clip(0, [width, height, width, height]).astype(np.float32)
    kept = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
    labels = np.array([label for label, _, _ in found], dtype=np.int64)[kept]
    difficult = np.array([flag for _, _, flag in found], dtype=np.bool_)[kept]
    boxes = boxes[kept]
    scene = Scene(
        image_id=number,
        path=image,
        size=(height, width),
        boxes=boxes,
        labels=labels,
        segmentations=(None,) * len(labels),
        areas=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).astype(np.float64),
        crowd=np.zeros(len(labels), dtype=np.bool_),
        difficult=difficult,
    )
    return scene, int((~kept).sum())


def _object(element: ElementTree.Element) -> tuple[int, list[float], bool]:
    left, top, right, bottom = (
        float(element.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    label = VOC_CLASSES.index(element.findtext("name", "").strip())
    difficult = element.findtext("difficult", "0").strip() == "1"
    return label, [left - 1, top - 1, right, bottom], difficult
