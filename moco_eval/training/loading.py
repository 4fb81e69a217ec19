"""A data set's batches from several worker processes, whose end is noticed and told."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from moco_eval.data.images import InputSpec, to_input
from moco_eval.errors import DataError, UsageError
from moco_eval.training.signals import STOP_SIGNALS, die_with_parent

# A worker that is silent for this long hangs: a network disk answers within it or not at all.
LOADER_TIMEOUT_S = 600

Index = TypeVar("Index")


class EvaluationCrops(Dataset[tuple[Tensor]]):
    """What an encoder takes of each image where it is judged: the test-time crop."""

    def __init__(self, images: Sequence[Image.Image], spec: InputSpec) -> None:
        self.images = images
        self.transform = to_input(spec)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor]:
        return (self.transform(self.images[index]),)


def load(
    images: Dataset[Any],
    order: Sampler[list[Index]],
    *,
    num_workers: int,
    device: str,
    collate: Callable[[list[Any]], Any] | None = None,
) -> Iterator[list[Any]]:
    """Batches in the sampler's order, each a list of what an item of ``images`` consists of.

    Args:
        images: Items are tuples of tensors.
        order: The indices of each batch.
        num_workers: Processes that load images; 0 loads them in this one.
        device: Where the batches will be put.
        collate: Makes a batch of items that are no tuples of tensors.

    Raises:
        DataError: If an image cannot be loaded, or a worker dies or hangs.
    """
    loader = DataLoader(
        images,
        batch_sampler=order,
        num_workers=num_workers,
        collate_fn=collate,
        # Not forkserver, Python's choice from 3.14 on: its workers die with the first signal.
        multiprocessing_context="fork" if num_workers else None,
        timeout=LOADER_TIMEOUT_S if num_workers else 0,
        worker_init_fn=_begin_worker,
        pin_memory=device == "cuda",
    )
    batches = iter(loader)
    atexit.register(_end_workers, getattr(batches, "_workers", ()))
    while True:
        try:
            with _noticing_dead_workers(num_workers):
                batch = next(batches)
        except StopIteration:
            return
        except (UsageError, RuntimeError) as error:
            raise _loading_failed(error) from error
        yield batch


@contextmanager
def _noticing_dead_workers(num_workers: int) -> Iterator[None]:
    """Raise within this block alone that a worker died.

    torch raises it wherever the program is when the signal comes: in the middle of a save, or of a
    collective, where it would pass for the death of a rank.
    """
    # Signals are the main thread's.
    if num_workers == 0 or threading.current_thread() is not threading.main_thread():
        yield
        return

    def notice(*_: object) -> None:
        torch._C._error_if_any_worker_fails()

    signal.signal(signal.SIGCHLD, notice)
    try:
        notice()
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _begin_worker(worker: int) -> None:
    """A signal to the whole process group is for the training process, which then needs us."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()
    multiprocessing.current_process().name = f"loader worker {worker}"


def _end_workers(workers: Sequence[BaseProcess]) -> None:
    """Python would ask workers to stop, which they leave to us, and then wait for them for ever."""
    for worker in workers:
        worker.kill()


def _loading_failed(error: Exception) -> UsageError:
    # torch puts the worker's whole traceback into the message; its last line is the error's own.
    # Of a worker that died it may say no more than that, and name the signal in the cause.
    told = error.__cause__ if isinstance(error.__cause__, RuntimeError) else error
    said = str(told).strip().splitlines()[-1]
    if isinstance(error, UsageError):
        return type(error)(said.removeprefix(f"{type(error).__module__}.{type(error).__name__}: "))
    advice = ""
    if "DataLoader worker" in said:
        advice = " The system kills one when memory runs out: try fewer --workers."
    return DataError(f"Loading images failed: {said.rstrip('. ')}.{advice}")
