"""Trials are runs that differ by nothing but the seed: averaged here, and nothing else ever is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moco_eval.errors import UsageError
from moco_eval.records import config_of, identity

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One encoder under one protocol, recipe and data set.

    Attributes:
        status: ``ok``, ``failed`` (no seed succeeded), ``preempted`` (none ended) or ``not run``.
        values: The primary metric in percent, one value a seed.
        deviations: In what the runs departed from their recipe.
        failed_seeds: Seeds that failed where others succeeded.
        delta: The mean's difference to the baseline's, in points; None where either is missing.
    """

    status: str
    values: tuple[float, ...] = ()
    deviations: Mapping[str, Any] = field(default_factory=dict)
    failed_seeds: tuple[int, ...] = ()
    delta: float | None = None

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """The sample standard deviation (ddof 1); None for a single value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def average(records: Sequence[Record]) -> Cell:
    """Make one cell of an encoder's records under one protocol, recipe and data set.

    The newest success of a seed counts, so the records come in the order they were written in.

    Raises:
        UsageError: If successful records differ by more than the seed.
    """
    done = [record for record in records if record["status"] == "ok"]
    if not done:
        statuses = {record["status"] for record in records}
        return Cell(status=next((s for s in ("failed", "preempted") if s in statuses), "not run"))
    _require_same(
        done,
        [identity(record) for record in done],
        f"The records of encoder '{done[0]['encoder']['id']}' under {_protocol(done[0])} cannot be"
        " averaged",
        "Runs that share a cell differ by nothing but the seed: give one of the two another encoder"
        " name, or keep it in another results folder.",
    )
    by_seed = {record["seed"]: primary(record)[1]["value"] for record in done}
    failed = {
        record["seed"]
        for record in records
        if record["status"] == "failed" and identity(record) == identity(done[0])
    }
    return Cell(
        status="ok",
        values=tuple(by_seed[seed] for seed in sorted(by_seed)),
        deviations=done[0]["protocol"]["deviations"],
        failed_seeds=tuple(sorted(failed - by_seed.keys())),
    )


def require_comparable(records: Sequence[Record]) -> None:
    """Check that successful records of several encoders may stand in one column.

    They share the data, the metric and the recipe's numbers, but for recorded deviations.

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
