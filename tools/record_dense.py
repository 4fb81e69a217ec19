"""Record detection and segmentation on the digit scenes, for three encoders and three seeds.

python tools/record_dense.py runs/dense

A random initialisation, the supervised baseline and MoCo v2 are pretrained into the folder that is
named, then fine-tuned into results/ by every engine that is installed. About an hour on two cores;
what is done is skipped. tools/render_results.py makes the table.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from record_classification import pretrain

from moco_eval import engines, suite
from moco_eval.demo import MOCO, RANDOM, SUPERVISED

ROOT = Path(__file__).resolve().parent.parent
PRETRAININGS = {SUPERVISED: "supervised-digits", MOCO: "mocov2-digits"}
SEEDS = range(3)
RUNS = (
    ("detect", "digits-c4"),
    ("segment", "digits-c4"),
    ("segment", "digits-fcn"),
)
SEMANTIC = ("digits-fcn",)


def cells(encoders: dict[str, str]) -> list[suite.Cell]:
    """Every run: semantic segmentation has no engine, the others have each that is installed."""
    installed = ["torchvision", *(["detectron2"] if engines.has_detectron2() else [])]
    return [
        suite.Cell(
            protocol=protocol,
            recipe=recipe,
            encoder=spec,
            name=name,
            data="digits-scenes",
            seed=seed,
            engine=engine,
        )
        for protocol, recipe in RUNS
        for engine in (["auto"] if recipe in SEMANTIC else installed)
        for seed in SEEDS
        for name, spec in encoders.items()
    ]


def main() -> None:
    """Pretrain, then evaluate as many at once as there are cores."""
    output = Path(sys.argv[1])
    encoders = {RANDOM: "random:resnet10_small"} | {
        name: str(pretrain(output, recipe)) for name, recipe in PRETRAININGS.items()
    }
    suite.run_all(
        cells(encoders),
        results=ROOT / "results",
        work_dir=output / "work",
        num_processes=os.cpu_count() or 1,
    )


if __name__ == "__main__":
    main()
