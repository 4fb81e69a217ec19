"""Measure a step of pretraining, and within it the key encoder's update.

OMP_NUM_THREADS=1 python tools/bench_step.py [--rounds 10] [--json FILE]
python tools/bench_step.py --device cuda --batch 256 --size 224 --precision bf16 --compile

``ours`` is ``pretrain.moco`` as ``pretrain.train`` runs it. ``original`` is the procedure of
facebookresearch/moco, commit 7397dfe, in words of our own, around equal encoders: one parameter
updated after the other, the queue cloned in every forward pass, keys gathered twice, and torch's
DistributedDataParallel, which copies all buffers together before a pass and all gradients after
it. It runs once in its own layout of images and weights, and once in ours (channels last), which
leaves the procedure as the only difference. ``encoders`` is what no procedure can do without:
queries forward and backward, keys forward, and SGD. All take turns; medians over rounds count.
There is one process, so nothing travels: what that costs is told by tools/bench_shuffle.py.
"""

from __future__ import annotations

import argparse
import copy
import json
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from moco_eval.optim import build_optimizer, parameters_of
from moco_eval.training.update import PRECISIONS
from pretrain.moco import MoCo, follow, unit

# Returns the loss and the queue.
Step = Callable[[], tuple[Tensor, Tensor]]

QUEUE_SIZE = 65536
KEY_MOMENTUM = 0.999
TEMPERATURE = 0.2
# So low that what rounds otherwise does not grow from step to step, and the ways can be compared.
LR = 1e-5


class Original(nn.Module):
    """The original's forward pass over one of our models, whose parts bear the same names."""

    def __init__(self, model: MoCo) -> None:
        super().__init__()
        self.model = model

    def forward(self, im_q: Tensor, im_k: Tensor) -> tuple[Tensor, Tensor]:
        model = self.model
        queries = F.normalize(model.encoder_q(im_q), dim=1)
        with torch.no_grad():
            update_one_by_one(model.encoder_k, model.encoder_q)
            images = everything(im_k)
            permutation = torch.randperm(len(images), device=im_k.device)
            dist.broadcast(permutation, src=0)
            keys = F.normalize(model.encoder_k(images[permutation]), dim=1)
            keys = everything(keys)[permutation.argsort()]
        positives = torch.einsum("nc,nc->n", queries, keys).unsqueeze(1)
        negatives = torch.einsum("nc,ck->nk", queries, model.queue.clone().detach())
        logits = torch.cat([positives, negatives], dim=1) / model.temperature
        model.enqueue(everything(keys))
        return logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device)


def everything(tensor: Tensor) -> Tensor:
    """All ranks' tensors, gathered into a list that was filled before, then put together."""
    parts = [torch.ones_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor)
    return torch.cat(parts)


def update_one_by_one(follower: nn.Module, leader: nn.Module) -> None:
    """The original's update of the key encoder."""
    for k, q in zip(follower.parameters(), leader.parameters(), strict=True):
        k.data = k.data * KEY_MOMENTUM + q.data * (1 - KEY_MOMENTUM)


def update_by_lerp(follower: nn.Module, leader: nn.Module) -> None:
    """One pass over memory, at the price of a last digit other than the original's."""
    followers: list[Tensor] = list(follower.parameters())
    leaders: list[Tensor] = list(leader.parameters())
    with torch.no_grad():
        torch._foreach_lerp_(followers, leaders, 1 - KEY_MOMENTUM)


