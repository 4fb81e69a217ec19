"""Records of one encoder under one protocol, averaged over their seeds: a line of its section."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moco_eval.records import identity
from moco_eval.tables import PROTOCOLS

Record = Mapping[str, Any]

# What a run cost, by the field of ``time``: what it is called, and how it is printed.
COSTS = {
    "wall_s": "wall time",
    "device_s": "device time",
    "peak_memory_mib": "peak memory",
    "peak_device_memory_mib": "peak device memory",
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One metric over seeds, in percent.

    Attributes:
        mean: Over the seeds.
        sd: The sample standard deviation; None of a single one.
        higher_better: Its direction.
    """

    name: str
    mean: float
    sd: float | None
    higher_better: bool


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Successful runs that differ by nothing but the seed; of each seed the newest.

    Attributes:
        runs: Their records, by seed.
        metrics: The primary one first.
        costs: Means of what ``COSTS`` names, without those that no record has.
    """

    runs: tuple[Record, ...]
    metrics: tuple[Measured, ...]
    costs: Mapping[str, float]

    @property
    def encoder(self) -> str:
        """The encoder's name."""
        return str(self.runs[0]["encoder"]["id"])

    @property
    def column(self) -> tuple[str, int, str, str, str, str]:
        """What encoders must share to be compared: protocol, version, recipe, data, metric."""
        protocol, dataset = self.runs[0]["protocol"], self.runs[0]["dataset"]
        where = (dataset["id"], dataset["fingerprint"])
        return protocol["id"], protocol["version"], protocol["recipe"], *where, self.primary.name

    @property
    def task(self) -> str:
        """What pictures call the column, in two lines."""
        protocol, version, recipe, dataset, _, metric = self.column
        return f"{protocol}@{version} {recipe}\n{dataset} {metric}"

    @property
    def label(self) -> str:
        """``linear-lbfgs@1 lbfgs on digits``."""
        protocol, version, recipe, dataset, *_ = self.column
        return f"{protocol}@{version} {recipe} on {dataset}"

    @property
    def primary(self) -> Measured:
        """The metric that tables show."""
        return self.metrics[0]

    @property
    def deviations(self) -> Mapping[str, Any]:
        """In what the runs departed from their recipe."""
        departures: Mapping[str, Any] = self.runs[0]["protocol"]["deviations"]
        return departures

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the runs."""
        return tuple(run["seed"] for run in self.runs)


def summarize(records: Iterable[Record]) -> list[Summary]:
    """Every encoder's successful runs, protocol by protocol in the order of tables.

    Args:
        records: Oldest first.
    """
    groups: dict[str, dict[int, Record]] = defaultdict(dict)
    for record in records:
        if record["status"] == "ok" and record["metrics"]:
            same = json.dumps({"id": record["encoder"]["id"]} | identity(record), sort_keys=True)
            groups[same][record["seed"]] = record
    found = [_summary([runs[seed] for seed in sorted(runs)]) for runs in groups.values()]
    return sorted(found, key=lambda each: reading_order(each.column))


def reading_order(column: Sequence[Any]) -> tuple[Any, ...]:
    """Known protocols as tables have them, then the others by name."""
    known = column[0] in PROTOCOLS
    return (PROTOCOLS.index(column[0]) if known else len(PROTOCOLS), *column)


def _summary(runs: Sequence[Record]) -> Summary:
    facts = runs[0]["metrics"]
    names = sorted(facts, key=lambda name: (not facts[name]["primary"], name))
    metrics = []
    for name in names:
        values = [run["metrics"][name]["value"] for run in runs if name in run["metrics"]]
        if any(value is None for value in values):
            continue
        sd = statistics.stdev(values) if len(values) > 1 else None
        direction = facts[name].get("higher_better", True)
        mean = statistics.fmean(values)
        metrics.append(Measured(name=name, mean=mean, sd=sd, higher_better=direction))
    costs = {}
    for name in COSTS:
        known = [run["time"][name] for run in runs if run["time"].get(name) is not None]
        if known:
            costs[name] = statistics.fmean(known)
    return Summary(runs=tuple(runs), metrics=tuple(metrics), costs=costs)
