"""``moco-pretrain``: images in, checkpoint out."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from moco_eval import errors, recipes
from moco_eval.environment import choose_device
from moco_eval.errors import DivergedError, PreemptedError, RankError, UsageError
from moco_eval.files import write_text
from moco_eval.options import add_run_options, command_parser
from moco_eval.training.signals import StopRequest, die_with_parent
from pretrain.recipes import RECIPES, Recipe

PROGRAM = "moco-pretrain"
STATUS = "status.json"
DATA_HELP = (
    "digits, imagefolder:DIR, folder:DIR, torchvision:NAME:DIR, csv:FILE, list:FILE, wds:TARS or "
    "hf:NAME_OR_DIR"
)
EPILOG = """examples:
  moco-pretrain recipes
  moco-pretrain --recipe mocov2-digits --data digits --output runs/digits --knn-every 5
  moco-pretrain --recipe mocov2 --data imagefolder:/data/imagenet --output runs/v2 --nproc 8 \\
      --workers 10
  moco-pretrain --recipe mocov2 --set batch_total=512 --data ... --output ...
  torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29400 \\
      --no-python moco-pretrain --recipe mocov3-vit-small --data ... --output ...
  moco-pretrain slurm --nodes 2 --recipe mocov3-vit-small --data ... --output ... > run.sbatch

The same command again continues from the newest checkpoint, with the same result as if it had never
stopped. It leaves checkpoint.pth.tar in upstream's layout, metrics.jsonl and pictures; evaluate it
with: moco-eval linear runs/digits/checkpoint.pth.tar --data digits

