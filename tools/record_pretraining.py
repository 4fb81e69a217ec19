"""Pretrain on the embedded digits by every method, three seeds each, and record what they reach.

python tools/record_pretraining.py runs/pretraining

MoCo v1, v2 and v3, and the two mechanisms that MoCo's paper compares the queue with, each followed
by kNN and low-shot classification into results/. About half an hour on two cores; what is done is
skipped. tools/render_results.py makes the table.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from moco_eval import suite

ROOT = Path(__file__).resolve().parent.parent
RUNS = {
    "MoCo v1": ["--recipe", "mocov1-digits"],
    "MoCo v2": ["--recipe", "mocov2-digits"],
    "MoCo v3": ["--recipe", "mocov3-digits"],
    "MoCo v2 end-to-end": ["--recipe", "mocov2-digits", "--set", "mechanism=end-to-end"],
    # At the queue's settings the bank collapses: it needs a slower start and twice the epochs.
    "MoCo v2 memory bank": [
        *("--recipe", "mocov2-digits", "--set", "mechanism=memory-bank"),
        *("--set", "temperature=0.07", "--set", "lr=0.06"),
        *("--set", "epochs=40", "--set", "warmup_epochs=10"),
    ],
}
SEEDS = (0, 1, 2)


def pretrain(output: Path, name: str, seed: int) -> Path:
    """One encoder; its checkpoint."""
    folder = output / f"{name.replace(' ', '-')}-{seed}"
    command = [sys.executable, "-m", "pretrain.cli", *RUNS[name], "--data", "digits"]
    command += ["--output", str(folder), "--seed", str(seed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    print(f"pretrained: {folder}", flush=True)
    return folder / "checkpoint.pth.tar"


def main() -> None:
    """Pretrain as many at once as there are cores, then evaluate."""
    output = Path(sys.argv[1])
    asked = [(name, seed) for name in RUNS for seed in SEEDS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checkpoints = list(pool.map(lambda pair: pretrain(output, *pair), asked))
    cells = [
        suite.Cell(
            protocol=protocol,
            encoder=str(checkpoint),
            name=f"{name}, pretraining seed {seed}",
            data="digits",
            seed=draw,
        )
        for (name, seed), checkpoint in zip(asked, checkpoints, strict=True)
        for protocol, draws in (("knn", SEEDS[:1]), ("lowshot", SEEDS))
        for draw in draws
    ]
    suite.run_all(
        cells,
        results=ROOT / "results",
        work_dir=output / "work",
        num_processes=os.cpu_count() or 1,
    )


if __name__ == "__main__":
    main()
