"""What ``moco-eval linear`` and its like do: run one protocol on one encoder, and record it."""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from moco_eval.encoders.hints import Hints
from moco_eval.errors import UsageError
from moco_eval.options import add_run_options
from moco_eval.resources import Resources

if TYPE_CHECKING:
    from moco_eval.cell import Cell

EPILOG = """ENCODER is a checkpoint of any known format (moco-eval formats); timm:NAME,
torchvision:NAME or hf:ORG/NAME for published weights, random:ARCH[@SEED] for fresh ones, or pixels
for the image itself.

examples:
  moco-eval {name} runs/digits/checkpoint.pth.tar --data {data}
  moco-eval {name} random:{arch} --data {data} --seed 1
  moco-eval {name} ENCODER --data {user_data} --name my-encoder --results results

A run that the results folder already holds is not repeated; --rerun repeats it. Recipes and what
was published of each: moco-eval recipes"""

IMAGE_KINDS = (
    "digits, a set by name (moco-eval datasets), imagefolder:DIR, torchvision:NAME:DIR, csv:FILE, "
    "list:TRAIN:TEST, wds:TRAIN:TEST or hf:NAME_OR_DIR"
)
_SCENE_KINDS = (
    "digits-scenes[:DIR], coco2017:DIR, coco2017-keypoints:DIR, voc07:DIR, voc07+12:DIR, "
    "lvis-v0.5:DIR, lvis-v1:DIR, cityscapes:DIR, coco:IMAGES:JSON or "
    "coco:TRAIN_IMAGES:TRAIN_JSON:TEST_IMAGES:TEST_JSON"
)
DATA_KINDS = {
    "detect": _SCENE_KINDS,
    "segment": f"instances: {_SCENE_KINDS}; semantic: digits-scenes, voc-aug:DIR, "
    "cityscapes:DIR or masks:DIR",
}
DENSE = tuple(DATA_KINDS)


def add_options(parser: ArgumentParser, name: str) -> None:
    """The options of the protocol ``name``."""
    dense = name in DENSE
    parser.epilog = EPILOG.format(
        name=name,
        data="digits-scenes" if dense else "digits",
        user_data="coco:IMAGES:JSON" if dense else "imagefolder:DIR",
        arch="resnet10_small",
    )
    add = parser.add_argument
    add("encoder", type=str, metavar="ENCODER", help="checkpoint or specification, see below")
    if name == "segment":
        add("--task", type=str, default="", help="instance (the default) or semantic")
    add("--data", type=str, required=True, help=DATA_KINDS.get(name, IMAGE_KINDS))
    add("--recipe", type=str, default="", help="its name; see: moco-eval recipes")
    add_run_options(parser)
    add("--trials", type=int, default=1, help="run so many seeds, from --seed on, one by one")
    add("--name", type=str, default="", help="what tables call the encoder")
    add_hints(parser)
    if dense:
        _add_dense(parser)
    _add_resources(parser, dense=dense)
    add("--results", type=str, default="results", help="folder of the records")
    add("--work", type=str, default="runs", help="folder for what is no result: pictures, logs")
    add("--rerun", action="store_true", help="run again what is already recorded")


def add_hints(parser: ArgumentParser) -> None:
    """Options for what a checkpoint does not say itself."""
    group = parser.add_argument_group("for checkpoints that do not say it themselves")
    group.add_argument("--arch", type=str, default=None, help="the architecture")
    group.add_argument("--format", type=str, default=None, help="a row of moco-eval formats")
    group.add_argument("--tower", type=str, default=None, help="which network of several")
    group.add_argument("--prefix", type=str, default=None, help="what leads its tensors' names")
    group.add_argument(
        "--input",
        type=str,
        default=None,
        help="how it is fed: imagenet, half, clip ..., and size=, mean=R/G/B, std=R/G/B",
    )


def hints_of(arguments: Namespace) -> Hints:
    """What the command line says of a checkpoint."""
    return Hints(**{field.name: arguments[field.name] for field in fields(Hints)})


