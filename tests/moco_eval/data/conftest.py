"""Index files of the tests go where the tests' other files go."""

import io

import numpy as np
import pytest
from PIL import Image


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
