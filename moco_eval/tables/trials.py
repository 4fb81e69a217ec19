"""Trials are runs that differ by nothing but the seed: averaged here, and nothing else ever is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from moco_eval.errors import UsageError
from moco_eval.records import config_of, identity

Record = Mapping[str, Any]


class Place(NamedTuple):
    """What rows of a column share."""

    protocol: str
    version: int
    recipe: str
    dataset: str

    def __str__(self) -> str:
        return f"{self.protocol}@{self.version} {self.recipe} on {self.dataset}"


def place_of(record: Record) -> Place:
    """Where a record stands."""
    protocol = record["protocol"]
    return Place(protocol["id"], protocol["version"], protocol["recipe"], record["dataset"]["id"])


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One encoder under one protocol, recipe and data set, by one metric.

    Attributes:
        status: ``ok``, ``failed`` (no seed succeeded), ``preempted`` (none ended), ``not run`` or
            ``without`` (the runs did not measure this metric).
        by_seed: The metric in percent; empty where there is no number.
        deviations: In what the runs departed from their recipe.
        failed_seeds: Seeds that failed where others succeeded.
        preempted_seeds: Seeds that were preempted where others succeeded.
        delta: The mean's difference to the baseline's, in points; None where either is missing.
        is_best: Whether it is among the best of its column.
    """

    status: str
    by_seed: Mapping[int, float] = field(default_factory=dict)
    deviations: Mapping[str, Any] = field(default_factory=dict)
    failed_seeds: tuple[int, ...] = ()
    preempted_seeds: tuple[int, ...] = ()
    delta: float | None = None
    is_best: bool = False

    @property
    def values(self) -> tuple[float, ...]:
        """One a seed, in the order of the seeds, so that no sum depends on another one."""
        return tuple(self.by_seed.values())

    @cached_property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.by_seed else None

    @cached_property
    def sd(self) -> float | None:
        """The sample standard deviation (ddof 1); None for a single value."""
        return statistics.stdev(self.values) if len(self.by_seed) > 1 else None


def average(records: Sequence[Record], metric: str = "") -> Cell:
    """Make one cell of an encoder's records under one protocol, recipe and data set.

    Args:
        records: In the order they were written in: the newest success of a seed counts.
        metric: Its name; the primary one where empty.

    Raises:
        UsageError: If successful records differ by more than the seed.
    """
    done = succeeded(records)
    if not done:
        statuses = {record["status"] for record in records}
        return Cell(status=next((s for s in ("failed", "preempted") if s in statuses), "not run"))
    parts = [identity(record) for record in done.values()]
    first = next(iter(done.values()))
    _require_same(
        list(done.values()),
        parts,
        f"The records of encoder '{first['encoder']['id']}' under {_protocol(first)} cannot be"
        " averaged",
        "Runs that share a cell differ by nothing but the seed: give one of the two another encoder"
        " name, or keep it in another results folder.",
    )
    metric = metric or primary(first)[0]
    by_seed = {
        seed: record["metrics"][metric]["value"]
        for seed, record in sorted(done.items())
        if metric in record["metrics"]
    }
    return Cell(
        status="ok" if by_seed else "without",
        by_seed=by_seed,
        deviations=first["protocol"]["deviations"],
        failed_seeds=_lost(records, "failed", parts[0], done),
        preempted_seeds=_lost(records, "preempted", parts[0], done),
    )


def succeeded(records: Sequence[Record]) -> dict[int, Record]:
    """The newest success of each seed, of records in the order they were written in."""
    return {record["seed"]: record for record in records if record["status"] == "ok"}


def _lost(
    records: Sequence[Record], status: str, own: Mapping[str, Any], done: Mapping[int, Record]
) -> tuple[int, ...]:
    """The seeds that only ended so, of runs of the same cell."""
    newest = {r["seed"]: r for r in records if r["seed"] not in done and identity(r) == own}
    return tuple(sorted(seed for seed, r in newest.items() if r["status"] == status))


def require_comparable(records: Sequence[Record]) -> None:
    """Check that successful records of several encoders may stand in one column.

    They share the data, the primary metric and the recipe's numbers, but for recorded deviations.

    Raises:
        UsageError: If they do not.
    """
    deviating = {key for record in records for key in record["protocol"]["deviations"]}
    shared = [
        {
            "dataset.fingerprint": record["dataset"]["fingerprint"],
            "primary metric": primary(record)[0],
            "config": {k: v for k, v in config_of(record).items() if k not in deviating},
        }
        for record in records
    ]
    _require_same(
        records,
        shared,
        f"The rows under {_protocol(records[0])} cannot be compared",
        "Evaluate the encoders on the same data with the same recipe, or keep the two in different"
        " results folders.",
    )


def primary(record: Record) -> tuple[str, dict[str, Any]]:
    """The name of a record's primary metric, and what is known of it."""
    return next((name, facts) for name, facts in record["metrics"].items() if facts["primary"])


def _protocol(record: Record) -> str:
    protocol = record["protocol"]
    return f"{protocol['id']}@{protocol['version']} on {record['dataset']['id']}"


def _require_same(
    records: Sequence[Record], parts: Sequence[Mapping[str, Any]], complaint: str, advice: str
) -> None:
    """Refuse the first field in which the ``parts`` of ``records`` differ, with both values."""
    first = _by_field(parts[0])
    for record, part in zip(records, parts, strict=True):
        if part == parts[0]:
            continue
        other = _by_field(part)
        for name in sorted(first.keys() | other.keys()):
            one, two = first.get(name, "absent"), other.get(name, "absent")
            if one != two:
                raise UsageError(
                    f"{complaint}: {name} is {one!s:.40} in {records[0]['name']} (encoder"
                    f" '{records[0]['encoder']['id']}') and {two!s:.40} in {record['name']}"
                    f" (encoder '{record['encoder']['id']}'). {advice}"
                )


def _by_field(part: Mapping[str, Any]) -> dict[str, Any]:
    config = {f"config.{key}": value for key, value in part["config"].items()}
    return {**{key: value for key, value in part.items() if key != "config"}, **config}
