"""Data, checkpoints and results in miniature, under the names that the documentation uses.

Data of classes are images of one hue each with some noise, which any network can tell apart.
"""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import tarfile
from pathlib import Path

import dense_layouts
import documented
import numpy as np
import timm
import torch
from miniatures import shrink
from PIL import Image

from moco_eval import cell, record_file, records
from moco_eval.convert import convert
from moco_eval.data import catalog, digits, facts, scene_sets, scenes, semantic_sets
from moco_eval.data.images import DIGITS_INPUT
from moco_eval.encoders.load import load_encoder
from moco_eval.encoders.networks import build_network
from moco_eval.encoders.reading.reader import RECORD

ROOT = Path(__file__).parent.parent.parent
SIDE = 40
HUES = ((200, 40, 40), (40, 40, 200), (40, 200, 40))
# Training and test images a class; of validation, where a set has them, as many as of the test.
NUM_TRAIN, NUM_TEST = 6, 2
NUM_SCENES = {"train": 6, "test": 3}
# What the miniatures of the literature's sets hold.
COUNTS = {
    name: {"num_classes": 2, "num_train": 12, "num_val": num_val, "num_test": 4}
    for name, num_val in (("imagenet", 0), ("aircraft", 4), ("pets", 0), ("voc07", 4))
}
# Committed records that a page's tables and reports are made of.
SHOWN = ("knn/digits", "linear-lbfgs/digits", "lowshot/digits")


def allow_miniatures(monkeypatch):
    """Expect of each set the numbers that its miniature has."""
    dense_layouts.allow_miniatures(monkeypatch)
    # Without what a process keeps of the sets that it opened, in miniature or whole.
    monkeypatch.setattr(cell, "_images", catalog.open_labelled)
    monkeypatch.setattr(cell, "_scenes", catalog.open_scenes)
    monkeypatch.setattr(cell, "_label_maps", catalog.open_semantic)
    monkeypatch.setattr(scenes, "NUM_SCENES", NUM_SCENES)
    monkeypatch.setattr(digits, "digit_split", lambda: (np.arange(160), np.arange(160, 200)))
    for name, counts in COUNTS.items():
        shrink(monkeypatch, facts.DATASETS, name, **counts)
    for name, num_train in (("voc07", 16), ("voc07+12", 18)):
        shrink(monkeypatch, scene_sets.SCENE_SETS, name, num_train=num_train, num_test=4)
    for name in semantic_sets.PUBLISHED:
        shrink(monkeypatch, semantic_sets.PUBLISHED, name, num_train=2, num_test=2)


def write_data(data: Path) -> None:
    """All that lies below ``/data``."""
    _write_classes(data / "imagenet", ("n00000001", "n00000002"))
    _write_classes(data / "flowers", ("daisy", "rose", "tulip"))
    for number in range(24):
        _save(data / f"photos/{number}.jpg", number % 3, number)
    _write_photos(data)
    _write_tables(data)
    _write_shards(data)
    _write_aircraft(data / "aircraft/fgvc-aircraft-2013b/data")
    _write_pets(data / "pets/oxford-iiit-pet")
    _write_voc(data / "voc")
    _write_voc_masks(data / "voc/VOCdevkit/VOC2012")
    dense_layouts.write_coco2017(data / "coco")
    dense_layouts.write_lvis(data / "coco")
    _write_cityscapes(data / "cityscapes")
    _write_masks(data / "masks")


