"""``moco-eval``: one sub-command per module; starts without importing torch."""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jsonargparse import ArgumentParser, Namespace

import moco_eval
from moco_eval import errors, protocol_command
from moco_eval.options import command_parser

if TYPE_CHECKING:
    from moco_eval.encoders.encoder import Encoder

WRAPPINGS = """
Each may be a torch file of any age, safetensors, a pickle of arrays, a folder of the Hugging Face
hub or of torch.distributed.checkpoint; a whole pickled module or a TorchScript archive is read
without running it. What DistributedDataParallel, torch.compile, FSDP and activation checkpointing
put into names is taken off. A layout that is not listed: --prefix, --arch and --input."""


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
    rank = os.environ.get("RANK")
    program = f"moco-eval {name}" if rank is None else f"moco-eval {name} [rank {rank}]"
    code = errors.run(lambda: action(parsed), program=program, verbose=parsed.verbose)
    if rank is not None and code:
        # Torn connections to other ranks would end an orderly exit by another signal and code.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


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
    return Command(
        text,
        functools.partial(protocol_command.add_options, name=name),
        functools.partial(protocol_command.run, name=name),
    )


def _encoder_options(parser: ArgumentParser) -> None:
    parser.add_argument("encoder", type=str, metavar="ENCODER", help="checkpoint or specification")
    protocol_command.add_hints(parser)


def _encoder(arguments: Namespace) -> Encoder:
    from moco_eval.encoders.load import load_encoder

    return load_encoder(arguments.encoder, **asdict(protocol_command.hints_of(arguments)))


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


def _module(name: str, text: str) -> Command:
    """A command whose options and action are in a module of its own."""

    def options(parser: ArgumentParser) -> None:
        importlib.import_module(name).add_options(parser)

    def action(arguments: Namespace) -> None:
        importlib.import_module(name).run(arguments)

    return Command(text, options, action)


def _no_options(parser: ArgumentParser) -> None:
    """The command takes none."""


def _recipes(_: Namespace) -> None:
    from moco_eval import recipes, suite

    for protocol in (*suite.IMAGE_PROTOCOLS, *suite.DENSE_PROTOCOLS):
        module = suite.protocol_module(protocol)
        for name, recipe in module.RECIPES.items():
            default = " (default)" if name == module.DEFAULT_RECIPE else ""
            print(f"{recipes.protocol_id(protocol, recipe):16} {name}{default}\n{'':16} {recipe}")
            if name in getattr(module, "PUBLISHED", {}):
                print(f"{'':16} {module.PUBLISHED[name]}")


def _datasets(_: Namespace) -> None:
    from moco_eval.data import facts, scene_sets, semantic_sets

    print("\n".join(facts.describe()))
    print("\nFor detect and segment:")
    print("\n".join(scene_sets.describe()))
    print("\nFor segment --task semantic:")
    print("\n".join(semantic_sets.describe()))


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
    "finetune": _protocol("finetune", "fine-tuning of the whole network, all labels"),
    "lowshot": _protocol("lowshot", "linear probe, or fine-tuning, on a few labels"),
    "svm": _protocol("svm", "linear SVMs on frozen features, one a class, as for VOC07"),
    "detect": _protocol("detect", "object detection: fine-tune a detector, box AP"),
    "segment": _protocol("segment", "segmentation, of objects or of every pixel"),
    "check": Command("what an encoder is, and whether it looks sane", _check_options, _check),
    "convert": Command("write an encoder in another format, proven", _convert_options, _convert),
    "recipes": Command("the recipes of every protocol, with their numbers", _no_options, _recipes),
    "datasets": Command("the data sets that open by name", _no_options, _datasets),
    "formats": Command("the checkpoint layouts that load", _no_options, _formats),
    "run": _module("moco_eval.suite.command", "a suite: encoders x protocols x seeds"),
    "results": _module("moco_eval.results_command", "list, show, verify, index, merge records"),
    "table": _module("moco_eval.tables.command", "a comparison table from records"),
    "report": _module("moco_eval.report.command", "one page of tables, curves and pictures"),
    "published": _module("moco_eval.published_command", "search the published numbers"),
    "doctor": Command("what is installed, and what is missing", _no_options, _doctor),
}


if __name__ == "__main__":
    main()
