"""``moco-eval run``: a suite, which is encoders x protocols x seeds."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from moco_eval.cell import Cell
from moco_eval.errors import DivergedError, PreemptedError, UsageError, unknown
from moco_eval.feature_cache import default_folder
from moco_eval.resources import Resources
from moco_eval.suite import plan, slurm
from moco_eval.suite.board import Board
from moco_eval.suite.claims import TIMEOUT_S
from moco_eval.suite.dry_run import Line, describe, lines_of
from moco_eval.suite.ledger import RERUN, Ledger
from moco_eval.suite.pool import Worker, slots
from moco_eval.suite.pretraining import is_missing, make_missing
from moco_eval.suite.runner import Runner, Settings, Tally
from moco_eval.suite.tasks import Refused, Task, cells_of, identified, label
from moco_eval.suite.watch import Watch
from moco_eval.training.signals import StopRequest

EPILOG = """examples:
  moco-eval run quick --data images=imagefolder:DIR --encoder mine=checkpoint.pth.tar
  moco-eval run digits --jobs 4
  moco-eval run moco-paper --data imagenet=imagefolder:/data/imagenet --gpus 0,1,2,3 --dry-run

A cell is one encoder under one protocol with one seed. What the results folder holds already is
skipped: by the encoder's weights, the images, the recipe and the seed, not by names of files. What
fails is recorded, and the rest goes on. Killed or stopped, the same command goes on. Several of
them on one file system, on as many machines, divide the cells and do none twice.

--rerun decides what is run:
{rerun}

