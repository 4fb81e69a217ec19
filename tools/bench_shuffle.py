"""Measure what shuffling BN costs a step: images sent once, against the whole batch gathered.

OMP_NUM_THREADS=1 python tools/bench_shuffle.py [--ranks 2 4] [--rounds 20] [--json FILE]

Processes of this machine meet over gloo; each holds 32 images of 224 pixels in single precision.
``sent`` is ``pretrain.shuffle``. ``gathered`` is the procedure of facebookresearch/moco, commit
7397dfe, in words of our own; ``lean`` is the same gather without the copies that it could spare.
Each way gets the images in its program's layout: ours lie channels last.
A step shuffles the images, brings the keys back into order and hands them all to the queue.
The ways take turns. Seconds and ratios are medians over rounds; bytes are those that one rank
received from the others; memory is the resident set's peak during a step above its start.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from moco_eval import distributed
from moco_eval.data.sampler import keyed_generator
from pretrain import shuffle

DIM = 128
MIB = 2**20


def sent(images: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Ours: the shuffled images of this rank, and all keys in the order of the batch."""
    permutation = drawn(images, step)
    share = shuffle.shuffled_share(images, permutation)
    return share, shuffle.restored(embedded(share), permutation)


def gathered(images: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """The original's: every rank holds everything, and keeps what it needs of it."""
    everything = in_prepared_parts(images)
    permutation = drawn(images, step)
    dist.broadcast(permutation, src=0)
    share = everything[own(permutation)]
    keys = in_prepared_parts(embedded(share))[own(permutation.argsort())]
    return share, in_prepared_parts(keys)


def lean(images: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """A gather at its best: into one tensor, and the keys once."""
    permutation = drawn(images, step)
    share = distributed.gather(images)[own(permutation)]
    return share, shuffle.restored(embedded(share), permutation)


WAYS: dict[str, Callable[[Tensor, int], tuple[Tensor, Tensor]]] = {
    "sent": sent,
    "gathered": gathered,
    "lean": lean,
}


def drawn(images: Tensor, step: int) -> Tensor:
    """The shuffle of the whole batch, which its key alone decides."""
    size = len(images) * distributed.world_size()
    return torch.randperm(size, generator=keyed_generator(0, step))


def own(places: Tensor) -> Tensor:
    """This rank's row of what concerns the whole batch."""
    return places.view(distributed.world_size(), -1)[distributed.rank()]


def embedded(images: Tensor) -> Tensor:
    """What stands for the encoder: it must cost nothing, and tell one image from another."""
    return images[:, 0, 0, :DIM].contiguous()


def in_prepared_parts(tensor: Tensor) -> Tensor:
    """All ranks' tensors: gathered into a list that was filled before, then put together."""
    parts = [torch.ones_like(tensor) for _ in range(distributed.world_size())]
    dist.all_gather(parts, tensor)
    return torch.cat(parts)


@contextmanager
def counted() -> Iterator[list[int]]:
    """Bytes that each collective of the block brought this rank from others, by its arguments."""
    brought: list[int] = []
    rank, num_others = distributed.rank(), distributed.world_size() - 1

    def size_of_exchange(output: Tensor, _: Tensor, received: list[int], __: list[int]) -> int:
        return output.nbytes * (sum(received) - received[rank]) // max(1, sum(received))

    sizes: dict[str, Callable[..., int]] = {
        "all_to_all_single": size_of_exchange,
        "all_gather": lambda _, tensor: tensor.nbytes * num_others,
        distributed.ALL_GATHER: lambda _, tensor: tensor.nbytes * num_others,
        "broadcast": lambda tensor, src: tensor.nbytes * (rank != src),
    }

    def counting(name: str) -> Callable[..., Any]:
        real = getattr(dist, name)

        def collective(*arguments: Any, **named: Any) -> Any:
            brought.append(sizes[name](*arguments, **named))
            return real(*arguments, **named)

        return collective

    with ExitStack() as patched:
        for name in sizes:
            patched.enter_context(mock.patch.object(dist, name, counting(name)))
        yield brought


def peak_extra_bytes(work: Callable[[], object]) -> int | None:
    """How far the resident set rises during ``work``; None where the system does not tell."""
    forget = Path("/proc/self/clear_refs")
    if not forget.exists():
        return None
    # What earlier steps freed goes back to the system, or it would be taken again unseen.
    ctypes.CDLL(None).malloc_trim(0)
    forget.write_text("5")
    before = resident_bytes("VmRSS")
    work()
    return resident_bytes("VmHWM") - before


def resident_bytes(field: str) -> int:
    """A field of the kernel's account of this process."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    assert found, f"/proc/self/status has no {field}"
    return 1024 * int(found[1])


def timed_s(work: Callable[[], object]) -> float:
    """Seconds from a moment when all ranks are ready to one when all are done."""
    dist.barrier()
    start_s = time.perf_counter()
    work()
    dist.barrier()
    return time.perf_counter() - start_s


def measure(images: Tensor, rounds: int) -> dict[str, float]:
    """One rank's figures of every way, after a round that checks that all ways agree."""
    inputs = dict.fromkeys(WAYS, images)
    inputs["sent"] = images.to(memory_format=torch.channels_last)
    share, keys = sent(images, 0)
    for name, way in WAYS.items():
        other_share, other_keys = way(inputs[name], 0)
        assert torch.equal(share, other_share), f"{way.__name__} shuffles otherwise"
        assert torch.equal(keys, other_keys), f"{way.__name__} restores otherwise"
    del share, keys, other_share, other_keys

    figures: dict[str, float] = {}
    for name, way in WAYS.items():
        # The permutation decides how much is sent: a mean over as many as there are rounds.
        with counted() as brought:
            for step in range(rounds):
                way(inputs[name], step)
        figures[f"{name}_bytes"] = sum(brought) / rounds
        peak = peak_extra_bytes(partial(way, inputs[name], 0))
        if peak is not None:
            figures[f"{name}_peak_extra_bytes"] = peak

    spent_s: dict[str, list[float]] = {name: [] for name in WAYS}
    for step in range(rounds):
        for name, way in WAYS.items():
            spent_s[name].append(timed_s(partial(way, inputs[name], step)))
    for name, seconds in spent_s.items():
        figures[f"{name}_s"] = statistics.median(seconds)
        # Each round's own ratio, so that a machine that slows down slows both of its sides.
        ratios = [s / ours_s for s, ours_s in zip(seconds, spent_s["sent"], strict=True)]
        figures[f"{name}_ratio"] = statistics.median(ratios)
    return figures


def work_on_rank(
    rank: int, world_size: int, port: int, options: argparse.Namespace, answers: Any
) -> None:
    """One process: measure, and let rank 0 tell the mean over ranks."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    shape = (options.images, 3, options.size, options.size)
    with distributed.ranks("cpu"):
        images = torch.rand(shape, generator=keyed_generator(rank))
        figures = measure(images, options.rounds)
        values = distributed.total(torch.tensor(list(figures.values()), dtype=torch.float64))
        if rank == 0:
            answers.put(dict(zip(figures, (values / world_size).tolist(), strict=True)))


def on_ranks(world_size: int, options: argparse.Namespace) -> dict[str, float]:
    """The figures of ``world_size`` processes of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answers = get_context("spawn").SimpleQueue()
    spawn(work_on_rank, (world_size, port, options, answers), world_size)  # type: ignore[no-untyped-call]
    figures: dict[str, float] = answers.get()
    return figures


def main() -> None:
    """Measure, print a table and, if asked, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--images", type=int, default=32, help="of each rank")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    numbers: dict[str, float] = {}
    print(f"{'ranks':>5} {'way':10} {'ms':>7} {'ratio':>6} {'MiB received':>13} {'MiB extra':>10}")
    for world_size in options.ranks:
        figures = on_ranks(world_size, options)
        numbers |= {f"ranks_{world_size}_{name}": value for name, value in figures.items()}
        for name in WAYS:
            extra = figures.get(f"{name}_peak_extra_bytes")
            print(
                f"{world_size:5} {name:10} {1e3 * figures[f'{name}_s']:7.1f} "
                f"{figures[f'{name}_ratio']:6.2f} {figures[f'{name}_bytes'] / MIB:13.2f} "
                f"{'-' if extra is None else f'{extra / MIB:.1f}':>10}"
            )
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
