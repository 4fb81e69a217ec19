"""What the tests of data share. Index files go where the tests' other files go."""

import io

import miniatures
import numpy as np
import pytest
from PIL import Image

from moco_eval.data import facts


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MOCO_EVAL_CACHE", str(folder))
    return folder


@pytest.fixture
def encode():
    """The bytes of an image of one grey value, or of noise."""

    def encoded(value=None, suffix="PNG", size=(24, 16)):
        noise = np.random.RandomState(0).randint(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        pixels = noise if value is None else np.full_like(noise, value)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, suffix)
        return file.getvalue()

    return encoded


@pytest.fixture
def published(monkeypatch):
    """Make the counts of a set those of its miniature; nothing else of its facts changes."""

    def shrink(name, num_train, num_test, num_classes=2, num_val=0):
        counts = {"num_train": num_train, "num_val": num_val, "num_test": num_test}
        miniatures.shrink(monkeypatch, facts.DATASETS, name, num_classes=num_classes, **counts)

    return shrink


@pytest.fixture
def put(tmp_path, encode):
    """``put(path, grey value)`` or ``put(path, text)``: a file under ``tmp_path``."""

    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else encode(content))

    return write
