"""What ``moco-eval linear`` and its like do: run one protocol on one encoder, and record it."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from jsonargparse import ArgumentParser, Namespace

from moco_eval.encoders.hints import Hints
from moco_eval.options import add_run_options
from moco_eval.resources import PLAIN, Resources

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
SCENE_KINDS = (
    "digits-scenes[:DIR], coco:IMAGES:JSON or coco:TRAIN_IMAGES:TRAIN_JSON:TEST_IMAGES:TEST_JSON"
)
DENSE = ("detect", "segment")


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
    add("--data", type=str, required=True, help=SCENE_KINDS if dense else IMAGE_KINDS)
    add("--recipe", type=str, default="", help="its name; see: moco-eval recipes")
    add_run_options(parser)
    add("--name", type=str, default="", help="what tables call the encoder")
    add_hints(parser)
    if dense:
        add("--engine", type=str, default="auto", help="auto, detectron2 or torchvision")
    else:
        _add_resources(parser)
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


def _add_resources(parser: ArgumentParser) -> None:
    """Options that move no number by more than rounding."""
    group = parser.add_argument_group("how it is carried out; the result stays")
    add = group.add_argument
    add("--nproc", type=int, default=1, help="processes on this machine, one a GPU")
    add("--workers", type=int, default=0, help="processes that load images, for each of them")
    add("--compile", action="store_true", help="torch.compile the frozen encoder")
    add(
        "--cache",
        type=str,
        default="",
        help="folder of features computed before, or off; by default in ~/.cache/moco-eval",
    )
    add("--pictures", type=bool, default=True, help="draw what there is to see, each with its CSV")


def run(arguments: Namespace, name: str) -> None:
    """Find or make the record of the run that ``arguments`` ask for, and print its numbers.

    Raises:
        UsageError: Or one of its subclasses: see ``suite.run_cell``.
    """
    from moco_eval import distributed, environment, suite

    cell = suite.Cell(
        protocol=name,
        encoder=arguments.encoder,
        data=arguments.data,
        name=arguments.name,
        hints=hints_of(arguments),
        recipe=arguments.recipe,
        overrides=tuple(arguments.set),
        seed=arguments.seed,
        engine=arguments.get("engine", "auto"),
        device=arguments.device,
        resources=_resources(arguments),
    )
    results = Path(arguments.results)
    work_dir = Path(arguments.work) / suite.work_folder(cell)
    with distributed.ranks(environment.choose_device(cell.device)):
        # What cannot run is refused here, before there are several processes to refuse it.
        found = None if arguments.rerun else suite.find_record(cell, results=results)
        if found is None and arguments.get("nproc", 1) > 1 and not distributed.is_launched():
            _launch(arguments.nproc)
        record = found or suite.run_cell(
            cell, results=results, work_dir=work_dir, pictures=arguments.get("pictures", False)
        )
        is_first = distributed.rank() == 0
    if is_first:
        protocol = f"{record['protocol']['id']}@{record['protocol']['version']}"
        print(f"{protocol} {record['dataset']['id']}: {suite.summary(record)}")
        print(f"{'Already recorded:' if found else 'Recorded as'} {record['name']} in {results}")


def _resources(arguments: Namespace) -> Resources:
    if "cache" not in arguments:
        return PLAIN
    from moco_eval.feature_cache import default_folder

    cache = {"off": None, "": default_folder()}.get(arguments.cache, Path(arguments.cache))
    return Resources(num_workers=arguments.workers, compile=arguments.compile, cache=cache)


def _launch(num_processes: int) -> NoReturn:
    """Run the same command line as several ranks; this process ends as they do."""
    from moco_eval.training.launch import launch

    program, arguments = f"moco-eval {sys.argv[1]}", sys.argv[1:]
    code = launch("moco_eval.cli", arguments, num_processes, program=program)
    sys.stdout.flush()
    sys.exit(code)
