"""Render the figures of speed from results/speed/, or measure them anew.

python tools/render_speed.py              write docs/speed.md
python tools/render_speed.py --check      exit 1 if it would change
python tools/render_speed.py --measure [NAME]    run every bench, or the one of that name, three
                                          times first, which takes minutes

Measure on a machine that does nothing else.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from rendering import ROOT, write_or_check

from moco_eval import environment
from moco_eval.files import write_text

RESULTS = ROOT / "results" / "speed"
BEGIN, END = "<!-- written by tools/render_speed.py -->\n", "<!-- end of speed -->\n"

NUM_RUNS = 3
BENCHES = {
    "views": "tools/bench_views.py",
    "shuffle": "tools/bench_shuffle.py",
    "step": "tools/bench_step.py",
    "load": "tools/bench_load.py",
    "features": "tools/bench_features.py",
    "linear": "tools/bench_linear.py",
}
LARGE = "--device cuda --batch 256 --size 224 --precision bf16 --compile"
ON_GPU = {"step-gpu": f"tools/bench_step.py {LARGE}"}
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "opencv-python-headless")
MIB = 2**20

Run = dict[str, float]


def measure(names: list[str]) -> None:
    """Run the benches of these names, or all, and keep the numbers with their machine.

    Each process has one thread.
    """
    hardware = environment.describe()["hardware"]
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    machine = {
        **{key: hardware[key] for key in ("cpu", "num_cpus", "gpu")},
        "python": environment.versions()["python"],
        **versions,
    }
    benches = BENCHES | ON_GPU if hardware["gpu"] else BENCHES
    for name, command in benches.items():
        if names and name not in names:
            continue
        runs = [run_of(command) for _ in range(NUM_RUNS)]
        content = {"command": f"python {command}", "machine": machine, "runs": runs}
        write_text(RESULTS / f"{name}.json", json.dumps(content, indent=1) + "\n")


def run_of(command: str) -> Run:
    """The numbers of one run of a bench, whose own table is printed as well."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "numbers.json"
        subprocess.run(
            [sys.executable, *command.split(), "--json", str(path)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
        )
        run: Run = json.loads(path.read_text())
    return run


def measured() -> dict[str, dict[str, Any]]:
    """What lies in results/speed/, by bench."""
    return {
        name: json.loads((RESULTS / f"{name}.json").read_text())
        for name in BENCHES | ON_GPU
        if (RESULTS / f"{name}.json").exists()
    }


def rendered() -> str:
    """The block: one row a comparison, and where each was measured."""
    found = measured()
    runs = {name: bench["runs"] for name, bench in found.items()}
    rows = [*of_views(runs["views"]), *of_shuffle(runs["shuffle"])]
    rows += of_step(runs["step"], "ResNet-50, 16 images of 64 pixels")
    if "step-gpu" in runs:
        rows += of_step(runs["step-gpu"], "ResNet-50, 256 images of 224 pixels, bf16, compiled")
    rows += of_load(runs["load"])
    rows += of_features(runs["features"])
    rows += of_linear(runs["linear"])
    table = ["| | the original's way | ours | ratio |", "|:--|--:|--:|--:|"]
    table += [f"| {' | '.join(cells)} |" for cells in rows]
    places = [f"- `{bench['command']}`: {place(bench['machine'])}" for bench in found.values()]
    share = 100 * median(numbers(runs["step"], "share_beside_encoders"))
    return "\n".join(
        [
            *table,
            "",
            f"Of {NUM_RUNS} runs with one thread a process: the best time, the median ratio and, "
            "in brackets, the least and the largest. Of our step on the CPU, "
            f"{share:.0f} % is not the encoders' and SGD's own work.",
            "",
            *places,
        ]
    )


def of_views(runs: list[Run]) -> list[list[str]]:
    """A loader's worker, per engine."""
    titles = {
        "fast": "views of 224 pixels from JPEG, a worker's core, `fast` engine",
        "device": "– `device` engine, which leaves the rest to the accelerator",
    }
    return [
        [
            title,
            f"{max(numbers(runs, 'reference_images_per_s')):.0f} images/s",
            f"{max(numbers(runs, f'{engine}_images_per_s')):.0f} images/s",
            spread(numbers(runs, f"{engine}_ratio")),
        ]
        for engine, title in titles.items()
    ]


def of_shuffle(runs: list[Run]) -> list[list[str]]:
    """Time, traffic and memory, per number of ranks."""
    rows = []
    for ranks in (2, 4):
        gathered, lean, sent = (f"ranks_{ranks}_{way}" for way in ("gathered", "lean", "sent"))
        title = f"shuffling BN, {ranks} ranks of 32 images of 224 pixels"
        rows.append(times_row(title, runs, (gathered, sent), f"{gathered}_ratio"))
        title = "– against a gather without spare copies"
        rows.append(times_row(title, runs, (lean, sent), f"{lean}_ratio"))
        for quantity, title in (("bytes", "– received by each"), ("peak_extra_bytes", "– memory")):
            theirs, ours = (numbers(runs, f"{way}_{quantity}") for way in (gathered, sent))
            amounts = [f"{median(sizes) / MIB:.1f} MiB" for sizes in (theirs, ours)]
            ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
            rows.append([title, *amounts, spread(ratios)])
    return rows


def of_step(runs: list[Run], title: str) -> list[list[str]]:
    """The key encoder's update and the whole step."""
    original, lerp = (numbers(runs, f"update_{way}_ratio") for way in ("original", "lerp"))
    by_lerp = [their / our for their, our in zip(original, lerp, strict=True)]
    update, step, in_our_layout = "update_original", "step_original", "step_original_channels_last"
    return [
        times_row(f"step, {title}", runs, (step, "step_ours"), f"{step}_ratio"),
        times_row(
            "– against the original's way in our layout",
            runs,
            (in_our_layout, "step_ours"),
            f"{in_our_layout}_ratio",
        ),
        times_row("– key encoder's update in it", runs, (update, "update_ours"), f"{update}_ratio"),
        [
            "– the same by a lerp, not used: it rounds otherwise",
            *(best_ms(runs, name) for name in (update, "update_lerp")),
            spread(by_lerp),
        ],
    ]


def of_load(runs: list[Run]) -> list[list[str]]:
    """What accounting, hashing and a look at the features add to the reading of a file."""
    title = "a ResNet-50's checkpoint becomes an encoder (the usual way: torch.load, build, load)"
    return [times_row(title, runs, ("load_usual", "load_ours"), "load_usual_ratio")]


def of_features(runs: list[Run]) -> list[list[str]]:
    """Features of a frozen network, against the loop that people write."""
    title = "features of a ResNet-50, 224 pixels, one core"
    plain = f"{max(numbers(runs, 'plain_images_per_s')):.1f} images/s"
    return [
        [
            f"{title}, {precision}",
            plain,
            f"{max(numbers(runs, f'{precision}_images_per_s')):.1f} images/s",
            spread(numbers(runs, f"{precision}_ratio")),
        ]
        for precision in ("fp32", "bf16")
    ]


def of_linear(runs: list[Run]) -> list[list[str]]:
    """A probe of the digits: the original's loop, and what needs no learning rate."""
    original = numbers(runs, "main_lincls_s")
    heads = [1 / heads for heads in numbers(runs, "grid_over_one_head")]
    rows = []
    for name, title in (
        ("sgd_s", "linear probe of the digits, 60 epochs"),
        ("lbfgs_s", "– by L-BFGS on cached features"),
    ):
        ours = numbers(runs, name)
        ratios = [their / our for their, our in zip(original, ours, strict=True)]
        rows.append([title, f"{min(original):.1f} s", f"{min(ours):.2f} s", spread(ratios)])
    return [*rows, ["– 40 heads at once, against one of ours", "", "", spread(heads)]]


def times_row(title: str, runs: list[Run], ways: tuple[str, str], ratio: str) -> list[str]:
    """A row of two times: the original's way and ours."""
    return [title, *(best_ms(runs, way) for way in ways), spread(numbers(runs, ratio))]


def best_ms(runs: list[Run], way: str) -> str:
    """The time that others on the machine disturbed least."""
    return f"{1e3 * min(numbers(runs, f'{way}_s')):.3g} ms"


def numbers(runs: list[Run], name: str) -> list[float]:
    """One number of every run."""
    return [run[name] for run in runs]


def spread(ratios: list[float]) -> str:
    """Median, least and largest."""
    return f"**{median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"


def place(machine: dict[str, Any]) -> str:
    """Machine and versions, in a line."""
    hardware = f"{machine['cpu']}, {machine['num_cpus']} cores"
    if machine["gpu"]:
        hardware += f", {machine['gpu']}"
    versions = [f"{name} {machine[name]}" for name in ("python", *PACKAGES)]
    return f"{hardware}; {', '.join(versions)}"


def main() -> None:
    """Write the block, or say that it would change."""
    if "--measure" in sys.argv[1:]:
        measure(sys.argv[sys.argv.index("--measure") + 1 :])
    path = ROOT / "docs" / "speed.md"
    page = path.read_text()
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    text = f"{before}{BEGIN}\n{rendered()}\n\n{END}{after}"
    write_or_check({path: text})


if __name__ == "__main__":
    main()
