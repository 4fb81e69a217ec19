"""Tiny segmentation data, and recipes of a few updates."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from moco_eval.data.semantic import SemanticData, open_masks
from moco_eval.semantic.recipe import RECIPES


@pytest.fixture
def own_data(tmp_path) -> SemanticData:
    """Six training and three test images of 40x30 pixels: bright squares on dark ground."""
    root = tmp_path / "own"
    draw = np.random.RandomState(0)
    for part, count in (("train", 6), ("val", 3)):
        for folder in ("images", "masks"):
            (root / part / folder).mkdir(parents=True)
        for number in range(count):
            labels = np.zeros((30, 40), dtype=np.uint8)
            top, left = draw.randint(0, 14), draw.randint(0, 24)
            labels[top : top + 16, left : left + 16] = 1 + number % 2
            labels[0] = 255
            pixels = 60 * labels.clip(0, 2)[..., None] + draw.randint(0, 60, (30, 40, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"{part}/images/{number}.png")
            Image.fromarray(labels).save(root / f"{part}/masks/{number}.png")
    (root / "classes.txt").write_text("ground\nsquare\nbright square\n")
    return open_masks(str(root))


@pytest.fixture
def few_updates():
    """A recipe by its name, for tiny images and a few updates."""

    def few(name="digits-fcn", **changes):
        small = {
            "num_iterations": 4,
            "batch_total": 2,
            "lr_drops": (3,),
            "warmup_iterations": 1,
            "crop": 33,
            "head_channels": 8,
        }
        return dataclasses.replace(RECIPES[name], **{**small, **changes})

    return few