@contextmanager
def lone_rank(device: str) -> Iterator[None]:
    """A group of this process alone, which DistributedDataParallel insists on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=address, rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def steps_of(options: argparse.Namespace) -> dict[str, Step]:
    """One step of every contestant, each with encoders and SGD of its own that begin alike."""
    begun = MoCo(options.arch, 128, QUEUE_SIZE, KEY_MOMENTUM, TEMPERATURE, mlp=True)
    shape = (options.batch, 3, options.size, options.size)
    views = [torch.randn(shape, device=options.device) for _ in range(2)]

    def prepared(layout: torch.memory_format) -> tuple[MoCo, list[Tensor]]:
        model = copy.deepcopy(begun).to(options.device).to(memory_format=layout)
        if options.compile:
            model.encoder_q.compile()
            model.encoder_k.compile()
        return model, [view.to(memory_format=layout) for view in views]

    def contestant(name: str) -> Step:
        own = torch.contiguous_format if name == "original" else torch.channels_last
        model, images = prepared(own)
        optimizer = build_optimizer("sgd", parameters_of(model), lr=LR, weight_decay=1e-4)
        network: nn.Module = model
        if name.startswith("original"):
            network = DistributedDataParallel(Original(model))

        def step() -> tuple[Tensor, Tensor]:
            precision = PRECISIONS[options.precision]
            optimizer.zero_grad()
            with torch.autocast(options.device, precision, enabled=precision != torch.float32):
                if name == "encoders":
                    loss = of_encoders_alone(model, *images)
                else:
                    loss = F.cross_entropy(*network(*images))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            return loss.detach(), model.queue

        return step

    return {n: contestant(n) for n in ("ours", "original", "original_channels_last", "encoders")}


def require_agreement(steps: dict[str, Step], tolerance: float) -> None:
    """Two steps of each, to warm up: their loss and queue must then be the same."""
    for step in steps.values():
        step()
    (loss, queue), *others = (steps[n]() for n in ("ours", "original", "original_channels_last"))
    for their_loss, their_queue in others:
        torch.testing.assert_close(their_loss, loss, rtol=tolerance, atol=0)
        torch.testing.assert_close(their_queue, queue, rtol=0, atol=tolerance)


def of_encoders_alone(model: MoCo, im_q: Tensor, im_k: Tensor) -> Tensor:
    """A loss that costs nothing beside the two passes that it needs."""
    with torch.no_grad():
        model.encoder_k(im_k)
    return unit(model.encoder_q(im_q)).mean()


def measured_updates(options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of the key encoder's update in three ways, each on a key encoder of its own."""
    query, key = (
        MoCo(options.arch, 128, 1, mlp=True)
        .encoder_q.to(options.device)
        .to(memory_format=torch.channels_last)
        for _ in range(2)
    )
    ways: dict[str, Callable[[nn.Module, nn.Module], None]] = {
        "ours": partial(follow, momentum=KEY_MOMENTUM),
        "original": update_one_by_one,
        "lerp": update_by_lerp,
    }
    keys = {name: copy.deepcopy(key) for name in ways}
    contestants = {name: partial(update, keys[name], query) for name, update in ways.items()}
    seconds = spent_s(contestants, 3 * options.rounds, options.device)
    both = zip(keys["ours"].parameters(), keys["original"].parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in both), "our update rounds otherwise"
    return seconds


def spent_s(
    contestants: Mapping[str, Callable[[], object]], rounds: int, device: str
) -> dict[str, list[float]]:
    """Seconds of each contestant in every round; a first round warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(-1, rounds):
        for name, work in contestants.items():
            wait_for(device)
            start_s = time.perf_counter()
            work()
            wait_for(device)
            if number >= 0:
                seconds[name].append(time.perf_counter() - start_s)
    return seconds


def wait_for(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def medians(seconds: dict[str, list[float]], prefix: str) -> dict[str, float]:
    """Median seconds, and how many times ours each of the others takes.

    A ratio is the median of each round's own, so that a machine that slows down slows both sides.
    """
    figures = {}
    for name, taken_s in seconds.items():
        ratios = [s / ours_s for s, ours_s in zip(taken_s, seconds["ours"], strict=True)]
        figures[f"{prefix}_{name}_s"] = statistics.median(taken_s)
        figures[f"{prefix}_{name}_ratio"] = statistics.median(ratios)
    return figures


def main() -> None:
    """Measure, print a table and, if asked, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    # Before the steps, whose models take memory and caches.
    torch.manual_seed(0)
    updates = measured_updates(options)
    with lone_rank(options.device):
        contestants = steps_of(options)
        require_agreement(contestants, 1e-3 if options.precision == "fp32" else 5e-2)
        steps = spent_s(contestants, options.rounds, options.device)
    numbers = medians(updates, "update") | medians(steps, "step")
    numbers["images_per_s"] = options.batch / numbers["step_ours_s"]
    numbers["share_beside_encoders"] = 1 - numbers["step_encoders_ratio"]

    print(f"{'':6} {'way':22} {'ms':>8} {'ratio':>6}")
    for kind, seconds in (("update", updates), ("step", steps)):
        for name in seconds:
            ms, ratio = 1e3 * numbers[f"{kind}_{name}_s"], numbers[f"{kind}_{name}_ratio"]
            print(f"{kind:6} {name:22} {ms:8.1f} {ratio:6.2f}")
    print(f"{numbers['images_per_s']:.1f} images/s; beside the encoders: ", end="")
    print(f"{100 * numbers['share_beside_encoders']:.1f} % of our step")
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
