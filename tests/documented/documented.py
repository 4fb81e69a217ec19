"""The commands that README and documentation show, and how each is made small.

A block of code without a language holds commands, one a line; ``sh`` marks what sets a machine up.
What is written for data, weights and devices of a reader's runs here on toys: ``toy_world`` lays
them out under the names that the pages use, and everything else that is replaced stands below.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moco_eval.engines.recipe import Recipe as DetectorRecipe
from moco_eval.knn import Recipe as KnnRecipe
from moco_eval.lowshot import FinetuneRecipe
from moco_eval.lowshot import Recipe as LowShotRecipe
from moco_eval.probes.recipes import Grid, Lbfgs, Sgd
from moco_eval.probes.svm_recipes import LowShotRecipe as SvmLowShotRecipe
from moco_eval.probes.svm_recipes import Recipe as SvmRecipe
from moco_eval.semantic.recipe import SemanticRecipe
from moco_eval.training.recipe import Recipe as FinetuningRecipe
from pretrain.recipes import Recipe as Pretraining

ROOT = Path(__file__).parent.parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
PROGRAMS = ("moco-eval", "moco-pretrain", "make", "python")

_BLOCK = re.compile(r"^```(?P<language>.*)\n(?P<body>(?s:.*?))^```$", re.MULTILINE)

# Lines of ``sh`` blocks, which need a network: continuous integration runs the same by make.
SETS_UP = (
    "python3 -m venv .venv",
    ".venv/bin/python -m pip install -e '.[dev]'",
    ".venv/bin/moco-eval demo",
    ".venv/bin/python -m pytest -n auto",
    ".venv/bin/python -m pip install setuptools wheel",
    ".venv/bin/python -m pip install --no-build-isolation "
    "'git+https://github.com/facebookresearch/detectron2.git'",
)

# Words that are replaced wherever they stand.
WORDS = {
    # The reader's own.
    "ENCODER": "random:resnet10_small",
    # Published weights come from a network, and large networks take their time.
    "random:resnet50": "random:resnet10_small",
    "random:resnet50@3": "random:resnet10_small@3",
    "torchvision:resnet50": "random:resnet10_small",
    "hf:facebook/dinov2-small": "random:timm:vit_tiny_patch16_224",
    "timm:vit_base_patch16_224.mae": "random:timm:vit_tiny_patch16_224",
    "size=448": "size=96",
    # Several processes are several times the start of torch; tests of their own hold them.
    "--nproc": "--nproc=1",
    "--workers": "--workers=0",
    "--trials": "--trials=1",
    # Minutes of compilation.
    "--compile": "",
    # Minutes of measuring, hours of a suite.
    "--measure": "--check",
    "--jobs": "--dry-run",
}
TAKE_A_VALUE = ("--nproc", "--workers", "--trials", "--jobs")
# What a command needs that is not everywhere: where it is absent, how the command ends.
ABSENT = {
    "--slurm": ("sbatch", 2, "there is no sbatch here"),
    "hf:": ("datasets", 2, "pip install"),
}
# A tool that renders files of the repository says here whether they are as it would write them.
CHECKED = "tools/render_"

# Numbers that make a recipe small enough for toys, and let it learn them in seconds.
SMALL = {
    KnnRecipe: {"k": 2, "other_k": [1]},
    Sgd: {"epochs": 5, "batch_total": 4, "lr": 8, "batch_norm": True},
    Grid: {"epochs": 5, "batch_total": 4, "lrs": [8], "weight_decays": [0], "batch_norms": [True]},
    Lbfgs: {"num_c": 2},
    LowShotRecipe: {"shots": 2, "num_draws": 1},
    SvmRecipe: {"costs": [1], "num_folds": 2},
    SvmLowShotRecipe: {"costs": [1], "c": 1, "shots": [1], "num_draws": 1},
    FinetuneRecipe: {"shots": 2, "num_draws": 1},
    FinetuningRecipe: {
        "lr": [0.05], "weight_decay": [0], "batch_total": 8, "epochs": 0, "num_steps": 40,
    },
    DetectorRecipe: {
        "num_iterations": 1, "batch_total": 1, "reference_world_size": 0, "lr_drops": [],
        "warmup_iterations": 0, "short_sides_train": [48], "short_side_test": 48, "max_side": 64,
        "roi_batch": 8, "rpn_batch": 16, "rpn_pre_nms": [50, 50], "rpn_post_nms": [20, 20],
        "mask_channels": 8, "precise_bn_batches": 1, "detections_per_image": 10,
    },
    SemanticRecipe: {
        "num_iterations": 1, "batch_total": 1, "reference_world_size": 0, "lr_drops": [],
        "warmup_iterations": 0, "crop": 33, "head_channels": 8,
    },
}  # fmt: skip
LIST = "imagenet-1percent.txt"
PRETRAINING = {
    "epochs": 1, "batch_total": 8, "num_ranks": 2, "queue_size": 16, "image_size": 32,
    "arch": "resnet18", "dim": 8, "warmup_epochs": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A line of a page.

    Attributes:
        place: File and line, as an editor finds them.
        text: The command, as it is written.
    """

    place: str
    text: str