exit codes: 0 done, 2 usage or weights, 65 data, 70 diverged or a rank lost, 74 input and output,
75 asked to stop and saved: run the same command again. status.json says the same."""


def main() -> None:
    """Entry point of ``moco-pretrain``."""
    arguments = sys.argv[1:]
    if arguments == ["recipes"]:
        sys.exit(errors.run(lambda: print(list_recipes()), program=PROGRAM, verbose=False))
    if arguments[:1] == ["slurm"]:
        write = functools.partial(_print_batch_file, arguments[1:])
        sys.exit(errors.run(write, program=PROGRAM, verbose=False))
    parsed = parser().parse_args(arguments)
    if parsed.nproc > 1 and "RANK" not in os.environ:
        sys.exit(_launch(parsed, arguments))
    is_rank = "RANK" in os.environ
    program = f"{PROGRAM} [rank {os.environ['RANK']}]" if is_rank else PROGRAM
    with StopRequest().listening() as stop:
        code = errors.run(lambda: pretrain(parsed, stop), program=program, verbose=parsed.verbose)
    sys.stdout.flush()
    sys.stderr.flush()
    if is_rank and code:
        # Torn connections to other ranks would end an orderly exit by another signal and code.
        os._exit(code)
    sys.exit(code)


def pretrain(arguments: Namespace, stop: StopRequest) -> None:
    """Train as the command line asks and leave ``status.json`` in the output folder."""
    recipe = _recipe_of(arguments, int(os.environ.get("WORLD_SIZE", "1")))
    output = Path(arguments.output)
    device = choose_device(arguments.device)

    from moco_eval import distributed
    from moco_eval.data.catalog import open_pretraining
    from moco_eval.training.heartbeat import silent_ranks
    from pretrain.train import Options, train

    if distributed.is_launched():
        die_with_parent()
    status = output / STATUS
    if os.environ.get("RANK", "0") == "0" and status.exists():
        status.unlink()  # of an earlier part of the run
    data = open_pretraining(arguments.data)
    options = Options(
        num_workers=arguments.workers,
        knn_every=arguments.knn_every,
        knn_limit=arguments.knn_limit,
        save_every=arguments.save_every,
        device=device,
        compile=arguments.compile,
        recompute=arguments.recompute,
        accumulate=arguments.accumulate,
        max_bad=arguments.max_bad,
        init_from=arguments.init_from,
        allow_world_size_change=arguments.allow_world_size_change,
        tensorboard=arguments.tensorboard,
    )
    try:
        with distributed.ranks(device, timeout_s=arguments.rank_timeout):
            is_first = distributed.rank() == 0
            if is_first:
                _introduce(arguments.recipe, recipe, f"{data.id}: {len(data.train)} images")
            path = train(
                recipe,
                data,
                name=arguments.recipe,
                output=output,
                seed=arguments.seed,
                options=options,
                stop=stop,
            )
            if is_first:
                _leave_status(output, "done", f"The checkpoint is {path}.")
                print(f"The checkpoint is {path}. Look at it with: moco-eval check {path}")
    except RankError as error:
        told = RankError(f"{error} {silent_ranks(output)}")
        # The rank that is missed, if it could still speak, has said why.
        if not status.exists():
            _leave_status(output, "failed", str(told))
        raise told from error
    except UsageError as error:
        states = {PreemptedError: "preempted", DivergedError: "diverged"}
        _leave_status(output, states.get(type(error), "failed"), str(error))
        raise


def list_recipes() -> str:
    """Each recipe with its numbers, its source and what was published of it."""
    paragraphs = []
    for name, recipe in RECIPES.items():
        paragraphs.append(
            f"{name}\n"
            f"  {recipe.method}, {recipe.arch}, {recipe.views} views of {recipe.image_size}, "
            f"{recipe.epochs} epochs, batch {recipe.batch_total}, {recipe.optimizer}, "
            f"lr {recipe.scaling_rule}, {recipe.schedule}\n"
            f"  source: {recipe.source}\n"
            f"  published: {recipe.published}"
        )
    return "\n".join(paragraphs)


def parser() -> ArgumentParser:
    """The parser of ``moco-pretrain``."""
    options = command_parser(
        PROGRAM, "Pretrain an encoder without labels, by momentum contrast (MoCo).", EPILOG
    )
    add = options.add_argument
    add("--recipe", type=str, required=True, help="its name; see: moco-pretrain recipes")
    add("--data", type=str, required=True, help=DATA_HELP)
    add("--output", type=str, required=True, help="folder of checkpoints, metrics and pictures")
    add_run_options(options)
    add("--nproc", type=int, default=1, help="processes on this machine, one a GPU")
    add("--virtual-ranks", type=int, default=0, help="groups of each process with BatchNorm "
        "statistics of their own; 0: the recipe's num_ranks, shared out")  # fmt: skip
    add("--workers", type=int, default=0, help="processes that load images, for each rank")
    add("--knn-every", type=int, default=0, help="epochs between kNN checks on labels; 0: none")
    add("--knn-limit", type=int, default=0, help="images of each split for kNN; 0: all")
    add("--save-every", type=int, default=0, help="steps between checkpoints; 0: each epoch")
    add("--max-bad", type=int, default=100, help="damaged images to bear; they are listed")
    add("--init-from", type=str, default="", help="an encoder to begin with, not to resume")
    add("--compile", action="store_true", help="torch.compile the encoders")
    add("--recompute", action="store_true", help="gradient checkpointing: less memory, slower")
    add("--accumulate", type=int, default=1, help="backward passes a step, for less memory")
    add("--rank-timeout", type=float, default=100.0, help="seconds to wait for a silent rank")
    add("--allow-world-size-change", action="store_true", help="resume with other --nproc")
    add("--tensorboard", type=bool, default=True, help="write TensorBoard's event file")
    return options


def _recipe_of(arguments: Namespace, num_processes: int) -> Recipe:
    overrides = list(arguments.set)
    if arguments.virtual_ranks:
        overrides.append(f"num_ranks={arguments.virtual_ranks * num_processes}")
    recipe = recipes.choose(RECIPES, arguments.recipe, overrides)
    recipe.virtual_ranks(num_processes)  # or it cannot be shared out
    return recipe


def _introduce(name: str, recipe: Recipe, images: str) -> None:
    print(f"{name} on {images}, lr {recipe.scaling_rule}, {recipe.schedule}.", flush=True)
    changed = recipes.deviations(recipe, RECIPES[name])
    if changed:
        told = ", ".join(f"{key}={value}" for key, value in changed.items())
        print(f"Deviates from the recipe: {told}.", flush=True)


def _launch(parsed: Namespace, arguments: Sequence[str]) -> int:
    """Refuse what would fail in every rank once, then start them."""
    from moco_eval.training.launch import launch

    def refuse() -> None:
        _recipe_of(parsed, parsed.nproc)
        choose_device(parsed.device)

    code = errors.run(refuse, program=PROGRAM, verbose=parsed.verbose)
    return code or launch("pretrain.cli", arguments, parsed.nproc, program=PROGRAM)


def _print_batch_file(arguments: Sequence[str]) -> None:
    from pretrain import slurm

    asked, rest = slurm.parser().parse_known_args(list(arguments))
    run = parser().parse_args(rest)
    _recipe_of(run, asked.nodes * asked.gpus)
    print(slurm.batch_file(asked, rest, name=f"pretrain-{run.recipe}"), end="")


def _leave_status(output: Path, state: str, reason: str) -> None:
    """Say how the run ended, for launchers that hide exit codes; nothing where nothing was made."""
    if output.is_dir():
        content = {"state": state, "requeue": state == "preempted", "reason": reason}
        write_text(output / STATUS, json.dumps(content))


if __name__ == "__main__":
    main()
