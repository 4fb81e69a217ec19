"""Detection sets in miniature, each in the layout that its authors publish it in.

Two training and two test images of 64x48 noise; each shows a few rectangles.
"""

import json

import numpy as np
from miniatures import shrink
from PIL import Image

from moco_eval.data import scene_sets

WIDTH, HEIGHT = 64, 48
# left, top, right, bottom
BOXES = ((4, 5, 24, 29), (36, 10, 60, 40))
KEYPOINTS = ("nose", "left_eye", "right_eye", "left_hip", "right_hip")


def write_image(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def polygon(box):
    left, top, right, bottom = box
    return [[left, top, right, top, right, bottom, left, bottom]]


def write_voc(folder, year, lists):
    """``lists`` maps a split to its images' names; each shows a dog, and a difficult cat."""
    root = folder / "VOCdevkit" / f"VOC{year}"
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "Annotations").mkdir()
    for part, names in lists.items():
        (root / f"ImageSets/Main/{part}.txt").write_text("".join(f"{name}\n" for name in names))
        for seed, name in enumerate(names):
            write_image(root / f"JPEGImages/{name}.jpg", seed)
            objects = "".join(
                f"<object><name>{kind}</name><difficult>{hard}</difficult><bndbox>"
                # The devkit counts from 1, and the last pixel belongs to the box.
                f"<xmin>{box[0] + 1}</xmin><ymin>{box[1] + 1}</ymin>"
                f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
                for kind, hard, box in (("dog", 0, BOXES[0]), ("cat", 1, BOXES[1]))
            )
            (root / f"Annotations/{name}.xml").write_text(
                f"<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height>"
                f"<depth>3</depth></size>{objects}</annotation>"
            )
    return folder


def coco_document(names, categories, **more):
    """Each image shows the first category in one box and the last in the other."""
    images = [
        {"id": 10 + number, "file_name": name, "width": WIDTH, "height": HEIGHT, **more}
        for number, name in enumerate(names)
    ]
    annotations = []
    for image in images:
        for category, box in zip((categories[0], categories[-1]), BOXES, strict=True):
            left, top, right, bottom = box
            found = {
                "id": len(annotations) + 1,
                "image_id": image["id"],
                "category_id": category["id"],
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": 0,
                "segmentation": polygon(box),
            }
            if "keypoints" in category:
                points = [(left + 2 + i, top + 2 + 2 * i, 2) for i in range(len(KEYPOINTS))]
                found |= {
                    "keypoints": [float(n) for point in points for n in point],
                    "num_keypoints": len(KEYPOINTS),
                }
            annotations.append(found)
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco2017(folder, kind="instances"):
    categories = [{"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]
    if kind == "person_keypoints":
        categories = [{"id": 1, "name": "person", "keypoints": list(KEYPOINTS), "skeleton": []}]
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for part in ("train2017", "val2017"):
        names = [f"{number:012d}.jpg" for number in (1, 2)]
        for seed, name in enumerate(names):
            write_image(folder / part / name, seed)
        document = coco_document(names, categories)
        document["licenses"] = [{"id": 1, "name": "CC BY 2.0"}]
        (folder / f"annotations/{kind}_{part}.json").write_text(json.dumps(document))
    return folder


def write_lvis(folder, version="v0.5"):
    """Both splits take images of COCO's train2017, as LVIS does; addresses alone say so."""
    categories = [
        {"id": 1, "name": "acorn", "frequency": "r"},
        {"id": 2, "name": "zebra", "frequency": "f"},
        {"id": 3, "name": "cup", "frequency": "c"},
    ]
    (folder / "lvis").mkdir(parents=True)
    for part, start in (("train", 1), ("val", 3)):
        names = [f"{number:012d}.jpg" for number in (start, start + 1)]
        for seed, name in enumerate(names):
            write_image(folder / "train2017" / name, seed)
        more = {"neg_category_ids": [2], "not_exhaustive_category_ids": []}
        document = coco_document(names, categories, **more)
        for image in document["images"]:
            name = image.pop("file_name")
            image["coco_url"] = f"http://images.cocodataset.org/train2017/{name}"
            if version == "v0.5":
                image["file_name"] = f"COCO_train2014_{name}"
        (folder / f"lvis/lvis_{version}_{part}.json").write_text(json.dumps(document))
    return folder


def write_cityscapes(folder):
    """Road below the void of the sky; a car, a person and a group of persons."""
    for part in ("train", "val"):
        for number in (1, 2):
            stem = f"ulm_{number:06d}_000019"
            write_image(folder / f"leftImg8bit/{part}/ulm/{stem}_leftImg8bit.png", number)
            ids = np.full((HEIGHT, WIDTH), 7, dtype=np.uint16)
            ids[:4] = 0
            for value, (left, top, right, bottom) in zip((26001, 24000), BOXES, strict=True):
                ids[top:bottom, left:right] = value
            ids[42:46, 2:12] = 24
            path = folder / f"gtFine/{part}/ulm/{stem}_gtFine_instanceIds.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(ids).save(path)
    return folder


def write_set(name, folder):
    """The set ``name`` of ``SCENE_SETS`` in ``folder``, and the specification that opens it."""
    if name.startswith("voc07"):
        write_voc(folder, 2007, {"trainval": ["000001", "000002"], "test": ["000003", "000004"]})
        if name == "voc07+12":
            write_voc(folder, 2012, {"trainval": ["2008_000001", "2008_000002"]})
    elif name.startswith("coco2017"):
        write_coco2017(folder, "person_keypoints" if "keypoints" in name else "instances")
    elif name.startswith("lvis"):
        write_lvis(folder, name.partition("-")[2])
    else:
        write_cityscapes(folder)
    return f"{name}:{folder}"


NUM_CLASSES = {"coco2017": 2, "coco2017-keypoints": 1, "lvis-v0.5": 3, "lvis-v1": 3}


def allow_miniatures(monkeypatch):
    """Expect of each set the numbers that its miniature has."""
    for name, published in scene_sets.SCENE_SETS.items():
        shrink(
            monkeypatch,
            scene_sets.SCENE_SETS,
            name,
            num_train=4 if name == "voc07+12" else 2,
            num_test=2,
            num_classes=NUM_CLASSES.get(name, published.num_classes),
        )
