"""Measure the extraction of features against the loop that people write.

python tools/bench_features.py [--arch resnet50] [--size 224] [--batch 32] [--rounds 5] [--compile]
                               [--device cpu] [--threads 1] [--json FILE]

The plain loop is the network in eval mode, in fp32, on batches of normalised images as a loader
stacks them. Ours gets the same tensors; what it does to them is part of its time. All ways run by
turns in one process. On the CPU the process's own time counts, so that a busy machine tells the
same; on a GPU, time until the device is done. The features must agree: within 1e-5 of the plain
loop's length in fp32, 1e-2 in bf16, for batches of any size.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.load import load_encoder
from moco_eval.extraction import Extractor, Precision

WITHIN: dict[Precision, float] = {"fp32": 1e-5, "bf16": 1e-2}

Way = Callable[[Tensor], Tensor]


def main() -> None:
    """Measure, print and, if asked, write the numbers."""
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    encoder = _encoder(options)
    images = torch.randn(options.batch, 3, options.size, options.size, device=options.device)
    ours = _ours(encoder, with_compiled=options.compile)
    plain_s: list[float] = []
    seconds: dict[str, list[float]] = {name: [] for name in ours}
    errors: dict[str, float] = {}
    for number in range(-1, options.rounds):
        plain, once_s = _timed(lambda batch: _plain(encoder, batch), images)
        plain_s.append(once_s)
        for name, way in ours.items():
            _, once_s = _timed(way, images)
            seconds[name].append(once_s)
            if number < 0:
                errors[name] = _require_agreement(name, way, images, plain)

    # The first of all rounds compiles and warms.
    numbers = {"plain_images_per_s": options.batch / median(plain_s[1:])}
    print(f"{options.arch} at {options.size} on {options.device}, batch {options.batch}")
    print(f"plain fp32     {numbers['plain_images_per_s']:8.1f} images/s")
    for name in ours:
        ratio = median(p / s for p, s in zip(plain_s[1:], seconds[name][1:], strict=True))
        numbers[f"{name}_images_per_s"] = options.batch / median(seconds[name][1:])
        numbers[f"{name}_ratio"] = ratio
        numbers[f"{name}_error"] = errors[name]
        print(
            f"{name.replace('_', ' '):14} {numbers[f'{name}_images_per_s']:8.1f} images/s, "
            f"{ratio:.2f} times plain; features off by {numbers[f'{name}_error']:.1e}"
        )
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="measure compiled copies, too")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _encoder(options: argparse.Namespace) -> Encoder:
    """Random weights, with statistics in each BatchNorm that are those of some images."""
    encoder = load_encoder(f"random:{options.arch}")
    with torch.no_grad():
        encoder.network.train()(torch.randn(8, 3, options.size, options.size))
    encoder.network.eval().to(options.device)
    return encoder


def _ours(encoder: Encoder, *, with_compiled: bool) -> dict[str, Way]:
    ways: dict[str, Way] = {}
    for compiled in (False, True) if with_compiled else (False,):
        for precision in WITHIN:
            name = f"{precision}_compiled" if compiled else precision
            ways[name] = _pooled(Extractor(encoder, precision, compiled))
    return ways


def _pooled(extractor: Extractor) -> Way:
    return lambda images: extractor(images)["pooled"]


def _plain(encoder: Encoder, images: Tensor) -> Tensor:
    with torch.no_grad():
        features: Tensor = encoder.network(images)
    return features


def _timed(way: Way, images: Tensor) -> tuple[Tensor, float]:
    clock = time.perf_counter if images.is_cuda else time.process_time
    begun_s = clock()
    features = way(images)
    if images.is_cuda:
        torch.cuda.synchronize()
    return features, clock() - begun_s


def _require_agreement(name: str, way: Way, images: Tensor, plain: Tensor) -> float:
    """The greatest error, over batches of several sizes."""
    within = WITHIN["bf16" if name.startswith("bf16") else "fp32"]
    sizes = sorted({1, min(7, len(images)), len(images)})
    errors = {size: _error(way(images[:size]), plain[:size]) for size in sizes}
    assert max(errors.values()) < within, f"{name}: features are off, by batch size: {errors}"
    return max(errors.values())


def _error(found: Tensor, expected: Tensor) -> float:
    """The greatest distance between two features of an image, of the feature's length."""
    distance = (found - expected).norm(dim=1) / expected.norm(dim=1)
    return distance.max().item()


if __name__ == "__main__":
    main()
