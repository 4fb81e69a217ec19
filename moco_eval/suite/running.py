"""Encoders x protocols x seeds: run what is missing, skip what is done, record what fails."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from moco_eval import distributed, environment, records, store
from moco_eval.cell import (
    DENSE_PROTOCOLS,
    IMAGE_PROTOCOLS,
    Cell,
    Prepared,
    prepare,
    protocol_module,
)
from moco_eval.engines.recipe import Recipe as DetectorRecipe
from moco_eval.engines.recipe import Training
from moco_eval.errors import DivergedError, PreemptedError, UsageError
from moco_eval.files import write_text
from moco_eval.introduction import introduce

__all__ = ["DENSE_PROTOCOLS", "IMAGE_PROTOCOLS", "Cell", "protocol_module"]

RUN_ID = "run_id"


def find_record(cell: Cell, *, results: Path) -> dict[str, Any] | None:
    """The newest record of the cell if the store holds a successful one."""
    return store.find(results, prepare(cell).run.key())


def run_cell(
    cell: Cell, *, results: Path, work_dir: Path, pictures: bool = False
) -> dict[str, Any]:
    """Run one cell and return its record.

    In a run of several processes each makes this call, and the first one writes.

    Args:
        cell: What to run.
        results: The store.
        work_dir: Where the run leaves what is no result: predictions, curves.
        pictures: Whether to draw there what the protocol has to show.

    Returns:
        The record; on ranks that write none, an empty one.

    Raises:
        UsageError: If the cell cannot be run as asked; nothing is recorded.
        DivergedError: If it ran and failed; that is recorded.
        PreemptedError: If it was asked to stop; that is recorded, and the same call continues.
    """
    prepared = prepare(cell)
    run = prepared.run
    keywords: dict[str, Any] = {"engine": run.engine} if run.engine else {}
    is_first = distributed.rank() == 0
    if is_first:
        introduce(cell, prepared)
    begun_s = time.monotonic()
    outcome, failure = None, None
    try:
        outcome = prepared.module.evaluate(
            prepared.encoder,
            prepared.recipe,
            prepared.data,
            seed=cell.seed,
            work_dir=work_dir,
            resources=cell.resources,
            **keywords,
        )
    except (DivergedError, PreemptedError, RuntimeError) as error:
        failure = error
    if not is_first:
        _raise(failure, cell, run)
        return {}
    path = records.write(
        run,
        results,
        status=_status_of(failure),
        outcome=outcome,
        error=str(failure) if failure else None,
        environment=environment.describe(),
        time={
            "wall_s": round(time.monotonic() - begun_s, 3),
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        },
    )
    record = records.read(path)
    # By it the run's pictures find their record.
    write_text(work_dir / RUN_ID, f"{record['run_id']}\n")
    _raise(failure, cell, run)
    if pictures and outcome:
        _draw(outcome, prepared, work_dir)
    return record


def _draw(outcome: records.Outcome, prepared: Prepared, folder: Path) -> None:
    from moco_eval import pictures

    drawn = {
        name: value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
        for name, value in outcome.drawn.items()
    }
    data, recipe = prepared.data, prepared.recipe
    is_one_of_several = any(name.endswith("_by_draw") for name in outcome.details)
    title = f"{prepared.run.encoder_id} on {data.id}, {prepared.run.protocol}"
    what = {"classes": data.classes, "folder": folder}
    if isinstance(recipe, DetectorRecipe):
        results: Any = drawn.pop("detections")
        paths = pictures.draw_scenes(drawn, scenes=data.test, results=results, title=title, **what)
    elif isinstance(recipe, Training):
        paths = pictures.draw_maps(drawn, split=data.test, title=title, **what)
    else:
        title += ", first draw" if is_one_of_several else ""
        images = (data.test.images, data.train.images)
        paths = pictures.draw(drawn, images=images, title=title, **what)
    if paths:
        names = ", ".join(path.name for path in paths)
        print(f"Pictures, each with its numbers, in {folder}: {names}", flush=True)


def _status_of(failure: Exception | None) -> Literal["ok", "failed", "preempted"]:
    if failure is None:
        return "ok"
    return "preempted" if isinstance(failure, PreemptedError) else "failed"


def _raise(failure: Exception | None, cell: Cell, run: records.Run) -> None:
    if isinstance(failure, UsageError):
        raise failure
    if failure:
        raise DivergedError(f"{cell.protocol} of {run.encoder_id} failed: {failure}") from failure


def run_all(
    cells: Sequence[Cell], *, results: Path, work_dir: Path, num_processes: int = 1
) -> list[dict[str, Any]]:
    """Run the cells that the store does not hold; a failed one is recorded and the rest goes on.

    Args:
        cells: What to run.
        results: The store.
        work_dir: Each cell gets a folder below it, with a log of what it printed.
        num_processes: How many cells run at once, each on one thread of its own process: small
            networks on a CPU gain more from that than from more threads.

    Returns:
        The records of the cells that are done, new or old.
    """
    found = {cell: find_record(cell, results=results) for cell in cells}
    missing = [cell for cell in cells if found[cell] is None]
    print(f"{len(cells)} runs, {len(cells) - len(missing)} of them recorded already.", flush=True)
    progress = tqdm(total=len(missing), desc="runs", unit="run", disable=None)
    done = [record for record in found.values() if record is not None]
    outcomes = _outcomes(missing, results, work_dir, num_processes)
    for number, (cell, ended) in enumerate(outcomes, len(done) + 1):
        label = f"{cell.protocol} {cell.name or cell.encoder} seed {cell.seed}"
        if isinstance(ended, DivergedError):
            text = f"failed. {ended}"
        else:
            text = f"{summary(ended)} ({ended['time']['wall_s']:.1f} s)"
            done.append(ended)
        progress.update()
        tqdm.write(f"[{number}/{len(cells)}] {label}: {text}")
    progress.close()
    return done


def _outcomes(
    cells: Sequence[Cell], results: Path, work_dir: Path, num_processes: int
) -> Iterator[tuple[Cell, dict[str, Any] | DivergedError]]:
    """Each cell with its record, or the error with which it failed, as they end."""
    if num_processes == 1 or len(cells) < 2:
        yield from ((cell, _run_logged(cell, results, work_dir)) for cell in cells)
        return
    # Spawned, as a forked child would inherit torch's threads in an unknown state.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, context, torch.set_num_threads, (1,)) as pool:
        futures = {pool.submit(_run_logged, cell, results, work_dir): cell for cell in cells}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise DivergedError(
                "A process that ran a cell was killed, perhaps for want of memory. What is "
                "recorded stays; the same command goes on from it."
            ) from error


def _run_logged(cell: Cell, results: Path, work_dir: Path) -> dict[str, Any] | DivergedError:
    """Run a cell with what it prints in a log of its own."""
    folder = work_dir / work_folder(cell)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((folder / "log.txt").open("w"))
        stack.enter_context(contextlib.redirect_stdout(log))
        stack.enter_context(contextlib.redirect_stderr(log))
        try:
            return run_cell(cell, results=results, work_dir=folder)
        except DivergedError as error:
            return error


def work_folder(cell: Cell) -> Path:
    """Where a run leaves what is no result, below the work folder."""
    recipe = cell.recipe or protocol_module(cell.protocol).DEFAULT_RECIPE
    what = f"{cell.protocol}-{' '.join((recipe, *cell.overrides))}"
    parts = (what, cell.data, cell.name or cell.encoder, f"seed{cell.seed}")
    return Path(*(records.slug(part) for part in parts))


def summary(record: dict[str, Any]) -> str:
    """The metrics of a record in one line, the primary first: ``top1 97.2, top5 99.9``."""
    metrics = sorted(record["metrics"].items(), key=lambda item: not item[1]["primary"])
    return ", ".join(f"{name} {metric['value']:.1f}" for name, metric in metrics)
