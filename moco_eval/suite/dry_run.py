"""What a suite would do, cell by cell, with how long it takes by what is recorded."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from moco_eval import recipes
from moco_eval.cell import Cell, open_data, recipe_of
from moco_eval.engines import SUFFIX
from moco_eval.engines.recipe import Recipe as DetectorRecipe
from moco_eval.errors import UsageError
from moco_eval.suite.estimates import Estimates, Kind, as_text
from moco_eval.suite.ledger import Ledger, Rerun
from moco_eval.suite.tasks import Refused, Task

RUN, DONE, PRETRAIN, CANNOT = "to run", "done", "to run, pretrained first", "cannot be run"
_STATES = {"ok": DONE, "failed": "failed", "preempted": "stopped"}
_HEADINGS = ("state", "protocol", "recipe", "data", "encoder", "seed", "time")


@dataclass(frozen=True)
class Line:
    """A cell as the plan shows it.

    Attributes:
        cell: Which.
        state: What is so far, or is to be.
        is_to_run: Whether it would be run.
        seconds: How long that would take; None where nothing like it was recorded.
        why: It cannot be run.
    """

    cell: Cell
    state: str
    is_to_run: bool
    seconds: float | None
    why: str = ""


def lines_of(
    known: Iterable[Task | Refused], unmade: Iterable[Cell], ledger: Ledger, rerun: Rerun
) -> list[Line]:
    """The plan.

    Args:
        known: The cells whose encoder is there.
        unmade: Those whose encoder is to be pretrained.
        ledger: What is recorded.
        rerun: Which cells are run again.
    """
    estimates = Estimates(ledger.heads)
    lines = []
    for each in known:
        if isinstance(each, Refused):
            lines.append(Line(each.cell, CANNOT, False, None, str(each.error)))
            continue
        run, state = each.run, _STATES.get(ledger.state(each.key), "")
        is_to_run = ledger.wants(each.key, rerun)
        if is_to_run:
            state = f"{RUN}, {state} before" if state else RUN
        seconds = estimates.of(Kind(run.protocol, run.recipe, run.dataset["id"]))
        lines.append(Line(each.cell, state, is_to_run, seconds))
    lines += [Line(cell, PRETRAIN, True, estimates.of(_kind(cell))) for cell in unmade]
    return lines


def describe(lines: Sequence[Line], *, num_at_once: int) -> str:
    """The plan as text: a row for each cell, the totals by protocol, and reasons."""
    rows = [
        (
            line.state,
            line.cell.protocol + (f" ({line.cell.engine})" if line.cell.engine != "auto" else ""),
            " ".join((line.cell.recipe, *line.cell.overrides)),
            line.cell.data,
            line.cell.name,
            line.cell.seed,
            as_text(line.seconds) if line.is_to_run else "",
        )
        for line in lines
    ]
    parts = [tabulate(rows, headers=_HEADINGS), _totals(lines, num_at_once)]
    reasons = Counter(line.why for line in lines if line.why)
    parts += [f"{number} cannot be run: {why}" for why, number in reasons.items()]
    return "\n\n".join(parts)


def _totals(lines: Sequence[Line], num_at_once: int) -> str:
    by_protocol: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        by_protocol[line.cell.protocol].append(line)
    rows = [(name, *_total(held)) for name, held in by_protocol.items()]
    rows.append(("all", *_total(lines)))
    table = tabulate(rows, headers=("protocol", "runs", "done", "failed", "to run", "time"))
    seconds = sum(line.seconds or 0 for line in lines if line.is_to_run) / num_at_once
    unknown = sum(line.seconds is None for line in lines if line.is_to_run)
    left_out = f", without {unknown} of which nothing like them was recorded" if unknown else ""
    return f"{table}\n\nWith {num_at_once} at once: about {as_text(seconds)}{left_out}."


def _total(lines: Sequence[Line]) -> tuple[int, int, int, int, str]:
    to_run = [line for line in lines if line.is_to_run]
    states = Counter(line.state for line in lines)
    known = [line.seconds for line in to_run if line.seconds is not None]
    time = as_text(sum(known)) if known or not to_run else "?"
    plus = " + ?" if known and len(known) < len(to_run) else ""
    return len(lines), states[DONE], states["failed"], len(to_run), time + plus


def _kind(cell: Cell) -> Kind:
    """What the cell's records would say, as far as that is known without its encoder."""
    name, recipe = recipe_of(cell)
    try:
        dataset = open_data(cell, recipe).id
    except UsageError:
        dataset = cell.data
    suffix = SUFFIX.get(cell.engine, "") if isinstance(recipe, DetectorRecipe) else ""
    return Kind(recipes.protocol_id(cell.protocol, recipe) + suffix, name, dataset)
