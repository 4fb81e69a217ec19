"""The whole chain on embedded images: pretrain, evaluate, record, compare.

It goes through the same commands and functions that a user's data takes, on scikit-learn's
handwritten digits and on scenes made of them. Finished work is found and skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from moco_eval import knn, store, suite, tables
from moco_eval.data.catalog import ImageData, open_images, open_scenes
from moco_eval.data.scene import SceneSplit
from moco_eval.encoders.load import load_encoder
from moco_eval.errors import DivergedError
from moco_eval.features import of_data
from moco_eval.files import write_text
from moco_eval.pictures import nearest, overlays
from moco_eval.scoring import score

RANDOM, MOCO, SUPERVISED, PIXELS = "random init", "MoCo v2", "supervised", "raw pixels"
SEEDS = (0, 1, 2)
MAX_PROCESSES = 4  # each takes about a gigabyte
TABLE_FILES = {"md": "table.md", "latex": "table.tex", "csv": "table.csv", "html": "table.html"}


def demo(output: Path) -> None:
    """Run the chain into ``output`` and print the table last.

    Raises:
        DivergedError: If a step failed; what is done stays, and the same command goes on from it.
    """
    begun_s = time.monotonic()
    print(f"The main job on embedded images, into {output}. Finished work is skipped.", flush=True)

    # Two checkpoints by the command that a user would type.
    checkpoints = {
        MOCO: _pretrain("mocov2-digits", output / "mocov2-digits"),
        SUPERVISED: _pretrain("supervised-digits", output / "supervised-digits"),
    }
    encoders = {
        RANDOM: "random:resnet10_small",
        PIXELS: "pixels",
        SUPERVISED: str(checkpoints[SUPERVISED]),
        MOCO: str(checkpoints[MOCO]),
    }

    # Every encoder under every protocol; one record a run.
    results = output / "results"
    cells = plan(encoders)
    done = suite.run_all(
        cells,
        results=results,
        work_dir=output / "work",
        num_processes=min(os.cpu_count() or 1, MAX_PROCESSES),
    )

    # Pictures of what the numbers mean.
    if not (output / "neighbours.png").exists():
        _draw_neighbours(checkpoints[MOCO], open_images("digits"), output)
    shown = next(cell for cell in cells if cell.protocol == "segment" and cell.name == MOCO)
    if not list(output.glob("*_images.png")):
        found = output / "work" / suite.folder_of(shown) / "detections.json"
        _draw_detections(open_scenes(shown.data).test, found, output)

    # The table, from the records alone.
    written, problems = store.read_all(results)
    for problem in problems:
        print(problem)
    table = tables.table(written, baseline=RANDOM, encoders=tuple(encoders))
    for form, name in TABLE_FILES.items():
        write_text(output / name, tables.render(table, form))  # type: ignore[arg-type]
    took = f"{time.monotonic() - begun_s:.0f} s"
    print(f"\n{len(done)} records in {results}; tables and pictures in {output}. Took {took}.\n")
    print(tables.render(table, "md"), flush=True)
    if len(done) < len(cells):
        raise DivergedError(f"{len(cells) - len(done)} of {len(cells)} runs failed, see above.")


def plan(encoders: dict[str, str]) -> list[suite.Cell]:
    """The cells of the demo's table: seeds where a run takes seconds, one where it takes more."""
    cells = [
        suite.Cell(protocol=protocol, encoder=spec, name=name, data="digits", seed=seed)
        for protocol, seeds in (("linear", SEEDS), ("lowshot", SEEDS), ("knn", SEEDS[:1]))
        for name, spec in encoders.items()
        for seed in seeds
    ]
    cells += [
        suite.Cell(protocol=protocol, encoder=spec, name=name, data="digits-scenes")
        for protocol in suite.DENSE_PROTOCOLS
        for name, spec in encoders.items()
        if name != PIXELS  # an image is no backbone
    ]
    return cells


def _pretrain(recipe: str, output: Path) -> Path:
    checkpoint = output / "checkpoint.pth.tar"
    status = output / "status.json"
    if status.exists() and json.loads(status.read_text())["state"] == "done":
        print(f"{recipe}: {checkpoint} is there already.", flush=True)
        return checkpoint
    command = ["--recipe", recipe, "--data", "digits", "--output", str(output), "--knn-every", "4"]
    print(f"$ moco-pretrain {' '.join(command)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "pretrain.cli", *command], check=False).returncode
    if code:
        raise DivergedError(f"moco-pretrain ended with exit code {code}, see above.")
    return checkpoint


def _draw_neighbours(checkpoint: Path, data: ImageData, folder: Path) -> None:
    """The test digits with most and with fewest of their class among their five nearest."""
    features = of_data(load_encoder(str(checkpoint)), data)
    arrays = {
        "neighbours": knn.neighbours(features.train, features.test, 5).numpy(),
        "labels": np.asarray(data.test.labels),
        "train_labels": np.asarray(data.train.labels),
    }
    images = (data.test.images, data.train.images)
    nearest.draw(arrays, images, data.classes, folder, title=f"{MOCO} on {data.id}")


def _draw_detections(split: SceneSplit, detections: Path, folder: Path) -> None:
    """The test scenes that are found best and worst: what is there beside what was found."""
    found = json.loads(detections.read_text())
    scores = score(split, found, "bbox").drawn["F1_by_image"]
    title = f"{MOCO} on digits-scenes, segment"
    overlays.draw(scores, split.classes, split, found, folder, title=title)
