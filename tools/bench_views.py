"""Measure how many images a second one core turns into views, by each engine.

OMP_NUM_THREADS=1 python tools/bench_views.py [--views mocov2] [--rounds 15] [--json FILE]

Two views of 224 pixels are drawn of JPEGs of ImageNet's usual size, decoding included; the engines
take turns, and the median round counts. ``draw`` is what a loader's worker does, ``finish`` what
the training process adds, here on the same core and not on an accelerator. Time is the process's
own, so that a busy machine tells the same.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import default_collate

from pretrain.view_parameters import DISTRIBUTIONS
from pretrain.views import ENGINES, Augmentation, augmentation

SIZE = 224
JPEG_SIZE = (500, 375)
IMAGES_PER_PHOTO = 12


def photographs() -> list[bytes]:
    """JPEGs of 500x375 pixels at quality 92: parts of scikit-learn's two sample photographs."""
    files = []
    for pixels in load_sample_images().images:
        photo = Image.fromarray(pixels)
        for part in range(IMAGES_PER_PHOTO):
            left = part * (photo.width - 560) // IMAGES_PER_PHOTO
            image = photo.crop((left, 0, left + 560, 420)).resize(
                JPEG_SIZE, Image.Resampling.LANCZOS
            )
            file = io.BytesIO()
            image.save(file, "JPEG", quality=92)
            files.append(file.getvalue())
    return files


def decode_s(files: list[bytes]) -> float:
    """Seconds for what no engine can do without."""
    start_s = time.process_time()
    for data in files:
        Image.open(io.BytesIO(data)).load()
    return time.process_time() - start_s


def draw_and_finish_s(
    drawing: Augmentation, files: list[bytes], *, seed: int
) -> tuple[float, float]:
    """Seconds for the worker's part and for the training process's part of all files' views."""
    start_s = time.process_time()
    drawn = [
        drawing.draw(Image.open(io.BytesIO(data)), (seed + 2 * file, seed + 2 * file + 1))
        for file, data in enumerate(files)
    ]
    drawn_s = time.process_time()
    batch = default_collate(drawn)
    collated_s = time.process_time()
    drawing.finish(batch, "cpu")
    return drawn_s - start_s, time.process_time() - collated_s


def measure(views: str, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Images a second of decoding alone and of every engine's parts, and the draws' ratios."""
    files = photographs()
    drawings = {engine: augmentation(views, SIZE, engine=engine) for engine in ENGINES}
    spent_s: dict[str, list[float]] = {}
    # The first round warms caches and does not count.
    for number in range(rounds + 1):
        took_s = {"decode": decode_s(files)}
        for engine, drawing in drawings.items():
            both_s = draw_and_finish_s(drawing, files, seed=1000 * number)
            took_s[engine], took_s[f"{engine}_finish"] = both_s
        if number:
            for part, seconds in took_s.items():
                spent_s.setdefault(part, []).append(seconds)
    rates = {part: len(files) / statistics.median(seconds) for part, seconds in spent_s.items()}
    # Each round's own ratio, so that a machine that slows down slows both of its sides.
    ratios = {
        engine: statistics.median(
            reference_s / engine_s
            for reference_s, engine_s in zip(spent_s["reference"], spent_s[engine], strict=True)
        )
        for engine in ENGINES
    }
    return rates, ratios


def main() -> None:
    """Measure, print a table and, if asked, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--views", default="mocov2", choices=DISTRIBUTIONS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)

    rates, ratios = measure(options.views, options.rounds)
    print(f"{options.views}, images/s of one core; decoding alone {rates['decode']:.0f}")
    print(f"{'engine':10} {'draw':>6} {'ratio':>6} {'finish':>7}")
    for engine, ratio in ratios.items():
        # The reference finishes nothing, which takes no time.
        finish = "-" if engine == "reference" else f"{rates[f'{engine}_finish']:.0f}"
        print(f"{engine:10} {rates[engine]:6.0f} {ratio:6.2f} {finish:>7}")

    if options.json:
        numbers = {f"{part}_images_per_s": rate for part, rate in rates.items()}
        numbers |= {f"{engine}_ratio": ratio for engine, ratio in ratios.items()}
        options.json.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
