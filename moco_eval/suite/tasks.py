"""What a suite asks for, cell by cell, in the order that gives the first numbers early."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from moco_eval import records
from moco_eval.cell import Cell, identify, recipe_of
from moco_eval.encoders.hints import Hints
from moco_eval.engines import SUFFIX, has_detectron2, require_engine
from moco_eval.engines.recipe import Recipe as DetectorRecipe
from moco_eval.errors import CheckpointError, UsageError
from moco_eval.resources import PLAIN, Resources
from moco_eval.segment import recipe_of as recipe_of_task
from moco_eval.suite.plan import Suite, SuiteEncoder, SuiteRun
from moco_eval.suite.running import work_folder

# By what a run does: reading features off, fitting a probe, training a network, training a
# detector. Variants that train the whole network are as slow as fine-tuning.
SPEED = ("knn", "linear", "svm", "lowshot", "finetune", "segment", "detect")


@dataclass(frozen=True, eq=False)
class Task:
    """A cell that was opened, so that it is known what it is. Each is equal to itself alone.

    Attributes:
        cell: What to run.
        run: Its identity.
        key: Its hash.
    """

    cell: Cell
    run: records.Run
    key: str

    @property
    def folder(self) -> Path:
        """Where it leaves what is no result, below the work folder.

        Of its own for each content: what another checkpoint of that name left does not mix in.
        """
        return work_folder(self.cell) / self.key[:12]


@dataclass(frozen=True)
class Refused:
    """A cell that cannot be run, and why."""

    cell: Cell
    error: UsageError | OSError


def label(cell: Cell) -> str:
    """The cell in a line: ``linear lbfgs digits, MoCo v2, seed 0``."""
    engine = "" if cell.engine == "auto" else f" {cell.engine}"
    what = " ".join(filter(None, (cell.protocol, cell.recipe, *cell.overrides)))
    return f"{what}{engine} on {cell.data}, {cell.name or cell.encoder}, seed {cell.seed}"


def cells_of(
    suite: Suite, *, device: str = "auto", resources: Resources = PLAIN
) -> tuple[list[Cell], list[str]]:
    """The suite's cells, the quick ones first, and of these the first seeds.

    Returns:
        The cells; and a sentence for each run that is left out as its engine is not installed.

    Raises:
        UsageError: If a run names a protocol, recipe, key, engine or data that there is not.
    """
    found: list[tuple[tuple[int, ...], Cell]] = []
    left_out = []
    for number, run in enumerate(suite.runs):
        cell, rank = _first_cell(suite, run, device=device, resources=resources)
        engines, absent = _engines(suite, run, cell)
        left_out += [
            f"{run.protocol} {cell.recipe} on {name} is left out: it is not installed (moco-eval "
            "doctor says how)."
            for name in absent
        ]
        for order, encoder in enumerate(each for each in suite.encoders if run.takes(each.name)):
            for engine in engines:
                for place, seed in enumerate(run.seeds):
                    mine = _for(cell, encoder, seed=seed, engine=engine)
                    found.append(((rank, place, number, order), mine))
    found.sort(key=lambda pair: pair[0])
    return list(dict.fromkeys(cell for _, cell in found)), left_out


def identified(cells: Iterable[Cell]) -> list[Task | Refused]:
    """Each cell with its identity, or why it has none, in the same order."""
    cells = list(cells)
    # An encoder is opened once, whatever the order in which its cells run.
    by_encoder = sorted(range(len(cells)), key=lambda i: (cells[i].encoder, str(cells[i].hints)))
    found: dict[int, Task | Refused] = {}
    unreadable: dict[tuple[str, Hints], CheckpointError] = {}
    for number in by_encoder:
        cell = cells[number]
        encoder = (cell.encoder, cell.hints)
        try:
            if encoder in unreadable:  # it may have been asked for over a network
                raise unreadable[encoder]
            run = identify(cell)
        except UsageError as error:
            found[number] = Refused(cell, error)
            if isinstance(error, CheckpointError):
                unreadable[encoder] = error
        else:
            found[number] = Task(cell, run, run.key())
    return [found[number] for number in range(len(cells))]


def _first_cell(
    suite: Suite, run: SuiteRun, *, device: str, resources: Resources
) -> tuple[Cell, int]:
    """The run for no encoder yet, and how slow it is."""
    where = f"{suite.path.name}, {run.protocol} on {run.data}"
    spec = suite.data.get(run.data, run.data)
    if not spec:
        raise UsageError(f"{where}: say which data that is: --data {run.data}=SPEC")
    try:
        recipe = recipe_of_task(run.task, run.recipe) if run.protocol == "segment" else run.recipe
        cell = Cell(
            protocol=run.protocol,
            encoder="",
            data=spec,
            recipe=recipe,
            overrides=run.overrides,
            device=device,
            resources=resources,
        )
        # The default recipe by its name, so that it shows.
        name, numbers = recipe_of(cell)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    if run.task and run.protocol != "segment":
        raise UsageError(f"{where}: task is for segment alone.")
    is_trained = getattr(numbers, "variant", "") == "finetune"
    return replace(cell, recipe=name), SPEED.index("finetune" if is_trained else run.protocol)


def _engines(suite: Suite, run: SuiteRun, cell: Cell) -> tuple[list[str], list[str]]:
    """The engines that the run is for: those that are here, and those that are not installed."""
    if not isinstance(recipe_of(cell)[1], DetectorRecipe):
        if run.engine != "auto":
            raise UsageError(f"{suite.path.name}: {run.protocol} {cell.recipe} has no engine.")
        return ["auto"], []
    if run.engine != "all":
        require_engine(run.engine)
    asked = list(SUFFIX) if run.engine == "all" else [run.engine]
    absent = [name for name in asked if name == "detectron2" and not has_detectron2()]
    return [name for name in asked if name not in absent], absent


def _for(cell: Cell, encoder: SuiteEncoder, *, seed: int, engine: str) -> Cell:
    return replace(
        cell,
        encoder=encoder.spec,
        name=encoder.name,
        hints=encoder.hints,
        seed=seed,
        engine=engine,
    )
