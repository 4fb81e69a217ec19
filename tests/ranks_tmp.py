"""Several ranks in one test: forked processes that meet over gloo."""

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from moco_eval import distributed

RANKS_TIMEOUT_S = 60


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