def _add_dense(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--engine", type=str, default="auto", help="auto, detectron2 or torchvision")
    add("--check", action="store_true", help="build it, prove that it holds the encoder, and stop")
    add(
        "--lr-grid",
        type=str,
        default="",
        metavar="LR,LR...",
        help="try each on held-out training images and take the best; is recorded as selection",
    )
    add(
        "--opts",
        action="append",
        type=str,
        default=[],
        metavar="KEY=VALUE",
        help="an entry of Detectron2's configuration that no recipe has; may be repeated",
    )


def _add_resources(parser: ArgumentParser, *, dense: bool) -> None:
    """Options that move no number by more than rounding, but for the devices of dense tasks."""
    group = parser.add_argument_group("how it is carried out; the result stays")
    add = group.add_argument
    rescaled = "; a dense recipe's batch, rate and schedule follow" if dense else ""
    add("--nproc", type=int, default=1, help=f"processes on this machine, one a GPU{rescaled}")
    add("--workers", type=int, default=0, help="processes that load images, for each of them")
    add("--pictures", type=bool, default=True, help="draw what there is to see, each with its CSV")
    if dense:
        return
    add("--compile", action="store_true", help="torch.compile the frozen encoder")
    add(
        "--cache",
        type=str,
        default="",
        help="folder of features computed before, or off; by default in ~/.cache/moco-eval",
    )


def run(arguments: Namespace, name: str) -> None:
    """Find or make the records of the runs that ``arguments`` ask for, and print their numbers.

    Raises:
        UsageError: Or one of its subclasses: see ``suite.run_cell``.
    """
    from moco_eval import distributed, environment, introduction

    if arguments.trials < 1:
        raise UsageError(f"--trials takes a positive number, found {arguments.trials}.")
    cell = _cell(arguments, name)
    if arguments.get("check"):
        introduction.check(cell)
        return
    trials = [replace(cell, seed=cell.seed + number) for number in range(arguments.trials)]
    with distributed.ranks(environment.choose_device(cell.device)):
        done = [_run_trial(arguments, trial) for trial in trials]
        is_first = distributed.rank() == 0
    if is_first and len(done) > 1:
        print(f"{len(done)} trials: {_over_trials(done)}")


def _run_trial(arguments: Namespace, cell: Cell) -> dict[str, Any]:
    """Find or make one record, and print its numbers where this is the first process."""
    from moco_eval import distributed, store, suite
    from moco_eval.cell import prepare
    from moco_eval.suite.running import Standing

    results = Path(arguments.results)
    # What cannot run is refused here, before there are several processes to refuse it.
    prepared = prepare(cell)
    key = prepared.run.key()
    recorded = store.find(results, key)
    found = None if arguments.rerun else recorded
    if found is None and arguments.nproc > 1 and not distributed.is_launched():
        _launch(arguments.nproc, cell.seed)
        return store.find(results, key) or {}
    record = found or suite.run_cell(
        cell,
        results=results,
        work_dir=Path(arguments.work) / suite.work_folder(cell),
        pictures=arguments.pictures,
        prepared=prepared,
        standing=Standing(supersedes=recorded["run_id"] if recorded else None),
    )
    if distributed.rank() == 0:
        protocol = f"{record['protocol']['id']}@{record['protocol']['version']}"
        print(f"{protocol} {record['dataset']['id']}: {suite.summary(record)}")
        print(f"{'Already recorded:' if found else 'Recorded as'} {record['name']} in {results}")
    return record


def _over_trials(done: list[dict[str, Any]]) -> str:
    """``AP 38.6 ± 2.4, AP50 60.5 ± 1.1``: mean and sample s.d. over the seeds."""
    told = []
    for name in done[0]["metrics"]:
        values = [record["metrics"][name]["value"] for record in done]
        told.append(f"{name} {statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}")
    return ", ".join(told)


def _cell(arguments: Namespace, name: str) -> Cell:
    from moco_eval import suite

    recipe, overrides = arguments.recipe, list(arguments.set)
    if name == "segment":
        from moco_eval import segment

        recipe = segment.recipe_of(arguments.task, recipe)
    if arguments.get("lr_grid"):
        overrides.append(f"lr_grid=[{arguments.lr_grid}]")
    if arguments.get("opts"):
        overrides.append(f"opts={json.dumps(arguments.opts)}")
    return suite.Cell(
        protocol=name,
        encoder=arguments.encoder,
        data=arguments.data,
        name=arguments.name,
        hints=hints_of(arguments),
        recipe=recipe,
        overrides=tuple(overrides),
        seed=arguments.seed,
        engine=arguments.get("engine", "auto"),
        device=arguments.device,
        resources=_resources(arguments),
    )


def _resources(arguments: Namespace) -> Resources:
    from moco_eval.feature_cache import default_folder

    # Dense protocols compute no features of whole images, and have no options for it.
    cache = arguments.get("cache", "off")
    return Resources(
        num_processes=arguments.nproc,
        num_workers=arguments.workers,
        compile=arguments.get("compile", False),
        cache={"off": None, "": default_folder()}.get(cache, Path(cache)),
    )


def _launch(num_processes: int, seed: int) -> None:
    """Run the same command line, of one seed, as several ranks.

    This process ends as they do where they fail.
    """
    from moco_eval.training.launch import launch

    program = f"moco-eval {sys.argv[1]}"
    arguments = [*sys.argv[1:], "--seed", str(seed), "--trials", "1"]
    code = launch("moco_eval.cli", arguments, num_processes, program=program)
    sys.stdout.flush()
    if code:
        sys.exit(code)