def write_checkpoints(folder: Path) -> None:
    """Files of several authors, of small networks with random weights."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    said = {RECORD: {"input": dataclasses.asdict(DIGITS_INPUT), "method": "moco"}}
    _save_moco(folder / "runs/mocov2/checkpoint.pth.tar", "resnet18", said)
    for name in ("runs/digits", "runs/demo/mocov2-digits"):
        _save_moco(folder / name / "checkpoint.pth.tar", "resnet10_small", said)
        (folder / name / "status.json").write_text('{"state": "done"}')
    published = folder / "moco_v2_800ep_pretrain.pth.tar"
    _save_moco(published, "resnet18", {})
    convert(load_encoder(str(published)), folder / "r50.pth", "detectron2")
    transformer = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=2)
    torch.save(transformer.state_dict(), folder / "vit_small.pth")
    state = build_network("resnet18").state_dict()
    state = {f"model.trunk.{name}": tensor for name, tensor in state.items()}
    torch.save({"state_dict": state}, folder / "mine.ckpt")


def write_results(folder: Path) -> dict[str, str]:
    """Some of this project's own records, tables and pages' files, and the runs that pages name."""
    for name in (*SHOWN, "tables"):
        shutil.copytree(ROOT / "results" / name, folder / "results" / name)
    shutil.copytree(ROOT / "results" / SHOWN[0], folder / "other/results" / SHOWN[0])
    _write_a_papers_cell(folder / "results")
    (folder / "paper.toml").write_text(documented.written_out("docs/tables.md", "toml"))
    (folder / "suite.toml").write_text(documented.written_out("docs/suites.md", "toml"))
    one, other, *_ = sorted(path.name for path in (folder / "results" / SHOWN[0]).rglob("*.json"))
    return {"RUN": one, "OTHER": other}


def _write_a_papers_cell(results: Path) -> None:
    """As if MoCo v2 had been probed on ImageNet, which tables of papers have a place for."""
    path = min((results / "linear-lbfgs/digits/MoCo-v2").glob("*.json"))
    record = records.read(path)
    del record["name"]
    record["run_id"] = "00000000-0000-7000-8000-000000000000"
    record["protocol"] |= {"id": "linear-sgd", "recipe": "mocov2"}
    record["dataset"] |= {"id": "imagenet"}
    record_file.save(record, records.folder_of(record, results))


def _save(path: Path, label: int, seed: int, *, size: tuple[int, int] = (SIDE, SIDE)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.RandomState(seed).randint(-30, 31, (size[1], size[0], 3))
    pixels = np.clip(np.array(HUES[label]) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def _write_classes(folder: Path, classes: tuple[str, ...]) -> None:
    for part, number in (("train", NUM_TRAIN), ("val", NUM_TEST)):
        for label, name in enumerate(classes):
            for seed in range(number):
                _save(folder / part / name / f"{name}_{part}{seed}.JPEG", label, seed)


def _write_photos(data: Path) -> None:
    """COCO annotations of the first photos: a box each, of two classes by turns."""
    box = [8, 6, 20, 24]
    document = {
        "images": [
            {"id": n, "file_name": f"{n}.jpg", "width": SIDE, "height": SIDE} for n in range(10)
        ],
        "annotations": [
            {
                "id": n + 1,
                "image_id": n,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
                "segmentation": dense_layouts.polygon((8, 6, 28, 30)),
            }
            for n, category in ((n, 1 + n // 5) for n in range(10))
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    # Each class is on enough images that some of them are held out.
    document["annotations"] += [
        {**each, "id": 11 + n, "category_id": 3 - each["category_id"], "bbox": [4, 4, 12, 12]}
        for n, each in enumerate(document["annotations"])
    ]
    (data / "photos.json").write_text(json.dumps(document))


def _write_tables(data: Path) -> None:
    listed = sorted((data / "imagenet/train").rglob("*.JPEG"))
    (data / "imagenet-1percent.txt").write_text("".join(f"{path.name}\n" for path in listed))
    files = sorted((data / "flowers").rglob("*.JPEG"))
    rows = [(f"flowers/{f.relative_to(data / 'flowers')}", f.parent.name) for f in files]
    lines = [f"{path},{label},{path.split('/')[1]}" for path, label in rows]
    (data / "flowers.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    both = {"daisy": "red|warm", "rose": "blue", "tulip": "warm"}
    lines = [f"{path},{both[label]},{path.split('/')[1]}" for path, label in rows]
    (data / "scenes.csv").write_text("\n".join(["path,labels,split", *lines]) + "\n")


def _write_shards(data: Path) -> None:
    files = {
        **{f"in-{n:04d}.tar": range(6 * n, 6 * n + 6) for n in range(4)},
        **{f"train-{n:03d}.tar": range(6 * n, 6 * n + 6) for n in range(2)},
        "test.tar": range(3),
    }
    for name, numbers in files.items():
        with tarfile.open(data / name, "w") as shard:
            for number in numbers:
                _add(shard, f"{number:06d}.jpg", (data / f"photos/{number}.jpg").read_bytes())
                _add(shard, f"{number:06d}.cls", str(number % 3).encode())


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


def _write_aircraft(root: Path) -> None:
    variants = ("Boeing 707", "A300 B4")
    listed: dict[str, list[str]] = {}
    number = 0
    for part, count in (("train", 12), ("val", 4), ("test", 4)):
        for place in range(count):
            number += 1
            _save(root / f"images/{number:07d}.jpg", place % 2, number)
            listed.setdefault(part, []).append(f"{number:07d} {variants[place % 2]}")
    (root / "variants.txt").write_text("\n".join(variants) + "\n")
    for part, lines in listed.items():
        (root / f"images_variant_{part}.txt").write_text("\n".join(lines) + "\n")


def _write_pets(root: Path) -> None:
    (root / "annotations").mkdir(parents=True)
    number = 0
    for part, count in (("trainval", 12), ("test", 4)):
        lines = []
        for place in range(count):
            number += 1
            breed = ("Abyssinian", "pug")[place % 2]
            _save(root / f"images/{breed}_{number}.jpg", place % 2, number)
            lines.append(f"{breed}_{number} {1 + place % 2} 9 9\n")
        (root / f"annotations/{part}.txt").write_text("".join(lines))


def _write_voc(folder: Path) -> None:
    """Boxes of two years, and of 2007 which classes an image shows: by turns a cat and a dog."""
    parts = {
        "train": range(100, 112),
        "val": range(112, 116),
        "trainval": range(100, 116),
        "test": range(200, 204),
    }
    names = {part: [f"{n:06d}" for n in parts[part]] for part in ("trainval", "test")}
    dense_layouts.write_voc(folder, 2007, names)
    dense_layouts.write_voc(folder, 2012, {"trainval": ["2008_000001", "2008_000002"]})
    root = folder / "VOCdevkit/VOC2007"
    for part, numbers in parts.items():
        lists = {part: [f"{n:06d}\n" for n in numbers]}
        for place, kind in enumerate(("cat", "dog")):
            rows = [f"{n:06d} {1 if n % 2 == place else -1:2d}\n" for n in numbers]
            lists[f"{kind}_{part}"] = rows
        for name, lines in lists.items():
            (root / f"ImageSets/Main/{name}.txt").write_text("".join(lines))
        for n in numbers:
            size = (dense_layouts.WIDTH, dense_layouts.HEIGHT)
            _save(root / f"JPEGImages/{n:06d}.jpg", n % 2, n, size=size)


def _write_voc_masks(root: Path) -> None:
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    parts = {"train": ("t1",), "val": ("v1", "v2"), "train_aug": ("t1", "s1")}
    for part, names in parts.items():
        lines = "".join(f"{name}\n" for name in names)
        (root / f"ImageSets/Segmentation/{part}.txt").write_text(lines)
        folder = "SegmentationClassAug" if part == "train_aug" else "SegmentationClass"
        for seed, name in enumerate(names):
            _save(root / f"JPEGImages/{name}.jpg", seed, seed)
            _save_mask(root / folder / f"{name}.png", 3)


def _write_cityscapes(folder: Path) -> None:
    dense_layouts.write_cityscapes(folder)
    for path in (folder / "gtFine").rglob("*_instanceIds.png"):
        ids = np.asarray(Image.open(path))
        classes = np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)
        Image.fromarray(classes).save(path.with_name(path.name.replace("instanceIds", "labelIds")))


def _write_masks(folder: Path) -> None:
    for part in ("train", "val"):
        for seed, name in enumerate(("a", "b", "c")):
            _save(folder / f"{part}/images/{name}.jpg", seed, seed)
            _save_mask(folder / f"{part}/masks/{name}.png", 1)
    (folder / "classes.txt").write_text("ground\nthing\n")


def _save_mask(path: Path, label: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[8:30, 8:30] = label
    Image.fromarray(mask).save(path)


def _save_moco(path: Path, arch: str, said: dict[str, object]) -> None:
    """As ``moco-pretrain`` leaves it, with a projector for kNN on what it makes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    network = build_network(arch).eval()
    width = network(torch.zeros(1, 3, 32, 32)).shape[1]
    head = {
        "fc.0.weight": torch.randn(width, width) / width,
        "fc.0.bias": torch.zeros(width),
        "fc.2.weight": torch.randn(8, width) / width,
        "fc.2.bias": torch.zeros(8),
    }
    state = {f"module.encoder_q.{k}": v for k, v in {**network.state_dict(), **head}.items()}
    torch.save({"epoch": 1, "arch": arch, "state_dict": state, **said}, path)