exit codes: 0 every cell is recorded, 2 or 65 some cannot be run as asked, 70 some failed, 75
stopped or left to others: run the same command again."""


def add_options(parser: ArgumentParser) -> None:
    """The options of ``moco-eval run``."""
    told = "\n".join(f"  {name:8} {text}" for name, text in RERUN.items())
    parser.epilog = EPILOG.format(rerun=told)
    add = parser.add_argument
    add(
        "suite",
        type=str,
        metavar="SUITE",
        help="a TOML file; or quick, digits, "
        "pretraining-digits or moco-paper, which come with the program",
    )
    _add_choices(parser)
    add("--results", type=str, default="results", help="folder of the records")
    add("--work", type=str, default="runs", help="folder for what is no result: pictures, logs")
    add("--rerun", type=str, default="missing", help="never, missing, failed or always: see below")
    add("--dry-run", action="store_true", help="show what would be run, and how long it takes")
    add("--pictures", action="store_true", help="draw what there is to see, each with its CSV")
    _add_machine(parser)


def _add_choices(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("what the suite is about")
    add = group.add_argument
    for option, text in (
        ("--data", "where data of the suite's [data] is; may be repeated"),
        ("--encoder", "one more encoder, or another of that name; may be repeated"),
    ):
        add(option, action="append", type=str, default=[], metavar="NAME=SPEC", help=text)
    add("--only-encoders", type=str, default="", metavar="NAME,...", help="these of its encoders")
    add("--only-protocols", type=str, default="", metavar="NAME,...", help="these of its protocols")


def _add_machine(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("how it is carried out; the results stay")
    add = group.add_argument
    add("--jobs", type=int, default=0, help="cells at once, one thread each; by default one")
    add("--gpus", type=str, default="", help="one cell on each, such as 0,1,2; by default on all")
    add("--device", type=str, default="auto", help="cpu, cuda, or auto: a GPU if there is one")
    add("--claim-timeout", type=float, default=TIMEOUT_S, help="seconds after which a cell is "
        "taken from another machine that is silent")  # fmt: skip
    add("--no-wait", action="store_true", help="do not wait for cells that others have")
    add("--since", type=str, default="", help="a time, as records have it: what is recorded from "
        "then on is not run again, whatever --rerun says")  # fmt: skip
    add("--watch", type=str, default="", metavar="DIR", help="also evaluate the checkpoints that a "
        "pretraining writes there, as it does; or a pattern of files")  # fmt: skip
    add("--watch-timeout", type=float, default=3600.0, help="seconds without a new checkpoint "
        "after which there will be no more; a pretraining that is done says so itself")  # fmt: skip
    add(slurm.OPTION, type=str, default="", metavar="KEY=VALUE,...", help="submit an array of jobs "
        f"that divide the cells, and end: {', '.join(slurm.KEYS)}")  # fmt: skip


def run(arguments: Namespace) -> None:
    """Run the cells of the suite that are to be run.

    Raises:
        UsageError: If the suite, or an option, is wrong; or some cells cannot be run.
        DivergedError: If some failed; the others are recorded.
        PreemptedError: If it was asked to stop; the same command goes on.
    """
    if arguments.rerun not in RERUN:
        raise unknown("way to rerun", arguments.rerun, RERUN)
    suite = _suite(arguments)
    settings = Settings(
        results=Path(arguments.results),
        work=Path(arguments.work),
        rerun=arguments.rerun,
        pictures=arguments.pictures,
        claim_timeout_s=arguments.claim_timeout,
        waits=not arguments.no_wait,
    )
    if arguments.slurm:
        told = slurm.submit(
            arguments.slurm, sys.argv[2:], name=suite.name, folder=settings.work / "slurm"
        )
        print(told)
        return
    places = slots(jobs=max(1, arguments.jobs), gpus=_gpus(arguments))
    how = {"device": arguments.device, "resources": Resources(cache=default_folder())}
    cells, left_out = cells_of(suite, **how)
    print("\n".join([f"Suite {suite.name}: {len(cells)} cells.", *left_out]), flush=True)
    if arguments.dry_run:
        ledger = Ledger(settings.results, since=arguments.since, may_write=False)
        lines = _lines(suite, cells, ledger, settings)
        print("\n".join([describe(lines, num_at_once=len(places)), "", *_notes(suite)]))
        return
    feed = None
    if arguments.watch:
        feed = Watch(
            arguments.watch,
            keep=settings.work / "watched",
            timeout_s=arguments.watch_timeout,
            cells_of=lambda encoder: cells_of(replace(suite, encoders=(encoder,)), **how)[0],
        )
    with StopRequest().listening() as stop:
        failed = make_missing(suite, places, settings, stop)
        ledger = Ledger(settings.results, since=arguments.since)
        board = Board(suite.name, num_at_once=len(places))
        runner = Runner(settings, [Worker(place) for place in places], ledger, board)
        tally = runner.run(_unique(identified(cells)), stop, feed)
        board.close()
    _conclude(tally, failed, stop)


def _lines(suite: plan.Suite, cells: list[Cell], ledger: Ledger, settings: Settings) -> list[Line]:
    """The plan of a dry run; encoders that are to be pretrained are not opened."""
    unmade = {encoder.name for encoder in suite.encoders if is_missing(encoder)}
    known = identified(cell for cell in cells if cell.name not in unmade)
    rest = [cell for cell in cells if cell.name in unmade]
    return lines_of(_unique(known), rest, ledger, settings.rerun)


def _notes(suite: plan.Suite) -> list[str]:
    """What the suite says of its runs."""
    return [
        f"{' '.join(filter(None, (run.protocol, run.recipe)))} on {run.data}: {run.note}"
        for run in suite.runs
        if run.note
    ]


def _suite(arguments: Namespace) -> plan.Suite:
    suite = plan.read(plan.find(arguments.suite))
    suite = plan.with_data(suite, arguments.data)
    suite = plan.with_encoders(suite, arguments.encoder)
    suite = plan.only(
        suite,
        encoders=_names(arguments.only_encoders),
        protocols=_names(arguments.only_protocols),
    )
    if not suite.encoders and not arguments.watch:
        raise UsageError(f"{suite.path.name} has no encoders: name some with --encoder NAME=SPEC.")
    return suite


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _gpus(arguments: Namespace) -> list[str]:
    """The GPUs that cells run on; none where they run on the CPU."""
    asked = _names(arguments.gpus)
    if asked and arguments.jobs:
        raise UsageError("--jobs and --gpus exclude each other: a GPU has one cell at a time.")
    if asked or arguments.jobs or arguments.device == "cpu":
        return asked
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return _names(visible)
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _unique(found: list[Task | Refused]) -> list[Task | Refused]:
    """Each cell once, though a suite may name it twice in different words."""
    keys: set[str] = set()
    kept = []
    for each in found:
        if isinstance(each, Task):
            if each.key in keys:
                continue
            keys.add(each.key)
        kept.append(each)
    return kept


def _conclude(tally: Tally, unmade: list[str], stop: StopRequest) -> None:
    """Print how it went, and end as it deserves."""
    counts = {
        "recorded before": len(tally.before),
        "recorded now": len(tally.done),
        "failed": len(tally.failed),
        "cannot be run": len(tally.refused),
        "stopped or not begun": len(tally.stopped),
        "left to others": len(tally.elsewhere),
    }
    print("; ".join(f"{number} {name}" for name, number in counts.items() if number) + ".")
    for task, text in tally.failed:
        print(f"failed: {label(task.cell)}: {text}")
    if stop.reason:
        raise PreemptedError(f"Stopped by {stop.reason}. Run the same command again: it goes on.")
    if tally.failed or unmade:
        raise DivergedError("; ".join([*unmade, f"{len(tally.failed)} cells failed, see above."]))
    if tally.refused:
        first = tally.refused[0].error
        text = f"{len(tally.refused)} cells cannot be run. The first: {first}"
        raise type(first)(text) if isinstance(first, UsageError) else UsageError(text)
    if tally.elsewhere:
        raise PreemptedError(f"{len(tally.elsewhere)} cells are at work elsewhere (--no-wait).")
