"""Measure what the one gate for weights costs: load_encoder against torch.load and building.

python tools/bench_load.py [--arch resnet50] [--rounds 15] [--json FILE]

A MoCo checkpoint of the architecture, with query encoder alone, is written once and read by turns:
the usual way (torch.load, build the network, load the renamed state dict strictly) and
load_encoder, which also hashes the file, accounts for each tensor and looks at the features. The
process's own time on one thread counts, so that a busy machine tells the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision

from moco_eval.encoders.load import load_encoder

PREFIX = "module.encoder_q."


def write_checkpoint(path: Path, arch: str) -> None:
    """A file in MoCo's layout."""
    state = torchvision.models.get_model(arch).state_dict()
    content = {"arch": arch, "state_dict": {PREFIX + name: state[name] for name in state}}
    torch.save(content, path)


def load_the_usual_way(path: Path) -> None:
    """As the field's evaluation scripts do."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    network = torchvision.models.get_model(checkpoint["arch"])
    state = {name.removeprefix(PREFIX): t for name, t in checkpoint["state_dict"].items()}
    network.load_state_dict(state, strict=True)


def time_s(action: Callable[[], object]) -> float:
    """The process's seconds in ``action``."""
    begun_s = time.process_time()
    action()
    return time.process_time() - begun_s


def main() -> None:
    """Measure, print and, if asked, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)

    usual_s, ours_s = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pth.tar"
        write_checkpoint(path, options.arch)
        # The first reading of each imports and fills caches.
        load_the_usual_way(path)
        load_encoder(str(path))
        for _ in range(options.rounds):
            usual_s.append(time_s(lambda: load_the_usual_way(path)))
            ours_s.append(time_s(lambda: load_encoder(str(path))))
    ratio = statistics.median(usual / ours for usual, ours in zip(usual_s, ours_s, strict=True))
    print(f"{options.arch}: usual way {min(usual_s):.3f} s, load_encoder {min(ours_s):.3f} s")
    print(f"load_encoder takes {1 / ratio:.2f} of the usual way's time")

    if options.json:
        numbers = {
            "load_usual_s": min(usual_s),
            "load_ours_s": min(ours_s),
            "load_usual_ratio": ratio,
        }
        options.json.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
