"""One thread a process: small tensors gain nothing from more, and a busy machine loses much."""

import os

import pytest
import torch

from moco_eval.engines import has_detectron2

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs Detectron2 where it is absent."""
    if has_detectron2():
        return
    absent = pytest.mark.skip(reason="Detectron2 is not installed")
    for item in items:
        if item.get_closest_marker("detectron2"):
            item.add_marker(absent)
