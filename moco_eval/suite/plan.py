"""A suite as its TOML file says it: encoders, and the runs that each of them goes through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from moco_eval.encoders.hints import NO_HINTS, Hints
from moco_eval.errors import UsageError, unknown
from moco_eval.strict_toml import Section, read_toml

HINTS = tuple(field.name for field in fields(Hints))
CHECKPOINT = "checkpoint.pth.tar"

# Suites that come with the program, beside the package in a checkout and inside it where installed.
_SHIPPED = (Path(__file__).parent.parent / "suites", Path(__file__).parent.parent.parent / "suites")


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """How ``moco-pretrain`` makes an encoder that is not there yet.

    Attributes:
        recipe: Of ``moco-pretrain``.
        data: What it trains on.
        output: Its folder.
        num_threads: Of the process: on another number of them sums are rounded otherwise, and the
            checkpoint has other bytes.
        seed: What every random draw is keyed by.
        overrides: Deviations from the recipe.
    """

    recipe: str
    data: str
    output: Path
    num_threads: int = 1
    seed: int = 0
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SuiteEncoder:
    """One row: what tables call it, what ``load_encoder`` takes, and how it is made if missing."""

    name: str
    spec: str
    hints: Hints = NO_HINTS
    pretraining: Pretraining | None = None


@dataclass(frozen=True, kw_only=True)
class SuiteRun:
    """One column: a protocol with its recipe on one data set, for each of the seeds.

    Attributes:
        protocol: A protocol module's name.
        data: A name of the suite's ``[data]``, or what the catalogue opens.
        recipe: The protocol's default where empty.
        task: Of segmentation: ``instance`` or ``semantic``.
        seeds: One run each.
        overrides: Deviations from the recipe.
        engine: Who trains the detector; ``all`` is each that is installed.
        include: Names of the encoders that go through it; all where empty.
        exclude: Names of those that do not.
        note: For people, such as the table of a paper that has the published number.
    """

    protocol: str
    data: str
    recipe: str = ""
    task: str = ""
    seeds: tuple[int, ...] = (0,)
    overrides: tuple[str, ...] = ()
    engine: str = "auto"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    note: str = ""

    def takes(self, encoder: str) -> bool:
        """Whether the encoder of this name goes through it."""
        return (not self.include or encoder in self.include) and encoder not in self.exclude


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What a suite's file says.

    Attributes:
        path: The file.
        name: Of the suite.
        description: For people.
        data: Data specifications by the names that runs use; empty ones the user must give.
        encoders: The rows.
        runs: The columns.
    """

    path: Path
    name: str
    description: str
    data: dict[str, str]
    encoders: tuple[SuiteEncoder, ...]
    runs: tuple[SuiteRun, ...]


def find(name: str) -> Path:
    """The file of the suite that ``name`` names: a path, or one that comes with the program.

    Raises:
        UsageError: If there is none; the nearest name is offered.
    """
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        return path
    shipped = {file.stem: file for folder in _SHIPPED for file in sorted(folder.glob("*.toml"))}
    if name not in shipped:
        raise unknown("suite", name, shipped)
    return shipped[name]


def read(path: Path) -> Suite:
    """The suite in ``path``.

    Raises:
        UsageError: If something in it is wrong: with the file, the table and the key.
    """
    known = ("name", "description", "data", "encoders", "runs")
    top = Section(path.name, read_toml(path), known)
    asked = ("name", "encoder", "pretrain", *HINTS)
    encoders = tuple(_encoder(section) for section in top.sections("encoders", asked))
    runs = tuple(_run(section) for section in top.sections("runs", _RUN_KEYS))
    names = [encoder.name for encoder in encoders]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{path.name}: {names.count(name)} encoders are called '{name}'.")
    for section, run in zip(top.sections("runs", _RUN_KEYS), runs, strict=True):
        for name in (*run.include, *run.exclude):
            if name not in names:
                raise UsageError(f"{section.where}: {unknown('encoder of the suite', name, names)}")
    if not runs:
        raise UsageError(f"{path.name} has no [[runs]], so there is nothing to run.")
    return Suite(
        path=path,
        name=top.text("name", path.stem),
        description=top.text("description", ""),
        data=top.mapping("data"),
        encoders=encoders,
        runs=runs,
    )


