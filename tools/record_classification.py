"""Record every classification protocol on the embedded digits, for five encoders and five seeds.

python tools/record_classification.py runs/classification

A random initialisation, the supervised baseline, MoCo v1, v2 and v3 are pretrained into the folder
that is named, then probed and fine-tuned into results/. kNN draws nothing and is run once. About
half an hour on two cores; what is done is skipped. tools/render_results.py makes the table.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from moco_eval import suite
from moco_eval.demo import MOCO, RANDOM, SUPERVISED
from moco_eval.feature_cache import default_folder
from moco_eval.resources import Resources

ROOT = Path(__file__).resolve().parent.parent
PRETRAININGS = {
    SUPERVISED: "supervised-digits",
    "MoCo v1": "mocov1-digits",
    MOCO: "mocov2-digits",
    "MoCo v3": "mocov3-digits",
}
SEEDS = range(5)
RUNS = (
    ("linear", "lbfgs"),
    ("linear", "ridge"),
    ("linear", "sgd-digits"),
    ("linear", "grid-digits"),
    ("lowshot", "5-shot"),
    ("lowshot", "5-shot-finetune"),
    ("svm", "digits"),
    ("svm", "digits-lowshot"),
    ("finetune", "digits"),
)


def pretrain(output: Path, recipe: str) -> Path:
    """One encoder; its checkpoint."""
    folder = output / recipe
    command = [sys.executable, "-m", "pretrain.cli", "--recipe", recipe, "--data", "digits"]
    # As the encoders were trained that results/ holds already: sums are rounded by their order.
    num_threads = 2 if recipe == PRETRAININGS[SUPERVISED] else 1
    environment = os.environ | {"OMP_NUM_THREADS": str(num_threads)}
    subprocess.run([*command, "--output", str(folder)], env=environment, check=True)
    return folder / "checkpoint.pth.tar"


def main() -> None:
    """Pretrain as many at once as there are cores, then evaluate."""
    output = Path(sys.argv[1])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checkpoints = pool.map(lambda recipe: str(pretrain(output, recipe)), PRETRAININGS.values())
        encoders = {
            RANDOM: "random:resnet10_small",
            **dict(zip(PRETRAININGS, checkpoints, strict=True)),
        }
    cells = [
        suite.Cell(
            protocol=protocol,
            recipe=recipe,
            encoder=encoder,
            name=name,
            data="digits",
            seed=seed,
            resources=Resources(cache=default_folder()),
        )
        for protocol, recipe in (*RUNS, ("knn", "knn-20"))
        for name, encoder in encoders.items()
        for seed in (SEEDS if protocol != "knn" else SEEDS[:1])
    ]
    suite.run_all(
        cells,
        results=ROOT / "results",
        work_dir=output / "work",
        num_processes=os.cpu_count() or 1,
    )


if __name__ == "__main__":
    main()
