"""``moco-eval``: one sub-command per module; starts without importing torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jsonargparse import ArgumentParser, Namespace

import moco_eval
from moco_eval import errors
from moco_eval.encoders.hints import Hints
from moco_eval.options import add_run_options, command_parser

if TYPE_CHECKING:
    from moco_eval.encoders.encoder import Encoder

PROTOCOL_EPILOG = """ENCODER is a checkpoint of any known format (moco-eval formats); timm:NAME,
torchvision:NAME or hf:ORG/NAME for published weights, random:ARCH[@SEED] for fresh ones, or pixels
for the image itself.

examples:
  moco-eval {name} runs/digits/checkpoint.pth.tar --data {data}
  moco-eval {name} random:{arch} --data {data} --seed 1
  moco-eval {name} ENCODER --data {user_data} --name my-encoder --results results

A run that the results folder already holds is not repeated; --rerun repeats it."""

WRAPPINGS = """
Each may be a torch file of any age, safetensors, a pickle of arrays, a folder of the Hugging Face
hub or of torch.distributed.checkpoint; a whole pickled module or a TorchScript archive is read
without running it. What DistributedDataParallel, torch.compile, FSDP and activation checkpointing
put into names is taken off. A layout that is not listed: --prefix, --arch and --input."""

IMAGE_KINDS = (
    "digits, imagefolder:DIR, torchvision:NAME:DIR, csv:FILE, list:TRAIN:TEST, wds:TRAIN:TEST or "
    "hf:NAME_OR_DIR"
)
SCENE_KINDS = (
    "digits-scenes[:DIR], coco:IMAGES:JSON or coco:TRAIN_IMAGES:TRAIN_JSON:TEST_IMAGES:TEST_JSON"
)


class Command(NamedTuple):
    """A sub-command: what it is for, its options, and what it does."""

    help: str
    options: Callable[[ArgumentParser], None]
    action: Callable[[Namespace], None]


def main() -> None:
    """Entry point of ``moco-eval``."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_usage())
        sys.exit(0)
    if name == "--version":
        print(f"moco-eval {moco_eval.__version__}")
        sys.exit(0)
    if name not in COMMANDS:
        print(f"moco-eval: {errors.unknown('command', name, COMMANDS)}", file=sys.stderr)
        sys.exit(errors.UsageError.exit_code)
    parsed = parser_of(name).parse_args(arguments)
    action = COMMANDS[name].action
    program = f"moco-eval {name}"
    sys.exit(errors.run(lambda: action(parsed), program=program, verbose=parsed.verbose))


def parser_of(name: str) -> ArgumentParser:
    """The parser of the sub-command ``name``."""
    command = COMMANDS[name]
    parser = command_parser(f"moco-eval {name}", command.help)
    command.options(parser)
    return parser


def _usage() -> str:
    lines = [
        "usage: moco-eval COMMAND ...",
        "",
        "Measure how well a pretrained vision encoder transfers.",
        "",
        *(f"  {name:10} {command.help}" for name, command in COMMANDS.items()),
        "",
        "Every command has its own --help. The whole chain on embedded images: moco-eval demo",
        "To pretrain an encoder: moco-pretrain --help",
    ]
    return "\n".join(lines)


