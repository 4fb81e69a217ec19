"""Measure the linear probe's ways beside the loop of the original main_lincls, in one run.

python tools/bench_linear.py [--encoder FILE] [--epochs 60] [--rounds 3] [--json FILE]

On the embedded digits: a grid of 40 heads against one head; L-BFGS on features that were computed
before against the recipe sgd-digits; and both beside the original's way, which is written out
below: the encoder in eval mode, torchvision's augmentation, SGD on one layer, and a forward pass of
all training and all test images in every epoch. Without --encoder, MoCo v2 is pretrained on the
digits first, shortly. The process's own time on one thread counts, so that a busy machine tells
the same.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from moco_eval import linear
from moco_eval.data.catalog import ImageData, open_images
from moco_eval.data.images import to_input
from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.load import load_encoder
from pretrain import recipes
from pretrain.train import Options, train

SGD = linear.RECIPES["sgd-digits"]
GRID = linear.RECIPES["grid-digits"]
# Of the original's loop, which has no BatchNorm before its layer: what suits features of norm 8.
LINCLS_LR = 0.3


def pretrained(folder: Path) -> str:
    """A checkpoint of a few epochs of MoCo v2 on the digits."""
    recipe = replace(recipes.RECIPES["mocov2-digits"], epochs=8)
    data = open_images("digits")
    path = train(recipe, data, name="mocov2-digits", output=folder, seed=0, options=Options())
    return str(path)


class Transformed(Dataset[tuple[torch.Tensor, int]]):
    """Images through a torchvision transform, with their labels."""

    def __init__(self, split: Any, transform: Callable[[Any], torch.Tensor]) -> None:
        self.split = split
        self.transform = transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.split.images[index].convert("RGB")), self.split.labels[index]


def main_lincls(encoder: Encoder, data: ImageData, epochs: int) -> float:
    """The original's loop, with sgd-digits' crop and batch; the last epoch's top-1."""
    spec = encoder.input
    augment = v2.Compose(
        [
            v2.RandomResizedCrop(spec.size, SGD.crop_scale),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(spec.mean), list(spec.std)),
        ]
    )
    torch.manual_seed(0)
    train_loader = DataLoader(Transformed(data.train, augment), SGD.batch_total, shuffle=True)
    test_loader = DataLoader(Transformed(data.test, to_input(spec)), SGD.batch_total)
    model = encoder.network.eval()
    with torch.no_grad():
        dim = model(next(iter(test_loader))[0]).shape[1]
    fc = nn.Linear(dim, len(data.classes))
    nn.init.normal_(fc.weight, std=0.01)
    nn.init.zeros_(fc.bias)
    optimizer = torch.optim.SGD(fc.parameters(), LINCLS_LR, momentum=0.9)
    drops = torch.optim.lr_scheduler.MultiStepLR(optimizer, [6 * epochs // 10, 8 * epochs // 10])
    top1 = 0.0
    for _ in range(epochs):
        for images, labels in train_loader:
            with torch.no_grad():
                features = model(images)
            loss = nn.functional.cross_entropy(fc(features), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        drops.step()
        with torch.no_grad():
            hits = sum((fc(model(x)).argmax(1) == y).sum().item() for x, y in test_loader)
        top1 = 100 * hits / len(data.test)
    return top1


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """The process's seconds in ``action``, and what it returned; what it prints is not shown."""
    begun_s = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        returned = action()
    return time.process_time() - begun_s, returned


def main() -> None:
    """Measure, print and, if asked, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="", help="a checkpoint or another specification")
    parser.add_argument("--epochs", type=int, default=SGD.epochs, help="of sgd and main_lincls")
    parser.add_argument("--rounds", type=int, default=3, help="of the grid against one head")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)

    data = open_images("digits")
    with tempfile.TemporaryDirectory() as folder:
        encoder = load_encoder(options.encoder or timed(lambda: pretrained(Path(folder)))[1])

    def probe(recipe: linear.Recipe) -> tuple[float, dict[str, float]]:
        seconds, outcome = timed(
            lambda: linear.evaluate(encoder, recipe, data, seed=0, work_dir=Path())
        )
        return seconds, outcome.metrics

    # The first of each imports, and computes the features of test-time crops.
    short = replace(GRID, epochs=5)
    single = replace(short, lrs=short.lrs[4:5], weight_decays=(0.0,), batch_norms=(True,))
    probe(replace(single, epochs=1))
    probe(linear.RECIPES["lbfgs"])

    rounds = [(probe(short)[0], probe(single)[0]) for _ in range(options.rounds)]
    grid_ratio = statistics.median(many / one for many, one in rounds)
    sgd_s, sgd = probe(replace(SGD, epochs=options.epochs))
    lbfgs_s, lbfgs = min(
        (probe(linear.RECIPES["lbfgs"]) for _ in range(options.rounds)), key=lambda run: run[0]
    )
    ridge_s, ridge = probe(linear.RECIPES["ridge"])
    plain_s, plain_top1 = timed(lambda: main_lincls(encoder, data, options.epochs))

    num_heads = len(GRID.lrs) * len(GRID.weight_decays) * len(GRID.batch_norms)
    print(f"grid of {num_heads} heads: {grid_ratio:.2f} of one head's time (asked: at most 1.3)")
    print(
        f"lbfgs: {lbfgs_s:.2f} s, top1 {lbfgs['top1']:.2f}; sgd, {options.epochs} epochs: "
        f"{sgd_s:.2f} s, top1 {sgd['top1']:.2f}. lbfgs takes 1/{sgd_s / lbfgs_s:.0f} of the time "
        f"(asked: 1/20), top1 {lbfgs['top1'] - sgd['top1']:+.2f} (asked: within 0.3)"
    )
    print(f"ridge: {ridge_s:.2f} s, top1 {ridge['top1']:.2f}")
    print(
        f"main_lincls written out: {plain_s:.2f} s, top1 {plain_top1:.2f}; "
        f"{plain_s / sgd_s:.2f} of sgd's time"
    )
    if options.json:
        numbers = {
            "grid_over_one_head": grid_ratio,
            "lbfgs_s": lbfgs_s,
            "sgd_s": sgd_s,
            "main_lincls_s": plain_s,
            "lbfgs_top1": lbfgs["top1"],
            "sgd_top1": sgd["top1"],
            "ridge_top1": ridge["top1"],
            "main_lincls_top1": plain_top1,
        }
        options.json.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
