"""One cell: found among the records, or run and recorded, with the pictures of what it found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from moco_eval import cost, distributed, environment, records, store
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
from moco_eval.suite.claims import Claim

__all__ = ["DENSE_PROTOCOLS", "IMAGE_PROTOCOLS", "Cell", "protocol_module"]

RUN_ID = "run_id"


def find_record(cell: Cell, *, results: Path) -> dict[str, Any] | None:
    """The newest record of the cell if the store holds a successful one."""
    return store.find(results, prepare(cell).run.key())


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What a run's record stands for among others.

    Attributes:
        supersedes: The ``run_id`` of the record that it takes the place of.
        claim: What must still be held when it is written: see ``moco_eval.suite.claims``.
    """

    supersedes: str | None = None
    claim: Claim | None = None


ALONE = Standing()


def run_cell(
    cell: Cell,
    *,
    results: Path,
    work_dir: Path,
    pictures: bool = False,
    prepared: Prepared | None = None,
    standing: Standing = ALONE,
) -> dict[str, Any]:
    """Run one cell and return its record.

    In a run of several processes each makes this call, and the first one writes.

    Args:
        cell: What to run.
        results: The store.
        work_dir: Where the run leaves what is no result: predictions, curves.
        pictures: Whether to draw there what the protocol has to show.
        prepared: The cell opened, by whoever has done that already.
        standing: What the record takes the place of, and what it is subject to.

    Returns:
        The record; on ranks that write none, an empty one.

    Raises:
        UsageError: If the cell cannot be run as asked; nothing is recorded.
        DivergedError: If it ran and failed; that is recorded.
        PreemptedError: If it was asked to stop; that is recorded, and the same call continues. Also
            if another process has taken it over meanwhile, which then records it.
    """
    prepared = prepared or prepare(cell)
    run = prepared.run
    keywords: dict[str, Any] = {"engine": run.engine} if run.engine else {}
    is_first = distributed.rank() == 0
    if is_first:
        introduce(cell, prepared)
    outcome, failure = None, None
    with cost.Meter(run.key(), work_dir, device=prepared.encoder.device.type) as meter:
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
        spent = meter.end(is_finished=not isinstance(failure, PreemptedError))
    if not is_first:
        _raise(failure, cell, run)
        return {}
    if standing.claim and not standing.claim.holds():
        raise PreemptedError(
            f"{cell.protocol} of {run.encoder_id}: another process holds this cell since this one "
            "was silent for too long. It records it; what was measured here is left out."
        )
    path = records.write(
        run,
        results,
        status=_status_of(failure),
        outcome=outcome,
        error=str(failure) if failure else None,
        environment=environment.describe(),
        time=spent,
        supersedes=standing.supersedes,
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
