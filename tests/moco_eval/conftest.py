"""Tiny detection data and encoders, for the tests of data, engines and dense protocols."""

import contextlib
import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moco_eval import records
from moco_eval.data.images import DIGITS_INPUT
from moco_eval.encoders.encoder import Encoder, Manifest
from moco_eval.encoders.networks import build_network
from moco_eval.engines.recipes import RECIPES


def rectangle(left, top, width, height):
    """A polygon around whole pixels."""
    right, bottom = left + width, top + height
    return [[left, top, right, top, right, bottom, left, bottom]]


def annotation(image_id, box, category=3, **more):
    return {
        "image_id": image_id,
        "category_id": category,
        "bbox": list(box),
        "area": box[2] * box[3],
        "iscrowd": 0,
        "segmentation": rectangle(*box),
    } | more


def write_coco_json(path, num_images, annotations, *, size=(64, 48)):
    """A COCO json of images 1.png, 2.png ... of two classes whose numbers leave a gap."""
    document = {
        "images": [
            {"id": n, "file_name": f"{n}.png", "width": size[0], "height": size[1]}
            for n in range(1, num_images + 1)
        ],
        "annotations": [{"id": n, **each} for n, each in enumerate(annotations, start=1)],
        "categories": [{"id": 7, "name": "late"}, {"id": 3, "name": "early"}],
    }
    path.write_text(json.dumps(document))
    return document


def write_images(folder, num_images, *, size=(64, 48)):
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.RandomState(0)
    for number in range(1, num_images + 1):
        pixels = draw.randint(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.fixture
def coco_folder(tmp_path):
    """Ten noisy images with a rectangle of each class in ``images``, and ``all.json``."""
    write_images(tmp_path / "images", 10)
    objects = [annotation(n, (4 + n, 5, 20, 24)) for n in range(1, 11)]
    objects += [annotation(n, (36, 10 + n, 16, 20), category=7) for n in range(1, 11)]
    write_coco_json(tmp_path / "all.json", 10, objects)
    return tmp_path


@pytest.fixture
def tiny_data(coco_folder):
    from moco_eval.data.coco import open_coco

    half = f"{coco_folder / 'images'}:{coco_folder / 'all.json'}"
    return open_coco(f"{half}:{half}")


@pytest.fixture
def tiny_recipe():
    """A few updates on the images as they are; the learning rate shows in every weight."""
    return dataclasses.replace(
        RECIPES["digits-c4"],
        num_iterations=3,
        batch_total=2,
        warmup_iterations=1,
        lr_drops=(),
        short_sides_train=(48,),
        short_side_test=48,
        anchor_sizes=(16, 32, 64),
        roi_batch=8,
        rpn_batch=16,
        rpn_post_nms=(20, 20),
        precise_bn_batches=2,
    )


@pytest.fixture
def make_encoder():
    """An encoder of random weights whose BatchNorm has statistics of its own."""

    def make(arch="resnet10_small", spec=DIGITS_INPUT):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            network = build_network(arch)
            network.train()(torch.randn(8, 3, 32, 32))
        manifest = Manifest(
            source=arch, format="test", tower="", arch=arch, input=spec, num_loaded=0
        )
        return Encoder(network, manifest)

    return make


@pytest.fixture(scope="session")
def knn_run():
    """The identity of a run that no encoder was needed for."""
    return records.Run(
        encoder_id="MoCo v2",
        encoder={"tensor_sha256": "aa", "num_params": 7, "source": "mocov2.pth.tar"},
        protocol="knn",
        version=1,
        recipe="knn-20",
        config={"k": 20},
        deviations={},
        dataset={"id": "digits", "num_train": 1437, "num_test": 360, "fingerprint": "f0"},
        seed=0,
    )


@pytest.fixture
def write_record(knn_run):
    """Write a record of one image classifier, changed as told; returns its path."""

    def write(results, *, top1=97.5, status="ok", supersedes=None, **changes):
        outcome = records.Outcome(
            metrics={"top1": top1, "top5": 99.0}, num_test=360, details={"curve": [1.0, 2.0]}
        )
        return records.write(
            dataclasses.replace(knn_run, **changes),
            results,
            status=status,
            outcome=outcome if status == "ok" else None,
            error=None if status == "ok" else "it was so",
            environment={"package": "0.1.0"},
            time={"wall_s": 1.5},
            supersedes=supersedes,
        )

    return write


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """For the length of a block nobody may write into a folder below ``tmp_path``.

    Root may write anywhere, so the block is nobody's where the tests are root's. The working folder
    is ``tmp_path``: paths of the test are relative, as those above are closed to others.
    """
    monkeypatch.chdir(tmp_path)

    @contextlib.contextmanager
    def without_writing(folder):
        tmp_path.chmod(0o755)
        folders = [Path(folder), *(p for p in Path(folder).rglob("*") if p.is_dir())]
        for path in folders:
            path.chmod(0o555)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(65534)
        try:
            yield
        finally:
            if is_root:
                os.seteuid(0)
            for path in folders:
                path.chmod(0o755)

    return without_writing
