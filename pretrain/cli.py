"""``moco-pretrain``: images in, checkpoint out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from moco_eval import errors, recipes
from moco_eval.environment import choose_device
from moco_eval.files import write_text
from moco_eval.options import add_run_options, command_parser
from pretrain.recipes import RECIPES

EPILOG = """examples:
  moco-pretrain recipes
  moco-pretrain --recipe mocov2-digits --data digits --output runs/digits --knn-every 5
  moco-pretrain --recipe mocov2 --data imagefolder:/data/imagenet --output runs/mocov2 --workers 16
  moco-pretrain --recipe mocov2 --set lr=0.06 --set batch_total=512 --data ... --output ...

The same command again continues from the last whole epoch, with the same result as if it had never
stopped. It leaves checkpoint.pth.tar in upstream's layout, metrics.jsonl and pictures; evaluate it
with: moco-eval linear runs/digits/checkpoint.pth.tar --data digits"""


def main() -> None:
    """Entry point of ``moco-pretrain``."""
    arguments = sys.argv[1:]
    if arguments == ["recipes"]:
        print(list_recipes())
        sys.exit(0)
    parsed = parser().parse_args(arguments)
    sys.exit(errors.run(lambda: pretrain(parsed), program="moco-pretrain", verbose=parsed.verbose))


def pretrain(arguments: Namespace) -> None:
    """Train as the command line asks and leave ``status.json`` in the output folder."""
    recipe = recipes.choose(RECIPES, arguments.recipe, arguments.set)
    output = Path(arguments.output)

    from moco_eval.data.catalog import open_images
    from pretrain.train import Options, train

    data = open_images(arguments.data)
    lr_rule = f"lr {recipe.lr:g} for batches of {recipe.batch_total}, {recipe.schedule} schedule"
    print(f"{arguments.recipe} on {data.id}: {len(data.train)} images, {lr_rule}.", flush=True)
    path = train(
        recipe,
        data,
        name=arguments.recipe,
        output=output,
        seed=arguments.seed,
        options=Options(
            num_workers=arguments.workers,
            knn_every=arguments.knn_every,
            device=choose_device(arguments.device),
        ),
    )
    write_text(output / "status.json", json.dumps({"state": "done", "checkpoint": path.name}))
    print(f"The checkpoint is {path}. Look at it with: moco-eval check {path}", flush=True)


def list_recipes() -> str:
    """A line a recipe: its name and the numbers that tell it from the others."""
    return "\n".join(
        f"{name:18} {recipe.method}, {recipe.arch}, {recipe.views} views, {recipe.epochs} epochs, "
        f"batch {recipe.batch_total}, lr {recipe.lr:g} {recipe.schedule}"
        for name, recipe in RECIPES.items()
    )


def parser() -> ArgumentParser:
    """The parser of ``moco-pretrain``."""
    options = command_parser(
        "moco-pretrain", "Pretrain an encoder without labels, by momentum contrast (MoCo).", EPILOG
    )
    add = options.add_argument
    add("--recipe", type=str, required=True, help="its name; see: moco-pretrain recipes")
    add("--data", type=str, required=True, help="digits, imagefolder:DIR or torchvision:NAME:DIR")
    add("--output", type=str, required=True, help="folder of checkpoint, metrics and pictures")
    add_run_options(options)
    add("--workers", type=int, default=0, help="processes that load images")
    add("--knn-every", type=int, default=0, help="epochs between kNN checks on the labels; 0: none")
    return options


if __name__ == "__main__":
    main()