def blocks() -> Iterator[tuple[str, int, str, str]]:
    """Page, line, language and text of each block of code."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in _BLOCK.finditer(text):
            line = text.count("\n", 0, found.start("body")) + 1
            yield str(page.relative_to(ROOT)), line, found["language"], found["body"]


def commands() -> list[Command]:
    """Every command, the first of those that are the same."""
    first: dict[str, Command] = {}
    for page, start, language, body in blocks():
        if language:
            continue
        joined = body.replace("\\\n", " ")
        for number, line in enumerate(joined.splitlines(), start):
            if line.startswith(PROGRAMS):
                text = " ".join(shlex.split(line, comments=True))
                first.setdefault(text, Command(f"{page}:{number}", line))
    return list(first.values())


def written_out(page: str, language: str) -> str:
    """The file that a page shows: its one block of that language."""
    [body] = [body for path, _, kind, body in blocks() if (path, kind) == (page, language)]
    return body


def words_of(command: Command, data: Path, runs: dict[str, str]) -> list[str]:
    """The command as it is run here, but for its recipe.

    Args:
        command: As a page shows it.
        data: What is written ``/data``.
        runs: Run ids by the words that stand for them.
    """
    written = iter(shlex.split(command.text, comments=True))
    words = []
    for word in written:
        if word == ">":
            next(written)  # what is printed is looked at, not written
            continue
        if word in TAKE_A_VALUE:
            next(written)
        replaced = runs.get(word) or WORDS.get(word, word).replace("/data/", f"{data}/")
        words += [replaced] if replaced else []
    if any(word.startswith(CHECKED) for word in words) and "--check" not in words:
        words.append("--check")
    return words


def small(recipe: object, data: Path) -> list[str]:
    """Options that make ``recipe`` small. They come last, so that they count."""
    numbers: dict[str, object] = {}
    for kind, each in SMALL.items():
        if isinstance(recipe, kind):
            numbers |= each
    if isinstance(recipe, LowShotRecipe | FinetuneRecipe) and recipe.subset:
        # The published lists come from a network.
        numbers |= {"subset": data / LIST, "shots": 0, "num_draws": 1}
    return settings(numbers)


def small_pretraining(recipe: Pretraining) -> list[str]:
    """The same for ``moco-pretrain``; a small network stays, and so does what is not the usual."""
    numbers = dict(PRETRAINING)
    if recipe.arch != "resnet50" and not recipe.arch.startswith("vit"):
        del numbers["arch"]
    return settings(numbers)


def settings(numbers: dict[str, object]) -> list[str]:
    """``numbers`` as options."""
    return [part for key, value in numbers.items() for part in ("--set", f"{key}={value}")]