def with_data(suite: Suite, given: Sequence[str]) -> Suite:
    """The suite with data that ``NAME=SPEC`` of the command line give.

    Raises:
        UsageError: If one is of another form, or names nothing of the suite's ``[data]``.
    """
    data = dict(suite.data)
    for text in given:
        name, equals, spec = text.partition("=")
        if not equals or not spec:
            raise UsageError(f"--data takes NAME=SPEC, found '{text}'.")
        if name not in data:
            raise UsageError(f"{suite.path.name}: {unknown('data', name, data)}")
        data[name] = spec
    return replace(suite, data=data)


def with_encoders(suite: Suite, given: Sequence[str]) -> Suite:
    """The suite with encoders that ``NAME=SPEC`` of the command line add or replace."""
    encoders = {encoder.name: encoder for encoder in suite.encoders}
    for text in given:
        name, equals, spec = text.partition("=")
        encoders[name] = SuiteEncoder(name=name, spec=spec if equals else text)
    return replace(suite, encoders=tuple(encoders.values()))


def only(suite: Suite, *, encoders: Sequence[str], protocols: Sequence[str]) -> Suite:
    """The part of the suite with these encoders and protocols; empty sequences leave all.

    Raises:
        UsageError: If it has none of such a name.
    """
    _refuse_strangers("encoder", encoders, [each.name for each in suite.encoders])
    _refuse_strangers("protocol", protocols, [each.protocol for each in suite.runs])
    return replace(
        suite,
        encoders=tuple(e for e in suite.encoders if not encoders or e.name in encoders),
        runs=tuple(r for r in suite.runs if not protocols or r.protocol in protocols),
    )


def _refuse_strangers(kind: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise unknown(f"{kind} of the suite called", name, set(known))


def _encoder(section: Section) -> SuiteEncoder:
    hints = Hints(**{key: section.text(key) for key in HINTS if key in section})
    pretraining = _pretraining(section) if "pretrain" in section else None
    made = str(pretraining.output / CHECKPOINT) if pretraining else None
    return SuiteEncoder(
        name=section.text("name"),
        spec=section.text("encoder", made),
        hints=hints,
        pretraining=pretraining,
    )


def _pretraining(section: Section) -> Pretraining:
    keys = ("recipe", "data", "output", "num_threads", "seed", "set")
    asked = section.section("pretrain", keys)
    return Pretraining(
        recipe=asked.text("recipe"),
        data=asked.text("data"),
        output=Path(asked.text("output")),
        num_threads=asked.number("num_threads", 1, least=1),
        seed=asked.number("seed", 0),
        overrides=asked.texts("set"),
    )


_RUN_KEYS = (
    *("protocol", "recipe", "task", "data", "seeds", "trials", "once", "set", "engine"),
    *("include", "exclude", "note"),
)


def _run(section: Section) -> SuiteRun:
    return SuiteRun(
        protocol=section.text("protocol"),
        data=section.text("data"),
        recipe=section.text("recipe", ""),
        task=section.text("task", ""),
        seeds=_seeds(section),
        overrides=section.texts("set"),
        engine=section.text("engine", "auto"),
        include=section.texts("include"),
        exclude=section.texts("exclude"),
        note=section.text("note", ""),
    )


def _seeds(section: Section) -> tuple[int, ...]:
    """Which seeds: a list, the first so many, or the one of what draws nothing."""
    said = [key for key in ("seeds", "trials", "once") if key in section]
    if len(said) > 1:
        raise section.wrong(" and ".join(said), "say the same in different ways: keep one")
    if section.flag("once") or not said:
        return (0,)
    if "trials" in section:
        return tuple(range(section.number("trials", least=1)))
    seeds = section.numbers("seeds")
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise section.wrong("seeds", f"is {list(seeds)}, and should be different numbers from 0 on")
    return seeds