def _protocol(name: str, text: str) -> Command:
    """A command that runs one protocol on one encoder and records the result."""
    dense = name in ("detect", "segment")

    def options(parser: ArgumentParser) -> None:
        parser.epilog = PROTOCOL_EPILOG.format(
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
        _add_hints(parser)
        if dense:
            add("--engine", type=str, default="auto", help="auto, detectron2 or torchvision")
        add("--results", type=str, default="results", help="folder of the records")
        add("--work", type=str, default="runs", help="folder for what is no result")
        add("--rerun", action="store_true", help="run again what is already recorded")

    def action(arguments: Namespace) -> None:
        from moco_eval import suite

        cell = suite.Cell(
            protocol=name,
            encoder=arguments.encoder,
            data=arguments.data,
            name=arguments.name,
            hints=_hints(arguments),
            recipe=arguments.recipe,
            overrides=tuple(arguments.set),
            seed=arguments.seed,
            engine=arguments.get("engine", "auto"),
            device=arguments.device,
        )
        results = Path(arguments.results)
        found = None if arguments.rerun else suite.find_record(cell, results=results)
        work_dir = Path(arguments.work) / suite.work_folder(cell)
        record = found or suite.run_cell(cell, results=results, work_dir=work_dir)
        protocol = f"{record['protocol']['id']}@{record['protocol']['version']}"
        print(f"{protocol} {record['dataset']['id']}: {suite.summary(record)}")
        print(f"{'Already recorded:' if found else 'Recorded as'} {record['name']} in {results}")

    return Command(text, options, action)


def _add_hints(parser: ArgumentParser) -> None:
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


def _hints(arguments: Namespace) -> Hints:
    return Hints(**{field.name: arguments[field.name] for field in fields(Hints)})


def _encoder_options(parser: ArgumentParser) -> None:
    parser.add_argument("encoder", type=str, metavar="ENCODER", help="checkpoint or specification")
    _add_hints(parser)


def _encoder(arguments: Namespace) -> Encoder:
    from moco_eval.encoders.load import load_encoder

    return load_encoder(arguments.encoder, **asdict(_hints(arguments)))


def _check_options(parser: ArgumentParser) -> None:
    _encoder_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _check(arguments: Namespace) -> None:
    from moco_eval.encoders import check

    report = check.check(_encoder(arguments))
    print(json.dumps(report, indent=1) if arguments.json else check.describe(report))


def _convert_options(parser: ArgumentParser) -> None:
    parser.epilog = """examples:
  moco-eval convert moco_v2_800ep_pretrain.pth.tar r50.pth --to detectron2
  moco-eval convert r50.pth resnet50.pth --to torchvision
  moco-eval convert dino_deitsmall16_pretrain.pth vit_small --to hf --format dino-backbone
  moco-eval convert runs/digits/checkpoint.pth.tar encoder.safetensors --to safetensors

OUT ends in .pth, .pt or .pth.tar; in .safetensors; for detectron2 also in .pkl; for onnx in .onnx;
for hf it is a folder. The file is reloaded in the library that it is for and compared with ENCODER
at every level before it is put there."""
    _encoder_options(parser)
    parser.add_argument("output", type=str, metavar="OUT", help="the file to write")
    parser.add_argument(
        "--to",
        type=str,
        required=True,
        help="torchvision, timm, detectron2, safetensors, hf or onnx",
    )
    parser.add_argument(
        "--position-size",
        type=int,
        default=None,
        help="detectron2, of a ViT: resample its positions for images of so many pixels",
    )


def _convert(arguments: Namespace) -> None:
    from moco_eval.convert import convert

    proof = convert(
        _encoder(arguments),
        Path(arguments.output),
        arguments.to,
        position_size=arguments.position_size,
    )
    print(f"{arguments.output}: written, reloaded and compared. {json.dumps(proof)}")


def _no_options(parser: ArgumentParser) -> None:
    """The command takes none."""


def _recipes(_: Namespace) -> None:
    from moco_eval import suite

    for protocol in (*suite.IMAGE_PROTOCOLS, *suite.DENSE_PROTOCOLS):
        module = suite.protocol_module(protocol)
        for name, recipe in module.RECIPES.items():
            default = " (default)" if name == module.DEFAULT_RECIPE else ""
            print(f"{protocol:8} {name}{default}\n{'':8} {recipe}")


def _formats(_: Namespace) -> None:
    from moco_eval.encoders.formats import FORMATS
    from moco_eval.encoders.formats.layout import needs_of

    for row in FORMATS:
        print(f"{row.name:22} {row.title}")
        towers = " or ".join(tower.name for tower in row.towers)
        default = "" if row.equal_towers or len(row.towers) < 2 else ", the first unless --tower"
        facts = {"tower": f"{towers}{default}", "needs": needs_of(row), "source": row.source}
        for key, value in facts.items():
            print(f"{'':22} {key:6} {value}")
    print(WRAPPINGS)


def _table_options(parser: ArgumentParser) -> None:
    parser.epilog = """example:
  moco-eval table --results results --format latex --baseline random --output table.tex"""
    add = parser.add_argument
    add("--results", type=str, default="results", help="folder of the records")
    add("--format", type=str, default="md", help="md, latex, csv or html")
    add("--baseline", type=str, default=None, help="the encoder that deltas are taken from")
    add("--output", type=str, default=None, help="a file instead of standard output")


def _table(arguments: Namespace) -> None:
    from moco_eval import records, tables
    from moco_eval.files import write_text

    found, problems = records.read_all(Path(arguments.results))
    for problem in problems:
        print(f"moco-eval table: {problem}", file=sys.stderr)
    text = tables.render(tables.table(found, baseline=arguments.baseline), arguments.format)
    if arguments.output:
        write_text(Path(arguments.output), text)
    else:
        print(text)


def _published_options(parser: ArgumentParser) -> None:
    parser.epilog = 'example:\n  moco-eval published "MoCo v2" voc_det_c4_24k'
    parser.add_argument("words", type=str, nargs="+", help="every word must occur in a row")


def _published(arguments: Namespace) -> None:
    from moco_eval.published import search

    print(search(arguments.words).to_string(index=False))


def _doctor(_: Namespace) -> None:
    from moco_eval.environment import doctor

    print(doctor())


def _demo_options(parser: ArgumentParser) -> None:
    parser.add_argument("--output", type=str, default="runs/demo", help="folder of all it makes")


def _demo(arguments: Namespace) -> None:
    from moco_eval.demo import demo

    demo(Path(arguments.output))


COMMANDS = {
    "demo": Command("the whole chain on embedded images, in minutes", _demo_options, _demo),
    "linear": _protocol("linear", "linear probe on frozen features, all labels"),
    "knn": _protocol("knn", "k-nearest-neighbour classifier on frozen features"),
    "lowshot": _protocol("lowshot", "linear probe on a few labels a class"),
    "detect": _protocol("detect", "object detection: fine-tune a C4 Faster R-CNN, box AP"),
    "segment": _protocol("segment", "instance masks: fine-tune a C4 Mask R-CNN, mask AP"),
    "check": Command("what an encoder is, and whether it looks sane", _check_options, _check),
    "convert": Command("write an encoder in another format, proven", _convert_options, _convert),
    "recipes": Command("the recipes of every protocol, with their numbers", _no_options, _recipes),
    "formats": Command("the checkpoint layouts that load", _no_options, _formats),
    "table": Command("a comparison table from records", _table_options, _table),
    "published": Command("search the published numbers", _published_options, _published),
    "doctor": Command("what is installed, and what is missing", _no_options, _doctor),
}


if __name__ == "__main__":
    main()
