"""What all tests share.

One thread a process: small tensors gain nothing from more, and a busy machine loses much.
"""

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch

from moco_eval import distributed
from moco_eval.engines import has_detectron2

RANKS_TIMEOUT_S = 60

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


def _run(rank, world_size, port, work, arguments, answers):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        with distributed.ranks("cpu", timeout_s=RANKS_TIMEOUT_S):
            answers.put((rank, True, pickle.dumps(work(*arguments))))
    except BaseException:
        answers.put((rank, False, traceback.format_exc()))
        raise


@pytest.fixture
def on_ranks() -> Callable[..., list[Any]]:
    """``on_ranks(world_size, work, *arguments)``: what ``work`` returned on each rank."""

    def run(world_size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()
        processes = [
            context.Process(target=_run, args=(rank, world_size, port, work, arguments, answers))
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        told = {}
        for _ in processes:
            rank, is_good, answer = answers.get()
            assert is_good, f"rank {rank}: {answer}"
            told[rank] = pickle.loads(answer)
        for process in processes:
            process.join(RANKS_TIMEOUT_S)
        return [told[rank] for rank in range(world_size)]

    return run
